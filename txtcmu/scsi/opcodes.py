"""The table of commands: one row per operation code and service action.

Everything that depends on which command it is comes from its row: dispatch, expected transfer lengths, what may run
while the unit is not ready or write protected, and the reply to REPORT SUPPORTED OPERATION CODES.  A new command
is one row here and one function that carries it out.

A usage bitmap (SPC-5, CDB USAGE DATA) has the operation code in byte 0 and the service action in its field, and then
a one for each bit that is evaluated.  In CONTROL that is NACA alone: it must be refused, since NORMACA is zero.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from txtcmu.scsi.table import CommandTable, Direction, Opcode, ToldBy, Transfer
from txtcmu.scsi.unit import DISCARD, LogicalUnit

__all__ = ["ROWS", "find", "supported"]


def _told_by(told_by: ToldBy, byte: int, width: int) -> Transfer:
    return Transfer(told_by, slice(byte, byte + width))


def _allocation_length(byte: int, width: int) -> Transfer:
    return _told_by(ToldBy.ALLOCATION_LENGTH, byte, width)


def _parameter_list_length(byte: int, width: int) -> Transfer:
    return _told_by(ToldBy.PARAMETER_LIST_LENGTH, byte, width)


# CDB to (flags, lba, blocks).
_RANGE_10: Final = Struct(">xBIxH").unpack_from
_RANGE_12: Final = Struct(">xBII").unpack_from
_RANGE_16: Final = Struct(">xBQI").unpack_from
_RANGE_COMPARED: Final = Struct(">xBQ3xB").unpack_from


def _range_6(cdb: bytes) -> tuple[int, int, int]:
    """Byte 1 holds the most significant bits of the LBA, and no flags; no blocks means 256."""
    return 0, (cdb[1] & 0x1F) << 16 | cdb[2] << 8 | cdb[3], cdb[4] or 256


def _blocks(byte: int, width: int) -> Transfer:
    return _told_by(ToldBy.BLOCKS, byte, width)


def _verified(byte: int, width: int) -> Transfer:
    """BYTCHK: nothing is sent, or all that is compared, or one block to be compared with each."""
    return Transfer(
        ToldBy.BLOCKS,
        slice(byte, byte + width),
        blocks=lambda cdb, count: {0b00: 0, 0b01: count, 0b11: min(1, count)}.get(cdb[1] >> 1 & 0b11, 0),
    )


def _one_block(byte: int, width: int, ndob: int) -> Transfer:
    """NDOB, where there is such a bit: there is no Data-Out Buffer."""
    return Transfer(ToldBy.BLOCKS, slice(byte, byte + width), blocks=lambda cdb, _count: 0 if cdb[1] & ndob else 1)


_BLOCKS_6: Final = Transfer(ToldBy.BLOCKS, slice(4, 5), blocks=lambda _cdb, count: count or 256)
_BLOCKS_10: Final = _blocks(7, 2)
_BLOCKS_12: Final = _blocks(6, 4)
_BLOCKS_16: Final = _blocks(10, 4)

# Commands that may take as long as the storage needs.
_LONG: Final[dict[str, Any]] = {"nominal_timeout": 10, "recommended_timeout": 60}

TEST_UNIT_READY: Final = Opcode("TEST UNIT READY", "00 00 00 00 00 04")
REQUEST_SENSE: Final = Opcode(
    "REQUEST SENSE",
    "03 01 00 00 FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(4, 1),
    while_not_ready=True,
)
READ_6: Final = Opcode(
    "READ(6)",
    "08 1F FF FF FF 04",
    direction=Direction.IN,
    transfer=_BLOCKS_6,
    decode=_range_6,
)
WRITE_6: Final = Opcode(
    "WRITE(6)",
    "0A 1F FF FF FF 04",
    direction=Direction.OUT,
    transfer=_BLOCKS_6,
    decode=_range_6,
    writes=True,
)
INQUIRY: Final = Opcode(
    "INQUIRY",
    "12 01 FF FF FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(3, 2),
    while_not_ready=True,
)
MODE_SELECT_6: Final = Opcode(
    "MODE SELECT(6)",
    "15 13 00 00 FF 04",
    direction=Direction.OUT,
    transfer=_parameter_list_length(4, 1),
    **_LONG,
)
MODE_SENSE_6: Final = Opcode(
    "MODE SENSE(6)",
    "1A 08 FF FF FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(4, 1),
)
# Carried out while not ready, because it is what ends INITIALIZING COMMAND REQUIRED.
START_STOP_UNIT: Final = Opcode(
    "START STOP UNIT",
    "1B 01 00 0F F7 04",
    while_not_ready=True,
    **_LONG,
)
READ_CAPACITY_10: Final = Opcode(
    "READ CAPACITY(10)",
    "25 00 00 00 00 00 00 00 00 04",
    direction=Direction.IN,
    transfer=Transfer(ToldBy.STANDARD, fixed=8),
)
READ_10: Final = Opcode(
    "READ(10)",
    "28 F8 FF FF FF FF 00 FF FF 04",
    direction=Direction.IN,
    transfer=_BLOCKS_10,
    decode=_RANGE_10,
)
WRITE_10: Final = Opcode(
    "WRITE(10)",
    "2A F8 FF FF FF FF 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_BLOCKS_10,
    decode=_RANGE_10,
    writes=True,
)
VERIFY_10: Final = Opcode(
    "VERIFY(10)",
    "2F F6 FF FF FF FF 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_verified(7, 2),
    decode=_RANGE_10,
    **_LONG,
)
SYNCHRONIZE_CACHE_10: Final = Opcode(
    "SYNCHRONIZE CACHE(10)",
    "35 02 FF FF FF FF 00 FF FF 04",
    decode=_RANGE_10,
    **_LONG,
)
WRITE_SAME_10: Final = Opcode(
    "WRITE SAME(10)",
    "41 FE FF FF FF FF 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_one_block(7, 2, ndob=0),
    decode=_RANGE_10,
    writes=True,
    **_LONG,
)
UNMAP: Final = Opcode(
    "UNMAP",
    "42 01 00 00 00 00 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_parameter_list_length(7, 2),
    requires=DISCARD,
    writes=True,
    **_LONG,
)
LOG_SENSE: Final = Opcode(
    "LOG SENSE",
    "4D 03 FF FF 00 FF FF FF FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(7, 2),
)
MODE_SELECT_10: Final = Opcode(
    "MODE SELECT(10)",
    "55 13 00 00 00 00 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_parameter_list_length(7, 2),
    **_LONG,
)
MODE_SENSE_10: Final = Opcode(
    "MODE SENSE(10)",
    "5A 18 FF FF 00 00 00 FF FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(7, 2),
)
READ_16: Final = Opcode(
    "READ(16)",
    "88 F8 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.IN,
    transfer=_BLOCKS_16,
    decode=_RANGE_16,
)
COMPARE_AND_WRITE: Final = Opcode(
    "COMPARE AND WRITE",
    "89 F8 FF FF FF FF FF FF FF FF 00 00 00 FF 00 04",
    direction=Direction.OUT,
    transfer=Transfer(ToldBy.BLOCKS, slice(13, 14), blocks=lambda _cdb, count: 2 * count),
    decode=_RANGE_COMPARED,
    writes=True,
)
WRITE_16: Final = Opcode(
    "WRITE(16)",
    "8A F8 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_BLOCKS_16,
    decode=_RANGE_16,
    writes=True,
)
VERIFY_16: Final = Opcode(
    "VERIFY(16)",
    "8F F6 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_verified(10, 4),
    decode=_RANGE_16,
    **_LONG,
)
SYNCHRONIZE_CACHE_16: Final = Opcode(
    "SYNCHRONIZE CACHE(16)",
    "91 02 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    decode=_RANGE_16,
    **_LONG,
)
WRITE_SAME_16: Final = Opcode(
    "WRITE SAME(16)",
    "93 FF FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_one_block(10, 4, ndob=0x01),
    decode=_RANGE_16,
    writes=True,
    **_LONG,
)
READ_CAPACITY_16: Final = Opcode(
    "READ CAPACITY(16)",
    "9E 10 00 00 00 00 00 00 00 00 FF FF FF FF 00 04",
    service_action=0x10,
    direction=Direction.IN,
    transfer=_allocation_length(10, 4),
)
GET_LBA_STATUS_16: Final = Opcode(
    "GET LBA STATUS(16)",
    "9E 12 FF FF FF FF FF FF FF FF FF FF FF FF FF 04",
    service_action=0x12,
    direction=Direction.IN,
    transfer=_allocation_length(10, 4),
    **_LONG,
)
# The kernel ignores SELECT REPORT and CONTROL.
REPORT_LUNS: Final = Opcode(
    "REPORT LUNS",
    "A0 00 00 00 00 00 FF FF FF FF 00 00",
    direction=Direction.IN,
    transfer=_allocation_length(6, 4),
    while_not_ready=True,
    by_kernel=True,
)
REPORT_SUPPORTED_OPERATION_CODES: Final = Opcode(
    "REPORT SUPPORTED OPERATION CODES",
    "A3 0C 87 FF FF FF FF FF FF FF 00 04",
    service_action=0x0C,
    direction=Direction.IN,
    transfer=_allocation_length(6, 4),
    while_not_ready=True,
)
READ_12: Final = Opcode(
    "READ(12)",
    "A8 F8 FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.IN,
    transfer=_BLOCKS_12,
    decode=_RANGE_12,
)
WRITE_12: Final = Opcode(
    "WRITE(12)",
    "AA F8 FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_BLOCKS_12,
    decode=_RANGE_12,
    writes=True,
)
VERIFY_12: Final = Opcode(
    "VERIFY(12)",
    "AF F6 FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_verified(6, 4),
    decode=_RANGE_12,
    **_LONG,
)

ROWS: Final = (
    TEST_UNIT_READY,
    REQUEST_SENSE,
    READ_6,
    WRITE_6,
    INQUIRY,
    MODE_SELECT_6,
    MODE_SENSE_6,
    START_STOP_UNIT,
    READ_CAPACITY_10,
    READ_10,
    WRITE_10,
    VERIFY_10,
    SYNCHRONIZE_CACHE_10,
    WRITE_SAME_10,
    UNMAP,
    LOG_SENSE,
    MODE_SELECT_10,
    MODE_SENSE_10,
    READ_16,
    COMPARE_AND_WRITE,
    WRITE_16,
    VERIFY_16,
    SYNCHRONIZE_CACHE_16,
    WRITE_SAME_16,
    READ_CAPACITY_16,
    GET_LBA_STATUS_16,
    REPORT_LUNS,
    REPORT_SUPPORTED_OPERATION_CODES,
    READ_12,
    WRITE_12,
    VERIFY_12,
)
"""Every command there is, by operation code and service action."""

find: Final = CommandTable(row for row in ROWS if not row.by_kernel).find
"""The row of a CDB; see :meth:`CommandTable.find`."""


def supported(unit: LogicalUnit) -> list[Opcode]:
    """Return the rows of the commands that ``unit`` has, in the table's order."""
    capabilities = unit.capabilities
    return [row for row in ROWS if row.requires is None or row.requires in capabilities]
