"""The table of commands: one row per operation code and service action.

Everything that depends on which command it is comes from its row: dispatch, expected transfer lengths, what may run
while the unit is not ready or write protected, and the reply to REPORT SUPPORTED OPERATION CODES.  A new command
is one row here and one function that carries it out.

A usage bitmap (SPC-5, CDB USAGE DATA) has the operation code in byte 0 and the service action in its field, and then
a one for each bit that is evaluated.  In CONTROL that is NACA alone: it must be refused, since NORMACA is zero.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from attrs import field, frozen

from txtcmu.scsi.refusals import invalid_field, invalid_operation_code
from txtcmu.scsi.unit import DISCARD, LogicalUnit

__all__ = ["ROWS", "CommandTable", "Direction", "Opcode", "ToldBy", "Transfer", "find", "supported"]

_VARIABLE_LENGTH: Final = 0x7F
_NACA: Final = 0x04


class Direction(enum.Enum):
    """Which way a command's data goes, seen from the initiator; TCMU does not tell."""

    NONE = "none"
    IN = "in"
    OUT = "out"


class ToldBy(enum.Enum):
    """What in a CDB tells how much data there will be."""

    NOTHING = "nothing"
    STANDARD = "the standard"
    ALLOCATION_LENGTH = "ALLOCATION LENGTH"
    PARAMETER_LIST_LENGTH = "PARAMETER LIST LENGTH"
    BLOCKS = "TRANSFER LENGTH in blocks"


@frozen
class Transfer:
    """How the expected transfer of a command is told.

    :ivar told_by: what tells it.
    :ivar field: the bytes of the CDB that hold it, empty when it is not in the CDB.
    :ivar fixed: bytes, when the standard tells it.
    """

    told_by: ToldBy = ToldBy.NOTHING
    field: slice = slice(0, 0)
    fixed: int = 0


def _told_by(told_by: ToldBy, byte: int, width: int) -> Transfer:
    return Transfer(told_by, slice(byte, byte + width))


def _allocation_length(byte: int, width: int) -> Transfer:
    return _told_by(ToldBy.ALLOCATION_LENGTH, byte, width)


def _from_hex(usage: str) -> bytes:
    return bytes.fromhex(usage)


def _has_no_range(cdb: bytes) -> tuple[int, int, int]:
    raise TypeError(f"operation code {cdb[0]:02X}h has no range of blocks")


@frozen(eq=False)
class Opcode:
    """One command: a row of the table.  Rows compare by identity and may be keys of a dict.

    :ivar name: the standard's.
    :ivar usage: CDB USAGE DATA; it is as long as the CDB.
    :ivar service_action: or ``None`` when the operation code has none.
    :ivar direction: which way its data goes.
    :ivar transfer: how much of it.
    :ivar decode: CDB to ``(flags, lba, blocks)``, of commands that name a range of blocks; ``flags`` is byte 1.
        A bound :meth:`struct.Struct.unpack_from` with nothing around it: it is on the path of every READ.
    :ivar requires: the capability of the unit without which the command does not exist, or ``None``.
    :ivar while_not_ready: it is carried out while the unit is not ready.
    :ivar writes: it changes the medium: refused when the medium is write protected.
    :ivar by_kernel: the kernel answers it, it never arrives here.
    :ivar nominal_timeout: NOMINAL COMMAND PROCESSING TIMEOUT, seconds.
    :ivar recommended_timeout: RECOMMENDED COMMAND TIMEOUT, seconds.
    :ivar control: byte of the CDB that holds CONTROL.
    """

    name: str
    usage: bytes = field(converter=_from_hex)
    service_action: int | None = None
    direction: Direction = Direction.NONE
    transfer: Transfer = Transfer()
    decode: Callable[[bytes], tuple[int, int, int]] = _has_no_range
    requires: str | None = None
    while_not_ready: bool = False
    writes: bool = False
    by_kernel: bool = False
    nominal_timeout: int = 1
    recommended_timeout: int = 30
    control: int = field(init=False)

    @control.default
    def _control(self) -> int:
        return 1 if self.operation_code == _VARIABLE_LENGTH else len(self.usage) - 1

    @property
    def operation_code(self) -> int:
        """OPERATION CODE, byte 0 of the CDB."""
        return self.usage[0]

    def transfer_length(self, cdb: bytes, block_size: int) -> int:
        """Return how many bytes the CDB says will be transferred at most."""
        transfer = self.transfer
        if transfer.told_by is ToldBy.STANDARD:
            return transfer.fixed
        count = int.from_bytes(cdb[transfer.field], "big")
        return count * block_size if transfer.told_by is ToldBy.BLOCKS else count


