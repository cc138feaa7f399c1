"""Slots, their trailers, and the 64 bits that say where a block of the disk is stored.

An object of the log is a row of slots of :data:`SLOT` bytes.  The first of them hold its header, each of the others
holds one block of the disk and a trailer, which proves that this is what was written, and that it is the slot, the
object and the block that was asked for.  So a block can be read and verified without the header.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "HOLE",
    "SLOT",
    "SPOILED",
    "Locations",
    "SlotSeal",
    "location",
    "seq_of",
    "seqs_of",
    "slot_of",
]

#: Bytes of the disk in a slot: the block of the map.
BLOCK: Final = 4096
TRAILER: Final = 16
#: Bytes of a slot: a block and its trailer.
SLOT: Final = BLOCK + TRAILER

#: The trailer of a block that was damaged before it was written, and still is: no trailer ends in anything but zeroes.
SPOILED: Final = b"\xff" * TRAILER

Locations = NDArray[np.uint64]

#: The location of a block that was never written, or was discarded: slot 0 always belongs to a header.
HOLE: Final = 0

MAX_SEQ: Final = (1 << 40) - 1
MAX_SLOTS: Final = 1 << 16

_SLOT_BITS: Final = 16
_SEQ_MASK: Final = MAX_SEQ
_SLOT_MASK: Final = MAX_SLOTS - 1

_OBJECT: Final = Struct("<16sIQ")
_PLACE: Final = Struct("<IQ")
_TRAILER: Final = Struct("<I12x")


def location(seq: int, slot: int) -> int:
    """Return the location of a slot: 8 bits origin (0, the volume itself), 40 bits sequence number, 16 bits slot."""
    return seq << _SLOT_BITS | slot


def seq_of(where: int) -> int:
    """Return the sequence number of the object that a location is in."""
    return where >> _SLOT_BITS & _SEQ_MASK


def slot_of(where: int) -> int:
    """Return the slot of a location."""
    return where & _SLOT_MASK


def seqs_of(where: Locations) -> NDArray[Any]:
    """Return the sequence numbers of locations."""
    return where >> np.uint64(_SLOT_BITS) & np.uint64(_SEQ_MASK)


class SlotSeal:
    """Makes and checks the trailers of one object's slots (format 1: CRC-32, then 12 bytes of zeroes).

    The checksum is over UUID, epoch, sequence number, slot, block address, and then the block: a slot that was read
    from another place, or that belongs to another life of the same name, does not pass.
    """

    def __init__(self, uuid: UUID, epoch: int, seq: int) -> None:
        self._base = crc32(_OBJECT.pack(uuid.bytes, epoch, seq))

    def trailer(self, slot: int, block: int, data: Any) -> bytes:
        """Return the trailer of ``slot``.

        :param block: its address on the disk, in blocks; ``data``: its bytes.
        """
        return _TRAILER.pack(crc32(data, crc32(_PLACE.pack(slot, block), self._base)))

    def intact(self, slot: int, block: int, stored: Any) -> bool:
        """Tell whether ``stored``, a whole slot, is what was written there."""
        return len(stored) == SLOT and bytes(stored[BLOCK:]) == self.trailer(slot, block, stored[:BLOCK])
