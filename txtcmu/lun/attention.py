"""Unit attentions (SAM-6, Unit attention conditions): what an initiator must be told before its next command counts.

TCMU tells nothing of who sent a command, so each condition is reported once for the whole device, to whoever comes
first.  That is the best to be had, and what other TCMU daemons do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import evolve

from txtcmu.errors import CheckCondition
from txtcmu.interfaces import ICommand
from txtcmu.lun.commands.base import answer
from txtcmu.scsi import constants as c
from txtcmu.scsi.sense import Sense, request_sense
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["Attentions", "Handle"]

#: :meth:`txtcmu.interfaces.ICommandHandler.handle`.
Handle = Callable[[Any], Any]

_INQUIRY: Final = 0x12
_REPORT_LUNS: Final = 0xA0
_REQUEST_SENSE: Final = 0x03


class Attentions:
    """The conditions of one device that nobody was told of yet, in front of whoever handles its commands.

    While there are none, commands go to the handler directly and cost nothing here.

    :param switch: called with the function that has the commands from now on.
    """

    def __init__(self, switch: Callable[[Handle], None]) -> None:
        self._switch = switch
        self._handle: Handle | None = None
        self._pending: dict[tuple[int, int], None] = {}

    def guard(self, handle: Handle) -> None:
        """Have ``handle`` get the commands, once everything pending is reported."""
        self._handle = handle
        self._switch(self._report if self._pending else handle)

    def establish(self, code: tuple[int, int]) -> None:
        """Report additional sense code ``code`` with the next command; what is pending already is reported once."""
        self._pending[code] = None
        self._switch(self._report)

    def compare(self, before: LogicalUnit, after: LogicalUnit) -> None:
        """Report what has changed of a unit that came back otherwise than it was."""
        told = evolve(
            after,
            identity=before.identity,
            blocks=before.blocks,
            read_only=before.read_only,
            write_cache=before.write_cache,
        )
        if told != before:
            self.establish(c.INQUIRY_DATA_HAS_CHANGED)
        if (after.read_only, after.write_cache) != (before.read_only, before.write_cache):
            self.establish(c.MODE_PARAMETERS_CHANGED)

    def _report(self, command: ICommand) -> Any:
        """Handle ``command`` as SPC-5 wants it while a condition is pending, whichever handler is behind."""
        assert self._handle is not None
        opcode = command.cdb[0]
        if opcode in (_INQUIRY, _REPORT_LUNS):
            return self._handle(command)
        code = next(iter(self._pending))
        del self._pending[code]
        if not self._pending:
            self._switch(self._handle)
        if opcode == _REQUEST_SENSE:
            answer(command, request_sense(command.cdb, Sense(c.UNIT_ATTENTION, *code)))
            return None
        raise CheckCondition(c.UNIT_ATTENTION, *code)