class CommandTable:
    """Rows, indexed by operation code and then by service action.

    :param rows: at most one of each operation code and service action; an operation code has either service
        actions in all of its rows or just one row.
    """

    def __init__(self, rows: Iterable[Opcode]) -> None:
        self._entries: list[Opcode | dict[int, Opcode] | None] = [None] * 256
        for row in rows:
            if row.service_action is None:
                self._entries[row.operation_code] = row
                continue
            actions = self._entries[row.operation_code]
            if not isinstance(actions, dict):
                actions = self._entries[row.operation_code] = {}
            actions[row.service_action] = row

    def find(self, unit: LogicalUnit, cdb: bytes) -> Opcode:
        """Return the row of a CDB.

        :param cdb: of any length.
        :raise txtcmu.errors.CheckCondition: 05/20/00 when ``unit`` has no such command or the CDB is too short for
            it, 05/24/00 when the service action is unknown, or NACA is set (SAM-6, CONTROL byte).
        """
        try:
            row = self._entries[cdb[0]]
            if not isinstance(row, Opcode):
                row = _by_service_action(row, cdb)
            control = cdb[row.control]
        except IndexError:
            raise invalid_operation_code() from None
        if row.requires is not None and row.requires not in unit.capabilities:
            raise invalid_operation_code() if row.service_action is None else _invalid_service_action(cdb)
        if control & _NACA:
            raise invalid_field(row.control, 2)
        return row


def _by_service_action(actions: dict[int, Opcode] | None, cdb: bytes) -> Opcode:
    if actions is None:
        raise invalid_operation_code()
    service_action = (cdb[8] << 8 | cdb[9]) if cdb[0] == _VARIABLE_LENGTH else cdb[1] & 0x1F
    row = actions.get(service_action)
    if row is None:
        raise _invalid_service_action(cdb)
    return row


def _invalid_service_action(cdb: bytes) -> Exception:
    return invalid_field(8, 7) if cdb[0] == _VARIABLE_LENGTH else invalid_field(1, 4)


# CDB to (flags, lba, blocks).
_RANGE_10: Final = Struct(">xBIxH").unpack_from
_RANGE_16: Final = Struct(">xBQI").unpack_from
_BLOCKS_10: Final = _told_by(ToldBy.BLOCKS, 7, 2)
_BLOCKS_16: Final = _told_by(ToldBy.BLOCKS, 10, 4)

TEST_UNIT_READY: Final = Opcode("TEST UNIT READY", "00 00 00 00 00 04")
REQUEST_SENSE: Final = Opcode(
    "REQUEST SENSE",
    "03 01 00 00 FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(4, 1),
    while_not_ready=True,
)
INQUIRY: Final = Opcode(
    "INQUIRY",
    "12 01 FF FF FF 04",
    direction=Direction.IN,
    transfer=_allocation_length(3, 2),
    while_not_ready=True,
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
    nominal_timeout=10,
    recommended_timeout=60,
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
SYNCHRONIZE_CACHE_10: Final = Opcode(
    "SYNCHRONIZE CACHE(10)",
    "35 02 FF FF FF FF 00 FF FF 04",
    decode=_RANGE_10,
    nominal_timeout=10,
    recommended_timeout=60,
)
UNMAP: Final = Opcode(
    "UNMAP",
    "42 01 00 00 00 00 00 FF FF 04",
    direction=Direction.OUT,
    transfer=_told_by(ToldBy.PARAMETER_LIST_LENGTH, 7, 2),
    requires=DISCARD,
    writes=True,
    nominal_timeout=10,
    recommended_timeout=60,
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
WRITE_16: Final = Opcode(
    "WRITE(16)",
    "8A F8 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    direction=Direction.OUT,
    transfer=_BLOCKS_16,
    decode=_RANGE_16,
    writes=True,
)
SYNCHRONIZE_CACHE_16: Final = Opcode(
    "SYNCHRONIZE CACHE(16)",
    "91 02 FF FF FF FF FF FF FF FF FF FF FF FF 00 04",
    decode=_RANGE_16,
    nominal_timeout=10,
    recommended_timeout=60,
)
READ_CAPACITY_16: Final = Opcode(
    "READ CAPACITY(16)",
    "9E 10 00 00 00 00 00 00 00 00 FF FF FF FF 00 04",
    service_action=0x10,
    direction=Direction.IN,
    transfer=_allocation_length(10, 4),
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

ROWS: Final = (
    TEST_UNIT_READY,
    REQUEST_SENSE,
    INQUIRY,
    MODE_SENSE_6,
    START_STOP_UNIT,
    READ_CAPACITY_10,
    READ_10,
    WRITE_10,
    SYNCHRONIZE_CACHE_10,
    UNMAP,
    MODE_SENSE_10,
    READ_16,
    WRITE_16,
    SYNCHRONIZE_CACHE_16,
    READ_CAPACITY_16,
    REPORT_LUNS,
    REPORT_SUPPORTED_OPERATION_CODES,
)
"""Every command there is, by operation code and service action."""

find: Final = CommandTable(row for row in ROWS if not row.by_kernel).find
"""The row of a CDB; see :meth:`CommandTable.find`."""


def supported(unit: LogicalUnit) -> list[Opcode]:
    """Return the rows of the commands that ``unit`` has, in the table's order."""
    capabilities = unit.capabilities
    return [row for row in ROWS if row.requires is None or row.requires in capabilities]
