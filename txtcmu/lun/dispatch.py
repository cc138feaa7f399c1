"""From the ring to a handler and back: what becomes of each command of a device.

This is the hot path.  Which handler has the commands, and whether it needs to be told anything first, is decided
when that changes, by who is put into place; no command looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.errors import BusyError, CheckCondition, MiscompareError, TCMUError, WriteProtectedError
from txtcmu.kernel.ring import TaskManagement
from txtcmu.lun.attention import Attentions, Handle
from txtcmu.lun.commands import changes_medium
from txtcmu.lun.tasks import Task, TaskSet
from txtcmu.results import as_deferred
from txtcmu.scsi.constants import GOOD, NOT_READY, TASK_ABORTED
from txtcmu.scsi.sense import sense_of

__all__ = ["Dispatcher"]

# Ends of commands that are nothing to report: the initiator asked for it, or was asked to come again.
_EXPECTED: Final = (CheckCondition, MiscompareError, WriteProtectedError, BusyError, CancelledError)


class Dispatcher:
    """Hands the commands of one device to its handler, and ends them as that says.

    :param block_size: bytes of a logical block.
    :param away: called with the error by which a command has found the backstore gone.
    :param log: whose source is the device.
    :ivar attentions: what initiators are told before the handler hears of them.
    """

    def __init__(self, block_size: int, away: Callable[[BaseException], None], log: Logger) -> None:
        self._block_size = block_size
        self._away = away
        self._log = log
        self.attentions = Attentions(self._switch)

    def _switch(self, handle: Handle) -> None:
        self._handle = handle

    def complete_in(self, tasks: TaskSet) -> None:
        """End commands in ``tasks`` from now on: there is a new ring."""
        self._tasks = tasks
        self._complete = tasks.complete

    def command_received(self, task: Task) -> None:
        """Hand ``task`` to the handler, and complete it or wait for its Deferred."""
        try:
            result = self._handle(task)
        except BaseException as error:  # out of here it would take the reader away from the reactor
            self.command_failed(task, error)
            return
        if result is None:
            self._complete(task, GOOD)
        elif isinstance(result, Deferred):
            self._tasks.wait(task, result)
        elif iscoroutine(result):
            self._tasks.wait(task, as_deferred(result))
        else:
            self._tasks.end(task, result)

    def task_management_received(self, request: TaskManagement) -> None:
        """Abort the tasks that ``request`` names; the kernel answers the initiator."""
        self._log.warn(
            "{log_source}: {function} of {count} commands", function=request.name, count=len(request.commands)
        )
        self._tasks.abort_these(request.commands, TASK_ABORTED)  # type: ignore[arg-type]  # the ring makes Tasks

    def command_failed(self, task: Task, error: BaseException) -> None:
        """End ``task`` with what ``error`` means to its initiator."""
        try:
            status, sense = sense_of(error, writing=changes_medium(task.cdb), block_size=self._block_size)
            sense_data = b"" if sense is None else sense.fixed()
        except Exception as impossible:  # a sense key of 300, say
            self.command_failed(task, impossible)
            return
        self._complete(task, status, sense_data)
        if sense is not None and sense.key == NOT_READY and not isinstance(error, CheckCondition):
            self._away(error)
        elif isinstance(error, TCMUError | OSError | CancelledError):
            if not isinstance(error, _EXPECTED):
                self._log.error("{log_source}: CDB {cdb}: {error}", cdb=task.cdb.hex(), error=error)
        else:
            failure = Failure(error)  # type: ignore[no-untyped-call]
            self._log.failure("{log_source}: CDB {cdb} failed", failure, cdb=task.cdb.hex())
