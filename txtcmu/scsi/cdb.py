"""CDBs of the commands that a backstore carries out: decoded and checked.

READ and WRITE are the hot path: one call of :func:`read_write` each.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from txtcmu.scsi.opcodes import Opcode
from txtcmu.scsi.refusals import invalid_field, lba_out_of_range
from txtcmu.scsi.unit import LogicalUnit

__all__ = [
    "DPO",
    "FUA",
    "CacheRange",
    "StartStop",
    "check_range",
    "read_write",
    "start_stop_unit",
    "synchronize_cache",
]

# Bits of byte 1 of READ and WRITE (SBC-4, READ(10)).
DPO: Final = 0x10
FUA: Final = 0x08
_PROTECT: Final = 0xE0  # RDPROTECT, WRPROTECT

_LBA: Final = 2  # the byte where LOGICAL BLOCK ADDRESS begins, in 10 and 16 byte CDBs alike


def check_range(unit: LogicalUnit, lba: int, blocks: int) -> None:
    """Refuse a range that is not wholly on the medium (SBC-4, LOGICAL BLOCK ADDRESS field).

    A range of no blocks may begin right behind the last one, but no further.

    :raise txtcmu.errors.CheckCondition: 05/21/00.
    """
    if lba + blocks > unit.blocks:
        raise lba_out_of_range(_LBA)


def read_write(unit: LogicalUnit, row: Opcode, cdb: bytes) -> tuple[int, int, int]:
    """Decode READ and WRITE (10) and (16) (SBC-4, READ(10) to WRITE(16) commands).

    :return: LBA, number of blocks (zero is no error), and byte 1: ask it for :data:`DPO` and :data:`FUA`.
    :raise txtcmu.errors.CheckCondition: 05/24/00 for protection information, which the unit has not, and for more
        blocks than MAXIMUM TRANSFER LENGTH; 05/21/00 for a range that is not on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    if flags & _PROTECT or lba + blocks > unit.blocks or blocks > unit.max_transfer_blocks:
        if flags & _PROTECT:
            raise invalid_field(1, 7)
        check_range(unit, lba, blocks)
        raise invalid_field(row.transfer.field.start, 7)
    return lba, blocks, flags


class CacheRange(NamedTuple):
    """What SYNCHRONIZE CACHE asks for: ``blocks`` from ``lba`` on, status at once when ``immediate``."""

    lba: int
    blocks: int
    immediate: bool


def synchronize_cache(unit: LogicalUnit, row: Opcode, cdb: bytes) -> CacheRange:
    """Decode SYNCHRONIZE CACHE (10) and (16) (SBC-4, SYNCHRONIZE CACHE commands); no blocks means all from the LBA on.

    :raise txtcmu.errors.CheckCondition: 05/21/00 for a range that is not on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    check_range(unit, lba, blocks)
    return CacheRange(lba, blocks or unit.blocks - lba, bool(flags & 0x02))


class StartStop(NamedTuple):
    """What START STOP UNIT asks for.

    :ivar start: become active, or (false) stop; ``None``: nothing changes.
    :ivar flush: write the cache back first (NO_FLUSH is zero); only a stop has to.
    :ivar load_eject: load or eject the medium.
    :ivar immediate: status at once (IMMED).
    """

    start: bool | None
    flush: bool
    load_eject: bool
    immediate: bool


# POWER CONDITION (SBC-4, START STOP UNIT).
_START_VALID: Final = 0x0
_ACTIVE: Final = 0x1
_LU_CONTROL: Final = 0x7


def start_stop_unit(unit: LogicalUnit, cdb: bytes) -> StartStop:
    """Decode START STOP UNIT (SBC-4, START STOP UNIT command).

    The unit has no power conditions but active and stopped (there is no Power Condition mode page), so it takes
    ACTIVE, and LU_CONTROL, which leaves the choice to it; idle, standby and their forced forms it refuses.
    START and LOEJ count with START_VALID only.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for another power condition, or a modifier of one, and for LOEJ
        when the medium is not removable.
    """
    immediate = bool(cdb[1] & 0x01)
    power_condition = cdb[4] >> 4
    if power_condition == _START_VALID:
        load_eject = bool(cdb[4] & 0x02)
        if load_eject and not unit.removable:
            raise invalid_field(4, 1)
        start = bool(cdb[4] & 0x01)
        return StartStop(start, not start and not cdb[4] & 0x04, load_eject, immediate)
    if power_condition not in (_ACTIVE, _LU_CONTROL):
        raise invalid_field(4, 7)
    if cdb[3] & 0x0F:
        raise invalid_field(3, 3)
    return StartStop(True if power_condition == _ACTIVE else None, False, False, immediate)
