"""The root of a checkpoint: where each leaf of the map is stored, and every object there is (docs/volume-format.md).

Leaves are stored in the parts of this checkpoint or of earlier ones, each with a trailer of its own.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.head import Epoch
from txtcmu.volume.inventory import RECORD

__all__ = ["LEAF", "PART", "Root"]

MAGIC: Final = b"txtcmu\x00C"
VERSION: Final = 1

#: Where a leaf is stored: its number, which of the parts below, and the byte there.
LEAF: Final = np.dtype([("leaf", "<u4"), ("part", "<u4"), ("offset", "<u8")])
#: A part that leaves are in: the checkpoint that wrote it, its number there, its bytes.
PART: Final = np.dtype([("seq", "<u8"), ("epoch", "<u4"), ("part", "<u4"), ("size", "<u8")])
_EPOCH: Final = np.dtype([("first", "<u8"), ("number", "<u4"), ("reserved", "<u4")])

# magic, version, cipher, pad; UUID; epoch, blocks of a leaf, seq, bytes of the disk, journal reached; then how many
# leaves, parts, objects, epochs; CRC-32, pad; tag.
_FIXED: Final = Struct("<8sHB5x16sIIQQQIIIII4x16s")
_CRC_AT: Final = _FIXED.size - 24


@frozen(eq=False)
class Root:
    """The root of the checkpoint at ``seq``: the disk after all objects up to that one.

    :ivar epoch: of the writer that made it.
    :ivar size: bytes of the disk.
    :ivar leaves: an array of :data:`LEAF`, and :ivar parts: one of :data:`PART`.
    :ivar objects: every object of the log, an array of :data:`~txtcmu.volume.inventory.RECORD`; one without live blocks
        may have been deleted already.
    :ivar epochs: whose objects those are.
    """

    uuid: UUID
    epoch: int
    seq: int
    size: int
    leaf_blocks: int
    leaves: NDArray[Any]
    parts: NDArray[Any]
    objects: NDArray[Any]
    epochs: tuple[Epoch, ...]
    journal_reached: int = 0

    def encode(self) -> bytes:
        """Return what is stored."""
        epochs = np.array([(epoch.first, epoch.number, 0) for epoch in self.epochs], _EPOCH)
        arrays = b"".join(array.tobytes() for array in (self.leaves, self.parts, self.objects, epochs))
        return self._pack(crc32(arrays, crc32(self._pack(0)))) + arrays

    def _pack(self, crc: int) -> bytes:
        return _FIXED.pack(
            MAGIC,
            VERSION,
            0,
            self.uuid.bytes,
            self.epoch,
            self.leaf_blocks,
            self.seq,
            self.size,
            self.journal_reached,
            len(self.leaves),
            len(self.parts),
            len(self.objects),
            len(self.epochs),
            crc,
            bytes(16),
        )

    @classmethod
    def decode(cls, data: bytes, uuid: UUID, epoch: int, seq: int) -> Root:
        """Return the root of that name.

        :raise Damaged: this is not what was written there.
        :raise FormatTooNew: it was written by a later txtcmu.
        """
        if len(data) < _FIXED.size:
            raise Damaged("it is too short for the root of a checkpoint")
        fields = _FIXED.unpack_from(data)
        magic, version, cipher, found_uuid, found_epoch, leaf_blocks, found_seq, size, journal, *counts, crc, _ = fields
        if magic != MAGIC:
            raise Damaged("it does not begin as the root of a checkpoint")
        if crc32(data[_FIXED.size :], crc32(data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 : _FIXED.size])) != crc:
            raise Damaged("it has a wrong checksum")
        if version > VERSION or cipher:
            raise FormatTooNew(f"checkpoint format {version}, cipher {cipher}")
        if (found_uuid, found_epoch, found_seq) != (uuid.bytes, epoch, seq):
            raise Damaged(f"it is of checkpoint {found_seq} of epoch {found_epoch}")
        arrays, at = [], _FIXED.size
        for dtype, count in zip((LEAF, PART, RECORD, _EPOCH), counts, strict=True):
            if len(data) < at + count * dtype.itemsize:
                raise Damaged("it is cut short")
            arrays.append(np.frombuffer(data, dtype, count, at))
            at += count * dtype.itemsize
        leaves, parts, objects, epochs = arrays
        if len(leaves) and (leaves["part"] >= len(parts)).any():
            raise Damaged("it names a part that it does not have")
        chain = tuple(Epoch(int(number), int(first)) for first, number, _ in epochs)
        return cls(uuid, epoch, seq, size, leaf_blocks, leaves, parts, objects, chain, journal)
