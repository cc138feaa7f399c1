"""The disk while its backstore is away: it says who it is and why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import CheckCondition, ConfigError, FencedError
from txtcmu.interfaces import ICommand
from txtcmu.lun.commands.base import UnitCommands
from txtcmu.scsi import constants as c
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.sense import Sense
from txtcmu.scsi.unit import Identity, LogicalUnit

__all__ = ["NotReadyCommands"]


class NotReadyCommands(UnitCommands):
    """Answers NOT READY to all but INQUIRY, REQUEST SENSE and REPORT SUPPORTED OPERATION CODES.

    :param unit: what the disk was when it was last ready: one that loses its features while it is away would keep
        its initiators from using them ever after.
    :param error: why.  What a person must mend is MANUAL INTERVENTION REQUIRED, all else is BECOMING READY.
    """

    def __init__(self, unit: LogicalUnit, error: BaseException, identify: Callable[[], Deferred[Identity]]) -> None:
        super().__init__(unit, identify)
        manual = isinstance(error, ConfigError | FencedError)
        self._code = c.MANUAL_INTERVENTION_REQUIRED if manual else c.BECOMING_READY

    def handle(self, command: ICommand) -> Any:
        """See :class:`~txtcmu.interfaces.ICommandHandler`."""
        row = find(self.unit, command.cdb)
        method = self._methods.get(row)
        if method is None:
            raise CheckCondition(c.NOT_READY, *self._code)
        return method(row, command)

    def sense(self) -> Sense:
        """Return what REQUEST SENSE reports."""
        return Sense(c.NOT_READY, *self._code)
