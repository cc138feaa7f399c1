"""The commands of one device that wait for a Deferred: completion, abort, deadline, kept buffers, drain.

A command's windows of kernel memory must not outlive it, and a backstore may hold on to them for longer than the
initiator is willing to wait.  So an aborted command ends in one of three ways:

- its Deferred fires when cancelled: the backstore has let go, the command completes at once;
- it does not, and the kernel can keep buffers: the command completes at once with KEEP_BUF, and when the Deferred
  fires at last the kernel is told to free buffer and cmd_id;
- it does not, and the kernel cannot: the command completes when the Deferred fires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.kernel.ringbase import Command, RingBase
from txtcmu.kernel.uio import RingReader
from txtcmu.scsi import constants as c

__all__ = ["Task", "TaskSet"]

_KEPT: Final = -1
#: Tasks whose deadlines lie closer together than this, in seconds, share a timer.
_DEADLINE_TICK: Final = 0.05
# CHECK CONDITION is none of them, for it comes with sense data.
_STATUSES: Final = frozenset(
    {c.GOOD, c.CONDITION_MET, c.BUSY, c.RESERVATION_CONFLICT, c.TASK_SET_FULL, c.ACA_ACTIVE, c.TASK_ABORTED}
)


class Task(Command):
    """A command, with what is needed once it has to wait.

    :ivar deferred: fires when the handler has let go.
    :ivar since: when it began to wait, in the reactor's seconds.
    :ivar aborted: ``None``; or the status it ends with, since it was aborted; or that it was ended and kept.
    """

    __slots__ = ("aborted", "deferred", "since")

    deferred: Deferred[Any]
    since: float
    aborted: int | None

    def release(self) -> None:
        """See :meth:`Command.release`."""
        try:
            for buffer in self.buffers:
                buffer.release()
        except BufferError:
            # What the handler made of a window (of ctypes, numpy) is still there, most likely in the frame that has
            # just fired the Deferred.  That must not cost the command its end.
            pass
        self.buffers = []


class _Nowhere:
    """Ring and reader of tasks whose ring is lost: their ends are told to nobody."""

    supports_keep_buf = False

    def complete(self, task: Task, status: int, sense: bytes = b"") -> None:
        """Give the windows back, and no more."""
        task.release()

    def completed(self) -> None:
        """Tell nobody."""


class TaskSet:
    """The outstanding tasks of one device on one ring.

    :param reactor: for time.
    :param ring: where completions go, and ``reader``: who tells the kernel of them.
    :param failed: called with a task and the exception that its handler raised; completes the task.
    :param free_kept: called with the cmd_id of a kept command when its buffer can be freed; must not block.
    :param deadline: seconds after which a task is aborted with BUSY, ``None`` for never.
    :param log: whose source is the device.
    """

    def __init__(
        self,
        reactor: Any,
        ring: RingBase,
        reader: RingReader,
        failed: Callable[[Task, BaseException], None],
        free_kept: Callable[[int], None],
        deadline: float | None,
        log: Logger,
    ) -> None:
        self._reactor = reactor
        self._ring: Any = ring
        self._reader: Any = reader
        self._failed = failed
        self._free_kept = free_kept
        self._deadline = deadline
        self._log = log
        self._timer: Any = None
        #: Whether a task was ever cancelled: what is left of it may hold a window until it is garbage collected.
        self.cancelled = False
        # In the order of arrival; kept ones stay until the handler lets go.
        self._waiting: dict[Task, None] = {}
        self._idle: list[Deferred[None]] = []
        self._passing: list[tuple[list[Task], Deferred[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def complete(self, task: Task, status: int, sense: bytes = b"") -> None:
        """End ``task`` for the initiator."""
        self._ring.complete(task, status, sense)
        self._reader.completed()

    def end(self, task: Task, result: object) -> None:
        """End ``task`` with what its handler returned: a status, ``None`` for GOOD, or nonsense."""
        if result is None:
            self.complete(task, c.GOOD)
        elif isinstance(result, int) and result in _STATUSES:
            self.complete(task, result)
        else:
            self._failed(task, TypeError(f"a handler returned {result!r}, which is no status it may return"))

    def wait(self, task: Task, deferred: Deferred[Any]) -> None:
        """End ``task`` with the status that ``deferred`` fires with (``None`` = GOOD), or as its failure says."""
        task.deferred = deferred
        task.since = self._reactor.seconds()
        task.aborted = None
        self._waiting[task] = None
        deferred.addCallbacks(self._succeeded, self._errored, callbackArgs=(task,), errbackArgs=(task,))
        if self._timer is None and self._deadline is not None and self._waiting:
            self._timer = self._reactor.callLater(self._deadline, self._check_deadline)

    def abort(self, task: Task, status: int) -> None:
        """Cancel ``task``; it ends with ``status`` unless the handler still finishes it now."""
        if task not in self._waiting or task.aborted is not None:
            return
        task.aborted = status
        self.cancelled = True
        try:
            task.deferred.cancel()
        except Exception:
            self._log.failure("{log_source}: a handler does not let itself be cancelled")
        if task in self._waiting and self._ring.supports_keep_buf:
            self._ring.complete(task, status, keep=True)
            task.aborted = _KEPT
            self._reader.completed()

    def abort_all(self, status: int) -> int:
        """Abort every task; return how many there were that had not been."""
        tasks = [task for task in self._waiting if task.aborted is None]
        self.abort_these(tasks, status)
        return len(tasks)

    def abort_these(self, tasks: Sequence[Task], status: int) -> None:
        """Abort ``tasks``, the newest first: what waits for an older one is not begun just to be aborted."""
        for task in reversed(tasks):
            self.abort(task, status)

    def abandon(self) -> None:
        """Cancel every task of a ring that is lost.

        Nothing is written to the ring any more, not even when a handler lets go of what was kept; :meth:`idle` tells
        when they all have, and the windows may be given to others.
        """
        self._ring = self._reader = _Nowhere()
        for task in self._waiting:
            if task.aborted == _KEPT:
                task.aborted = c.BUSY
        self.abort_all(c.BUSY)

    @property
    def waiting(self) -> list[Task]:
        """The tasks that no handler has let go of yet, oldest first."""
        return list(self._waiting)

    def passed(self, tasks: list[Task]) -> Deferred[None]:
        """Return a Deferred that fires when the handlers have let go of ``tasks``, whatever came after them."""
        passed: Deferred[None] = Deferred()
        self._passing.append((tasks, passed))
        self._check_passed()
        return passed

    def idle(self) -> Deferred[None]:
        """Return a Deferred that fires when every handler has let go of every task."""
        if not self._waiting:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        return waiting

    def stop(self) -> None:
        """Watch the deadline no more; for a set that is idle for good."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _succeeded(self, result: object, task: Task) -> None:
        if self._let_go(task):
            self.end(task, result)
        self._check_idle()

    def _errored(self, failure: Failure, task: Task) -> None:
        aborted = task.aborted
        if self._let_go(task):
            if aborted is None:
                self._failed(task, failure.value or RuntimeError("a Failure without an exception"))
            else:
                self.complete(task, aborted)
        self._check_idle()

    def _let_go(self, task: Task) -> bool:
        """Note that the handler is done with ``task``; return whether the initiator still waits for its status."""
        del self._waiting[task]
        if task.aborted != _KEPT:
            return True
        # The kernel must have seen the completion before it is told to free what was kept.
        self._reader.flush()
        self._ring.kept_freed(task)
        self._free_kept(task.cmd_id)
        return False

    def _check_passed(self) -> None:
        for each in list(self._passing):
            tasks, passed = each
            if not any(task in self._waiting for task in tasks):
                self._passing.remove(each)
                passed.callback(None)

    def _check_idle(self) -> None:
        if self._passing:
            self._check_passed()
        if self._waiting:
            return
        idle, self._idle = self._idle, []
        for each in idle:
            each.callback(None)

    def _check_deadline(self) -> None:
        assert self._deadline is not None
        self._timer = None
        expired = self._reactor.seconds() - self._deadline + _DEADLINE_TICK
        overdue = [task for task in self._waiting if task.since <= expired and task.aborted is None]
        if overdue:
            self._log.warn(
                "{log_source}: {count} commands took more than {deadline:g} s and were aborted, the first of them"
                " with CDB {cdb}",
                count=len(overdue),
                deadline=self._deadline,
                cdb=overdue[0].cdb.hex(),
            )
        self.abort_these(overdue, c.BUSY)
        oldest = next((task.since for task in self._waiting if task.since > expired), None)
        if oldest is not None and self._timer is None:
            self._timer = self._reactor.callLater(oldest - expired + _DEADLINE_TICK, self._check_deadline)
