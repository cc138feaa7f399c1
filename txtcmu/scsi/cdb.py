"""CDBs of the commands that read, write and flush: decoded and checked.

READ and WRITE are the hot path: one call of :func:`read_write` each.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from txtcmu.scsi.refusals import invalid_field, lba_out_of_range
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = [
    "DPO",
    "FUA",
    "PROTECT",
    "CacheRange",
    "StartStop",
    "check_range",
    "read_write",
    "start_stop_unit",
    "synchronize_cache",
]

# Bits of byte 1 of READ, WRITE and their like (SBC-4, READ(10)).
DPO: Final = 0x10
FUA: Final = 0x08
PROTECT: Final = 0xE0  # RDPROTECT, WRPROTECT, VRPROTECT

_LBA: Final = 2  # the byte where LOGICAL BLOCK ADDRESS begins, but for 6 byte CDBs
_LBA_6: Final = 1


def check_range(unit: LogicalUnit, lba: int, blocks: int, field: int = _LBA) -> None:
    """Refuse a range that is not wholly on the medium (SBC-4, LOGICAL BLOCK ADDRESS field).

    A range of no blocks may begin right behind the last one, but no further.

    :param field: where the LBA begins in the CDB.
    :raise txtcmu.errors.CheckCondition: 05/21/00.
    """
    if lba + blocks > unit.blocks:
        raise lba_out_of_range(field)


def read_write(unit: LogicalUnit, row: Opcode, cdb: bytes) -> tuple[int, int, int]:
    """Decode READ and WRITE (6), (10), (12) and (16) (SBC-4, READ(10) to WRITE(16) commands; SBC-3 has the others).

    :return: LBA, number of blocks (zero is no error), and byte 1: ask it for :data:`DPO` and :data:`FUA`, which
        the 6 byte forms have not.
    :raise txtcmu.errors.CheckCondition: 05/24/00 for protection information, which the unit has not, and for more
        blocks than MAXIMUM TRANSFER LENGTH; 05/21/00 for a range that is not on the medium.
    """
    flags, lba, blocks = row.decode(cdb)
    if flags & PROTECT or lba + blocks > unit.blocks or blocks > unit.max_transfer_blocks:
        if flags & PROTECT:
            raise invalid_field(1, 7)
        check_range(unit, lba, blocks, _LBA_6 if len(row.usage) == 6 else _LBA)
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
