"""WRITE SAME (SBC-4): what it asks for, and its limit."""

from __future__ import annotations

from typing import Final, NamedTuple

from txtcmu.scsi.cdb import PROTECT, check_range
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["WriteSame", "maximum_write_same_length", "write_same"]

_ANCHOR: Final = 0x10
_UNMAP: Final = 0x08
# Obsolete: addresses in the data.  Who asks for them must not get plain data instead.
_PBDATA: Final = 0x04
_LBDATA: Final = 0x02
# As much as storage of any kind can be expected to write before the initiator loses patience.
_MAXIMUM_BYTES: Final = 32 << 20


class WriteSame(NamedTuple):
    """What WRITE SAME asks for: the same block everywhere in ``blocks`` blocks from ``lba`` on.

    :ivar unmap: these may be given back if they read as that block then (UNMAP).
    :ivar sent: whether that block is sent; else it is zeroes (NDOB).
    """

    lba: int
    blocks: int
    unmap: bool
    sent: bool


def maximum_write_same_length(unit: LogicalUnit) -> int:
    """Return MAXIMUM WRITE SAME LENGTH of VPD page B0h, in blocks."""
    return max(1, _MAXIMUM_BYTES // unit.block_size)


def write_same(unit: LogicalUnit, row: Opcode, cdb: bytes) -> WriteSame:
    """Decode WRITE SAME (10) and (16) (SBC-4, WRITE SAME commands).

    No blocks means all from the LBA on (WSNZ is zero in VPD page B0h), when these are not more than its limit.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for protection information, anchors and addresses in the data,
        for UNMAP when it does not unmap by this command (LBPWS), and for more blocks than VPD page B0h allows;
        05/21/00 for a range that is not on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    if flags & PROTECT:
        raise invalid_field(1, 7)
    if flags & _ANCHOR:
        raise invalid_field(1, 4)
    if flags & (_PBDATA | _LBDATA):
        raise invalid_field(1, 2 if flags & _PBDATA else 1)
    unmap = bool(flags & _UNMAP)
    if unmap and not unit.unmaps_by_write_same:
        raise invalid_field(1, 3)
    check_range(unit, lba, blocks)
    blocks = blocks or unit.blocks - lba
    if blocks > maximum_write_same_length(unit):
        raise invalid_field(row.transfer.field.start, 7)
    return WriteSame(lba, blocks, unmap, row.transfer.blocks(cdb, blocks) == 1)
