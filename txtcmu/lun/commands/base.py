"""What every disk answers, whatever state it is in: who it is, what it can do, what ails it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txtcmu.interfaces import ICommand, ICommandHandler
from txtcmu.iovec import scatter
from txtcmu.scsi import opcodes
from txtcmu.scsi.opcodes import ROWS, Opcode, find
from txtcmu.scsi.replies import reply
from txtcmu.scsi.sense import NO_SENSE_DATA, Sense, request_sense
from txtcmu.scsi.unit import Identity, LogicalUnit

__all__ = ["Method", "UnitCommands", "changes_medium"]

#: Carries out one command: row of the table and command in, what :meth:`ICommandHandler.handle` returns out.
Method = Callable[[Opcode, Any], Any]

_CHANGING: Final = frozenset(row.operation_code for row in ROWS if row.writes) | {
    opcodes.SYNCHRONIZE_CACHE_10.operation_code,
    opcodes.SYNCHRONIZE_CACHE_16.operation_code,
}

#: Stands in until INQUIRY asks: the names are final only when a LUN exports the device.
UNREAD: Final = Identity("unread")


def changes_medium(cdb: bytes) -> bool:
    """Tell whether a command changes the medium or makes changes durable, and so fails with a write error."""
    return cdb[0] in _CHANGING


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
        self._answer(command, reply(self.unit, row, command.cdb))

    def _request_sense(self, row: Opcode, command: Any) -> None:
        self._answer(command, request_sense(command.cdb, self.sense()))

    def _answer(self, command: Any, data: bytes) -> None:
        """Fill the Data-In buffer; an initiator with more room than ``data`` is told of the residual."""
        scatter(data, command.buffers)
        command.read_len = min(len(data), command.length)

    def _inquiry(self, row: Opcode, command: Any) -> Deferred[None] | None:
        if self.unit.identity is not UNREAD:
            self._reply(row, command)
            return None

        def identified(identity: Identity) -> None:
            self.unit.identity = identity
            self._reply(row, command)

        return self._identify().addCallback(identified)
