"""VERIFY and COMPARE AND WRITE (SBC-4): what they ask for, and their limits."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from txtcmu.scsi.cdb import FUA, PROTECT, check_range
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = [
    "ByteCheck",
    "CompareAndWrite",
    "Verification",
    "compare_and_write",
    "maximum_compare_and_write_length",
    "verify",
]

_MOST: Final = 0xFF  # the field has one byte, in the CDB and in VPD page B0h


class ByteCheck(enum.Enum):
    """BYTCHK: what the blocks on the medium are compared with."""

    NOTHING = 0b00
    EACH = 0b01
    ONE_WITH_ALL = 0b11


class Verification(NamedTuple):
    """What VERIFY asks for: ``blocks`` from ``lba`` on can be read, and are what ``byte_check`` says."""

    lba: int
    blocks: int
    byte_check: ByteCheck


def verify(unit: LogicalUnit, row: Opcode, cdb: bytes) -> Verification:
    """Decode VERIFY (10), (12) and (16) (SBC-4, VERIFY commands).

    Only what is sent is held to MAXIMUM TRANSFER LENGTH: a check of the medium may be as long as the field allows.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for protection information, which the unit has not, for the
        reserved value of BYTCHK, and for more data than MAXIMUM TRANSFER LENGTH; 05/21/00 for a range that is not
        on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    if flags & PROTECT:
        raise invalid_field(1, 7)
    try:
        byte_check = ByteCheck(flags >> 1 & 0b11)
    except ValueError:
        raise invalid_field(1, 2) from None
    check_range(unit, lba, blocks)
    if byte_check is ByteCheck.EACH and blocks > unit.max_transfer_blocks:
        raise invalid_field(row.transfer.field.start, 7)
    return Verification(lba, blocks, byte_check)


class CompareAndWrite(NamedTuple):
    """What COMPARE AND WRITE asks for; ``fua``: what it writes is to be durable when it ends."""

    lba: int
    blocks: int
    fua: bool


def maximum_compare_and_write_length(unit: LogicalUnit) -> int:
    """Return MAXIMUM COMPARE AND WRITE LENGTH of VPD page B0h, in blocks; twice as many are sent."""
    return max(1, min(_MOST, unit.max_transfer_blocks // 2))


def compare_and_write(unit: LogicalUnit, row: Opcode, cdb: bytes) -> CompareAndWrite:
    """Decode COMPARE AND WRITE (SBC-4, COMPARE AND WRITE command); no blocks are no error.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for protection information, which the unit has not, and for more
        blocks than VPD page B0h allows; 05/21/00 for a range that is not on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    if flags & PROTECT:
        raise invalid_field(1, 7)
    check_range(unit, lba, blocks)
    if blocks > maximum_compare_and_write_length(unit):
        raise invalid_field(row.transfer.field.start, 7)
    return CompareAndWrite(lba, blocks, bool(flags & FUA))
