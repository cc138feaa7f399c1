"""What a row of the table of commands tells, and how a CDB finds its row (the rows: :mod:`txtcmu.scsi.opcodes`)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final

from attrs import field, frozen

from txtcmu.scsi.refusals import invalid_field, invalid_operation_code
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["CommandTable", "Direction", "Opcode", "ToldBy", "Transfer"]

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
    BLOCKS = "a number of blocks"


def _as_many(_cdb: bytes, count: int) -> int:
    return count


@frozen
class Transfer:
    """How the expected transfer of a command is told.

    :ivar told_by: what tells it.
    :ivar field: the bytes of the CDB that hold it, empty when it is not in the CDB.
    :ivar fixed: bytes, when the standard tells it.
    :ivar blocks: CDB and what ``field`` holds to the number of blocks moved, when it is told in blocks.
    """

    told_by: ToldBy = ToldBy.NOTHING
    field: slice = slice(0, 0)
    fixed: int = 0
    blocks: Callable[[bytes, int], int] = _as_many


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
        return transfer.blocks(cdb, count) * block_size if transfer.told_by is ToldBy.BLOCKS else count


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
