"""What every disk answers, whatever state it is in: who it is, what it can do, what ails it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txtcmu.interfaces import ICommand, ICommandHandler
from txtcmu.iovec import first, scatter, zero_from
from txtcmu.scsi import opcodes
from txtcmu.scsi.opcodes import ROWS, find
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.replies import reply
from txtcmu.scsi.sense import NO_SENSE_DATA, Sense, request_sense
from txtcmu.scsi.table import Direction, Opcode
from txtcmu.scsi.unit import Identity, LogicalUnit

__all__ = ["UNREAD", "Method", "UnitCommands", "answer", "changes_medium", "data_buffers"]

#: Carries out one command: row of the table and command in, what :meth:`ICommandHandler.handle` returns out.
Method = Callable[[Opcode, Any], Any]

_FLUSHING: Final = (
    opcodes.SYNCHRONIZE_CACHE_10,
    opcodes.SYNCHRONIZE_CACHE_16,
    opcodes.MODE_SELECT_6,
    opcodes.MODE_SELECT_10,
)
_CHANGING: Final = frozenset(row.operation_code for row in ROWS if row.writes or row in _FLUSHING)

#: Stands in until INQUIRY asks: the names are final only when a LUN exports the device.
UNREAD: Final = Identity("unread")


def changes_medium(cdb: bytes) -> bool:
    """Tell whether a command changes the medium or makes changes durable, and so fails with a write error."""
    return cdb[0] in _CHANGING


def data_buffers(row: Opcode, command: Any, length: int) -> list[memoryview]:
    """Return the ``length`` bytes of the data buffer that the CDB speaks of.

    The kernel compares the two for no pass-through command.  A longer buffer of Data-In is zeroed, since it may
    go to the initiator, and leaves a residual; into a shorter one the blocks do not go, and TCMU cannot tell of
    an overflow.
    """
    if command.length == length:
        buffers: list[memoryview] = command.buffers
        return buffers
    if command.length < length:
        raise invalid_field(row.transfer.field.start, 7)
    if row.direction is Direction.IN:
        zero_from(command.buffers, 0)
        command.read_len = length
    else:
        zero_from(command.buffers, length)
    # The command's own from now on, so that they end with it: a traceback may hold on to them.
    windows = first(command.buffers, length)
    command.release()
    command.buffers = windows
    return windows


def answer(command: Any, data: bytes) -> None:
    """Fill the Data-In buffer; an initiator with more room than ``data`` is told of the residual."""
    scatter(data, command.buffers)
    command.read_len = min(len(data), command.length)


@implementer(ICommandHandler)
class UnitCommands:
    """Answers what a :class:`LogicalUnit` alone can answer; a subclass adds methods for the rest.

    :param unit: whose identity is read when INQUIRY asks for it first.
    :param identify: reads it.
    """

    def __init__(self, unit: LogicalUnit, identify: Callable[[], Deferred[Identity]]) -> None:
        self.unit = unit
        self._identify = identify
        self._methods: dict[Opcode, Method] = {
            opcodes.INQUIRY: self._inquiry,
            opcodes.REQUEST_SENSE: self._request_sense,
            opcodes.REPORT_SUPPORTED_OPERATION_CODES: self._reply,
        }

    def handle(self, command: ICommand) -> Any:
        """See :class:`~txtcmu.interfaces.ICommandHandler`."""
        row = find(self.unit, command.cdb)
        return self._methods[row](row, command)

    def close(self) -> None:
        """See :class:`~txtcmu.interfaces.ICommandHandler`; the backstore is not ours to close."""

    def sense(self) -> Sense:
        """Return what REQUEST SENSE reports."""
        return NO_SENSE_DATA

    def _reply(self, row: Opcode, command: Any) -> None:
        answer(command, reply(self.unit, row, command.cdb))

    def _request_sense(self, row: Opcode, command: Any) -> None:
        answer(command, request_sense(command.cdb, self.sense()))

    def _inquiry(self, row: Opcode, command: Any) -> Deferred[None] | None:
        if self.unit.identity is not UNREAD:
            self._reply(row, command)
            return None

        def identified(identity: Identity) -> None:
            self.unit.identity = identity
            self._reply(row, command)

        return self._identify().addCallback(identified)
