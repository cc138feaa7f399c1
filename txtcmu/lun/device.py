"""The life of one device, from its announcement to its last completion.

::

    ANNOUNCED -> OPENING -> SERVING -> DRAINING -> CLOSED
                    |          |
                    v          v
                   DEGRADED  <-+      the backstore is away: NOT READY 04/01, opened again by itself
                   FENCED    <-+      another writer took over: NOT READY 04/03, until an operator acts
                   BROKEN    <-+      the ring cannot be read: nothing is answered until it is reset

Commands go to the :class:`~txtcmu.interfaces.ICommandHandler` that the state calls for, so that no command looks at
the state.  Everything that blocks, or can call back into the daemon, runs in a thread.
"""

from __future__ import annotations

import errno
from enum import Enum
from inspect import iscoroutine
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import (
    BusyError,
    CheckCondition,
    ConfigError,
    FencedError,
    KernelError,
    NotReadyError,
    RingError,
    TCMUError,
    WriteProtectedError,
)
from txtcmu.interfaces import IBackstore, IBackstoreFactory, ICommandHandler
from txtcmu.kernel.ring import TaskManagement, open_ring
from txtcmu.kernel.uio import UIO, RingReader
from txtcmu.lun.commands import UNREAD, BlockCommands, NotReadyCommands, changes_medium
from txtcmu.lun.medium import Medium
from txtcmu.lun.target import Target
from txtcmu.lun.tasks import Task, TaskSet
from txtcmu.results import Promise, as_deferred, within
from txtcmu.scsi.constants import BUSY, GOOD, NOT_READY, TASK_ABORTED
from txtcmu.scsi.sense import sense_of
from txtcmu.scsi.unit import LogicalUnit
from txtcmu.threads import Threads

__all__ = ["Device", "State"]

#: Seconds until whoever enables the device is told that it is there, although its backstore is still being opened.
OPEN_PATIENCE: Final = 10.0
#: Seconds that commands then wait silently, before they are told NOT READY: an initiator that scans a disk which is
#: not ready keeps for good what it is told then, and does without what only the open backstore can tell.
COMMAND_PATIENCE: Final = 10.0
#: Seconds that a device waits for another process to leave it: a predecessor that drains, or dies.
BUSY_PATIENCE: Final = 30.0
_BUSY_RETRY: Final = 0.1
#: Part of the kernel's cmd_time_out that a command may take before it is aborted here.
DEADLINE_SHARE: Final = 0.8


class State(Enum):
    """Where a device is in its life; see the picture above."""

    ANNOUNCED = "announced"
    OPENING = "opening"
    SERVING = "serving"
    DEGRADED = "degraded"
    FENCED = "fenced"
    BROKEN = "broken"
    DRAINING = "draining"
    CLOSED = "closed"


_LIVE: Final = frozenset({State.OPENING, State.SERVING, State.DEGRADED, State.FENCED})
# Ends of commands that are nothing to report: the initiator asked for it, or was asked to come again.
_EXPECTED: Final = (CheckCondition, WriteProtectedError, BusyError, CancelledError)


