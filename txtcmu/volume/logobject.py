"""The objects of the log: their headers, encoded and decoded (docs/volume-format.md, "Log objects").

A header says, for each block that the object touches, whether it holds the block's data or makes it a hole, as it
stood when the batch was closed; each block at most once, in order.  One object is one atomic step of the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.slots import MAX_SLOTS, SLOT

__all__ = [
    "ENTRY",
    "Header",
    "Kind",
    "Run",
    "decode_header",
    "encode_header",
    "header_bytes_needed",
    "header_slots",
    "seal",
]

MAGIC: Final = b"txtcmu\x00L"
VERSION: Final = 1

# magic, version, kind, cipher, codec, pad; UUID; nonce of the writer; epoch, slots of the header; seq, size;
# entries, slots of data; journal reached; CRC-32, pad; tag of an authenticated header (zero without a cipher).
_FIXED: Final = Struct("<8sHBBB3x16s16sIIQQIIQI4x16s")
_CRC_AT: Final = 88

#: One run of blocks: address of the first, how many, and the slot of the first; slot 0 makes the run a hole.
ENTRY: Final = np.dtype([("block", "<u8"), ("count", "<u4"), ("slot", "<u4")])

NO_CIPHER: Final = 0
NO_CODEC: Final = 0
NO_TAG: Final = bytes(16)


class Kind(IntEnum):
    """What an object of the log is."""

    DATA = 1
    #: The end of an epoch: whoever finds it where he meant to write is not the writer any more.
    SEAL = 2


@frozen
class Run:
    """``count`` blocks from ``block`` on: in the slots from ``slot`` on, or a hole when that is 0."""

    block: int
    count: int
    slot: int


@frozen(eq=False)
class Header:
    """The header of an object of the log.

    :ivar nonce: random bytes of the writer's life that wrote it: how it knows its own after a lost reply.
    :ivar entries: an array of :data:`ENTRY`, sorted by block and without overlap.
    :ivar data_slots: how many slots hold blocks.
    :ivar journal_reached: the newest record of the writer's journal that this object and its predecessors hold.
    """

    uuid: UUID
    epoch: int
    seq: int
    nonce: bytes
    kind: Kind
    entries: NDArray[Any]
    data_slots: int
    journal_reached: int = 0

    @property
    def slots(self) -> int:
        """How many slots the header itself takes."""
        return header_slots(len(self.entries))

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return (self.slots + self.data_slots) * SLOT

    def runs(self) -> Iterable[Run]:
        """Return the entries one by one."""
        return (Run(*map(int, entry)) for entry in self.entries)


def header_slots(entries: int) -> int:
    """Return how many slots a header with so many entries takes."""
    return -(-(_FIXED.size + entries * ENTRY.itemsize) // SLOT)


def encode_header(header: Header) -> bytes:
    """Return the header, padded to whole slots."""
    entries = header.entries.tobytes()
    fixed = _pack(header, 0)
    crc = crc32(entries, crc32(fixed))
    return (_pack(header, crc) + entries).ljust(header.slots * SLOT, b"\0")


def _pack(header: Header, crc: int) -> bytes:
    return _FIXED.pack(
        MAGIC,
        VERSION,
        header.kind,
        NO_CIPHER,
        NO_CODEC,
        header.uuid.bytes,
        header.nonce,
        header.epoch,
        header.slots,
        header.seq,
        header.size,
        len(header.entries),
        header.data_slots,
        header.journal_reached,
        crc,
        NO_TAG,
    )


def header_bytes_needed(start: bytes) -> int:
    """Return how many bytes of the header that ``start`` begins say something, at least its fixed part.

    :raise Damaged: it is none.
    """
    magic, *_, count, _, _, _, _ = _fixed_part(start)
    if magic != MAGIC or header_slots(count) > MAX_SLOTS:
        raise Damaged("it does not begin with a header")
    return _FIXED.size + int(count) * ENTRY.itemsize


def decode_header(data: bytes, uuid: UUID, epoch: int, seq: int, size: int) -> Header:
    """Return the header of the object of that name.

    :param data: at least what the header says, see :func:`header_bytes_needed`.
    :param size: bytes of the whole object, as the store tells it.
    :raise Damaged: this is not what was written there.
    :raise FormatTooNew: it was written by a later txtcmu.
    """
    fields = _fixed_part(data)
    magic, version, kind, cipher, codec, found_uuid, nonce, found_epoch, slots = fields[:9]
    found_seq, found_size, count, data_slots, journal_reached, crc, _ = fields[9:]
    if magic != MAGIC:
        raise Damaged("it does not begin with a header")
    end = _FIXED.size + count * ENTRY.itemsize
    if len(data) < end:
        raise Damaged("its header is cut short")
    if crc32(data[_FIXED.size : end], crc32(data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 : _FIXED.size])) != crc:
        raise Damaged("its header has a wrong checksum")
    if version > VERSION or cipher != NO_CIPHER or codec != NO_CODEC or kind not in iter(Kind):
        raise FormatTooNew(f"format {version}, kind {kind}, cipher {cipher}, codec {codec}")
    if (found_uuid, found_epoch, found_seq) != (uuid.bytes, epoch, seq):
        raise Damaged(f"it is object {found_seq} of epoch {found_epoch} of volume {UUID(bytes=found_uuid)}")
    entries = np.frombuffer(data, ENTRY, count, _FIXED.size)
    header = Header(uuid, epoch, seq, nonce, Kind(kind), entries, data_slots, journal_reached)
    if found_size != size or header.size != size or slots != header.slots:
        raise Damaged(f"it has {size} bytes instead of {found_size}")
    _check_entries(header)
    return header


def _fixed_part(data: bytes) -> tuple[Any, ...]:
    if len(data) < _FIXED.size:
        raise Damaged("it is too short for a header")
    return _FIXED.unpack_from(data)


def _check_entries(header: Header) -> None:
    """Refuse entries that no writer writes.  :raise Damaged: in spite of the checksum."""
    entries = header.entries
    if not len(entries):
        if header.data_slots:
            raise Damaged("it has slots without entries")
        return
    blocks, counts, slots = entries["block"], entries["count"].astype(np.uint64), entries["slot"]
    ends = blocks + counts
    if not counts.all() or (ends < blocks).any() or (ends[:-1] > blocks[1:]).any():
        raise Damaged("its entries overlap, or are not in order")
    stored = slots > 0
    counts = counts[stored]
    last = counts.cumsum()
    if (slots[stored] != last - counts + np.uint64(header.slots)).any() or counts.sum() != header.data_slots:
        raise Damaged("its entries do not fit its slots")


def seal(uuid: UUID, epoch: int, seq: int, nonce: bytes) -> Header:
    """Return the header of a seal: all of it that there is."""
    return Header(uuid, epoch, seq, nonce, Kind.SEAL, np.zeros(0, ENTRY), 0)