class Device:
    """One logical unit, between the kernel's ring and its backstore.

    :param target: its kernel side, and ``threads``: where the calls of it that block are made.
    :param factory: who opens its backstore, as ``config`` says.
    """

    def __init__(
        self, reactor: Any, target: Target, threads: Threads, factory: IBackstoreFactory, config: DeviceConfig
    ) -> None:
        self.name = target.name
        self.config = config
        self.state = State.ANNOUNCED
        self._log = Logger(source=self)
        self._reactor = reactor
        self._target = target
        self._in_kernel = threads.run
        self._factory = factory
        self._attached = Promise()
        self._opened = Promise()
        self._closed = Promise()
        self._closing = False

    def __str__(self) -> str:
        return f"{self.name} ({self.config})"

    @property
    def closing(self) -> bool:
        """Whether the device is closed, or on the way there."""
        return self._closing or self.state is State.CLOSED

    def open(self) -> Deferred[None]:
        """Attach to the ring and open the backstore, unless that is under way already.

        :return: fires when commands are answered, if only with NOT READY because the backstore takes its time.
            Fails with a :class:`TCMUError` when the device is refused; nothing of it is left open then.
        """
        if self.state is State.ANNOUNCED:
            self.state = State.OPENING
            Deferred.fromCoroutine(self._open()).addBoth(self._opened.resolve)
        return self._opened.wait()

    def closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the device is closed."""
        return self._closed.wait()

    async def _open(self) -> None:
        try:
            await self._attach()
        except Exception as error:
            self.state = State.CLOSED
            self._log.error("{device} is refused: {error}", device=self, error=error)
            self._attached.resolve(False)
            self._closed.resolve(None)
            raise
        self._attached.resolve(True)
        if self._closing:
            return
        opened = self._medium.open()
        if await within(self._reactor, OPEN_PATIENCE, opened):
            problem = await opened
            if isinstance(problem, ConfigError) and not self._settings.enabled:
                # Whoever enables the device waits for this: he is told, and nothing is left behind.
                self.close(0)
                await self.closed()
                raise problem
            self._read_ring(True)
        else:
            within(self._reactor, COMMAND_PATIENCE, opened).addCallback(self._read_ring)

    def _read_ring(self, tried: bool) -> None:
        if not tried:
            self._log.warn("{device}: opening takes long; NOT READY until it ends", device=self)
        if not self._closing:
            self._reader.start()

    async def _attach(self) -> None:
        """Make the device ours: open it, empty its ring of what a dead daemon left, make reader and tasks."""
        target = self._target
        self._settings = settings = await self._in_kernel(target.settings)
        blocks = max(1, settings.size // settings.block_size)
        self._unit = LogicalUnit(UNREAD, blocks, settings.block_size, max_transfer_blocks=settings.max_blocks)
        self._uio = uio = await self._open_uio()
        try:
            if settings.enabled:
                # Only now that nobody else can have it open.  What is in the ring cannot be resumed.
                await self._in_kernel(target.reset_ring)
            await self._in_kernel(target.want_task_management)
            self._ring = ring = open_ring(uio.memory, Task)
        except Exception:
            self._close_uio()
            raise
        self._reader = reader = RingReader(self._reactor, uio, ring, self)
        deadline = DEADLINE_SHARE * settings.cmd_time_out if settings.cmd_time_out else None
        self._tasks = TaskSet(self._reactor, ring, reader, self._command_failed, self._free_kept, deadline, self._log)
        self._complete = self._tasks.complete
        self._unready(NotReadyError("being opened"))
        self._medium = Medium(
            self._reactor, self._open_backstore, self._tasks.idle, self._serve, self._degrade, self._log, str(self)
        )

    async def _open_uio(self) -> UIO:
        deadline = self._reactor.seconds() + BUSY_PATIENCE
        while True:
            try:
                return self._target.open_uio()
            except KernelError as error:
                busy = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY
                if not busy or self._closing or self._reactor.seconds() >= deadline:
                    raise
            await deferLater(self._reactor, _BUSY_RETRY)

    async def _open_backstore(self) -> Any:
        self.config.refuse_unknown(self._factory.options)
        settings = self._settings
        if settings.size % settings.block_size:
            raise ConfigError(
                f"{settings.size} bytes are no whole number of blocks of {settings.block_size}: mend --size"
            )
        parameters = DeviceParameters(self.config, settings.size, settings.block_size, self._reactor, self._log)
        return await as_deferred(self._factory.open(parameters))

    def _serve(self, backstore: Any) -> None:
        """Let ``backstore`` have the commands from now on.  :raise ConfigError: it is not one for this LUN."""
        if ICommandHandler.providedBy(backstore):
            self._handle = backstore.handle
        else:
            self._check_backstore(backstore)
            commands = BlockCommands(backstore, self._settings, self._read_identity)
            self._handle, self._unit = commands.handle, commands.unit
        self._become(State.SERVING)

    def _check_backstore(self, backstore: Any) -> None:
        if not IBackstore.providedBy(backstore):
            raise ConfigError(f"handler {self.config.handler} opened {backstore!r}, which does not provide IBackstore")
        if backstore.size != self._settings.size:
            raise ConfigError(
                f"{self.config} holds {backstore.size} bytes but the LUN has {self._settings.size}:"
                f" make the LUN again with --size {backstore.size}"
            )

    def _degrade(self, error: BaseException) -> None:
        self._become(State.FENCED if isinstance(error, FencedError) else State.DEGRADED)
        self._unready(error)

    def _become(self, state: State) -> None:
        if self.state in _LIVE and state is not self.state:
            self.state = state
            self._log.info("{device}: {state}", device=self, state=state.value)

    def _unready(self, error: BaseException) -> None:
        self._handle = NotReadyCommands(self._unit, error, self._read_identity).handle

    def _read_identity(self) -> Deferred[Any]:
        return self._in_kernel(self._target.identity)

    # What the ring reader calls (RingConsumer); the first of these is the hot path.

    def command_received(self, task: Task) -> None:
        """Hand ``task`` to the handler, and complete it or wait for its Deferred."""
        try:
            result = self._handle(task)
        except BaseException as error:  # out of here it would take the reader away from the reactor
            self._command_failed(task, error)
            return
        if result is None:
            self._complete(task, GOOD)
        elif isinstance(result, Deferred) or iscoroutine(result):
            self._tasks.wait(task, as_deferred(result))
        else:
            self._tasks.end(task, result)

    def task_management_received(self, request: TaskManagement) -> None:
        """Abort the tasks that ``request`` names; the kernel answers the initiator."""
        self._log.warn(
            "{device}: {function} of {count} commands", device=self, function=request.name, count=len(request.commands)
        )
        self._tasks.abort_these(request.commands, TASK_ABORTED)  # type: ignore[arg-type]  # the ring makes Tasks

    def device_lost(self) -> None:
        """The kernel has unregistered the device."""
        self._log.info("{device}: removed by the kernel", device=self)
        self.close(0)

    def ring_broken(self, error: RingError) -> None:
        """The ring holds what it cannot hold."""
        self._become(State.BROKEN)
        self._log.critical(
            "{device}: the ring is broken, restart the daemon to reset it: {error}", device=self, error=error
        )

    # Endings of commands

    def _command_failed(self, task: Task, error: BaseException) -> None:
        try:
            status, sense = sense_of(error, writing=changes_medium(task.cdb), block_size=self._settings.block_size)
            sense_data = b"" if sense is None else sense.fixed()
        except Exception as impossible:  # a sense key of 300, say
            self._command_failed(task, impossible)
            return
        self._complete(task, status, sense_data)
        if sense is not None and sense.key == NOT_READY and not isinstance(error, CheckCondition):
            self._medium.lose(error)
        elif isinstance(error, TCMUError | OSError | CancelledError):
            if not isinstance(error, _EXPECTED):
                self._log.error("{device}: CDB {cdb}: {error}", device=self, cdb=task.cdb.hex(), error=error)
        else:
            failure = Failure(error)  # type: ignore[no-untyped-call]
            self._log.failure("{device}: CDB {cdb} failed", failure, device=self, cdb=task.cdb.hex())

    def _free_kept(self, cmd_id: int) -> None:
        if self._closing:
            return  # closing the device frees it, and nobody may touch configfs while a removal waits for us
        freeing = self._in_kernel(self._target.free_kept_buf, cmd_id)
        freeing.addErrback(lambda failure: self._log.failure("{device}: freeing a kept buffer", failure, device=self))

    # Closing

    def close(self, patience: float) -> Deferred[bool]:
        """Take no more commands, finish those taken, flush and close the backstore, leave the ring.

        :param patience: seconds until what is outstanding is aborted, and again until the rest is given up.
        :return: fires with true when all is closed, or with false when patience is at an end: then the backstore
            holds on to something, and all is closed when it lets go.  Every caller has a patience of his own; the
            first one's tells when to abort.
        """
        if not self.closing:
            self._closing = True
            if self.state is State.ANNOUNCED:
                self._attached.resolve(False)
                self._opened.resolve(None)
            closed = Deferred.fromCoroutine(self._close(patience))
            closed.addErrback(lambda failure: self._log.failure("{device}: closing", failure, device=self))
            closed.addCallback(self._closed.resolve)
        return within(self._reactor, 2 * patience, self.closed())

    async def _close(self, patience: float) -> None:
        if not await self._attached.wait():
            self.state = State.CLOSED
            return
        self.state = State.DRAINING
        self._reader.stop()
        if not await within(self._reactor, patience, self._tasks.idle()):
            aborted = self._tasks.abort_all(BUSY)
            if aborted:
                self._log.warn("{device}: {aborted} commands were aborted", device=self, aborted=aborted)
        self._reader.flush()
        await self._tasks.idle()
        self._tasks.stop()
        await self._medium.close()
        self._reader.flush()
        self._ring.close()
        self._close_uio()
        self.state = State.CLOSED
        self._log.info("{device}: closed", device=self)

    def _close_uio(self) -> None:
        try:
            self._uio.close()
        except BufferError:
            self._log.critical(
                "{device}: somebody still holds a window of its ring, so the kernel keeps it busy until this daemon"
                " ends; it is a mistake of handler {handler}",
                device=self,
                handler=self.config.handler,
            )
