"""The life of one device, from its announcement to its last completion.

::

    ANNOUNCED -> OPENING -> SERVING -> DRAINING -> CLOSED
                    |          |
                    v          v
                   DEGRADED  <-+      the backstore is away: NOT READY 04/01, opened again by itself
                   FENCED    <-+      another writer took over, or acknowledged writes are lost:
                                      NOT READY 04/03, until an operator acts
                   BROKEN    <-+      the ring cannot be used: it is emptied and begun anew, by itself

Commands go to the :class:`~txtcmu.interfaces.ICommandHandler` that the state calls for, so that no command looks at
the state.  Everything that blocks, or can call back into the daemon, runs in a thread.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, FencedError, NotReadyError, RingError
from txtcmu.interfaces import IBackstore, IBackstoreFactory, ICommandHandler
from txtcmu.lun.attachment import Attachment
from txtcmu.lun.commands import UNREAD, BlockCommands, NotReadyCommands
from txtcmu.lun.dispatch import Dispatcher
from txtcmu.lun.medium import Medium
from txtcmu.lun.reconfig import Reconfiguration
from txtcmu.lun.target import Target
from txtcmu.lun.tasks import TaskSet
from txtcmu.results import Promise, as_deferred, within
from txtcmu.scsi.constants import BUSY
from txtcmu.scsi.unit import LogicalUnit
from txtcmu.threads import Threads

__all__ = ["Device", "State"]

#: Seconds until whoever enables the device is told that it is there, although its backstore is still being opened.
OPEN_PATIENCE: Final = 10.0
#: Seconds that commands then wait silently, before they are told NOT READY: an initiator that scans a disk which is
#: not ready keeps for good what it is told then, and does without what only the open backstore can tell.
COMMAND_PATIENCE: Final = 10.0


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


class Device:
    """One logical unit, between the kernel's ring and its backstore.

    :param target: its kernel side, and ``threads``: where the calls of it that block are made.
    :param factory: who opens its backstore, as ``config`` says.
    :ivar admitted: commands are answered, if only with NOT READY; what follows is there from then on.
    :ivar settings: what the kernel has for it, and ``unit``: what initiators may learn of it.
    :ivar attentions: what initiators have yet to be told, and ``medium``: its backstore.
    :ivar resize: with ``cache_writes`` and ``reopen``: changes it, see :class:`Reconfiguration`.
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
        self._threads = threads
        self._factory = factory
        # What the device would be if its ring were sound.
        self._condition = State.OPENING
        self._attached = Promise()
        self._opened = Promise()
        self._closed = Promise()
        self._left = Promise()
        self._closing = False
        self.admitted = False
        self._held = False
        self._has_served = False
        self._mending: Promise | None = None
        self._changes = Reconfiguration(reactor, self, self._log)
        self.resize = self._changes.resize
        self.cache_writes = self._changes.cache_writes
        self.reopen = self._changes.reopen

    def __str__(self) -> str:
        return f"{self.name} ({self.config})"

    @property
    def serving(self) -> bool:
        """Whether the backstore has the commands."""
        return self.state is State.SERVING

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
        opened = self.medium.open()
        if await within(self._reactor, OPEN_PATIENCE, opened):
            problem = await opened
            if isinstance(problem, ConfigError) and not self.settings.enabled:
                # Whoever enables the device waits for this: he is told, and nothing is left behind.
                self.close(0)
                await self.closed()
                raise problem
            self._admit(True)
        else:
            within(self._reactor, COMMAND_PATIENCE, opened).addCallback(self._admit)

    def _admit(self, tried: bool) -> None:
        if not tried:
            self._log.warn("{device}: opening takes long; NOT READY until it ends", device=self)
        self.admitted = True
        self._read()

    def hold(self, held: bool) -> None:
        """Leave commands in the ring, or take them again."""
        self._held = held
        self._read()

    def _read(self) -> None:
        self._attachment.read(self.admitted and not self._held and not self._closing and self.state in _LIVE)

    async def _attach(self) -> None:
        """Make the device ours."""
        self.settings = settings = await self._threads.run(self._target.settings)
        blocks = max(1, settings.size // settings.block_size)
        self.unit = LogicalUnit(
            UNREAD,
            blocks,
            settings.block_size,
            max_transfer_blocks=settings.max_blocks,
            write_cache=settings.write_cache or not settings.enabled,
        )
        dispatcher = Dispatcher(settings.block_size, self._lost, self._log)
        self._dispatcher = dispatcher
        self.attentions = dispatcher.attentions
        self.command_received = dispatcher.command_received
        self.task_management_received = dispatcher.task_management_received
        self._attachment = attachment = Attachment(
            self._reactor,
            self._target,
            self._threads,
            settings,
            self._left,
            self,
            dispatcher.command_failed,
            self._log,
        )
        await attachment.open()
        dispatcher.complete_in(attachment.tasks)
        self._unready(NotReadyError("being opened"))
        self.medium = Medium(
            self._reactor, self._open_backstore, self._idle, self._serve, self._degrade, self._log, str(self)
        )

    @property
    def tasks(self) -> TaskSet:
        """The outstanding commands."""
        return self._attachment.tasks

    def _idle(self) -> Deferred[None]:
        """Return a Deferred that fires when neither a command nor a change uses the backstore."""
        return self.tasks.idle().addCallback(lambda _: self._changes.released())

    def _lost(self, error: BaseException) -> None:
        self.medium.lose(error)

    async def _open_backstore(self) -> Any:
        self.config.refuse_unknown(self._factory.options)
        settings = self.settings
        if settings.size % settings.block_size:
            raise ConfigError(
                f"{settings.size} bytes are no whole number of blocks of {settings.block_size}: mend --size"
            )
        served, cached = settings.enabled or self._has_served, self.unit.write_cache
        parameters = DeviceParameters(
            self.config, settings.size, settings.block_size, self._reactor, self._log, self.name, served, cached
        )
        return await as_deferred(self._factory.open(parameters))

    async def check_config(self, config: DeviceConfig) -> None:
        """Raise :class:`ConfigError` if its handler would have nothing to do with ``config``."""
        config.refuse_unknown(self._factory.options)
        problem = await as_deferred(self._factory.check(config))
        if problem is not None:
            raise ConfigError(str(problem))

    def _serve(self, backstore: Any) -> None:
        """Let ``backstore`` have the commands from now on.  :raise ConfigError: it is not one for this LUN."""
        if ICommandHandler.providedBy(backstore):
            self.attentions.guard(backstore.handle)
        else:
            self._check_backstore(backstore)
            # Off if the handler or an initiator wants it off.
            write_cache = self.unit.write_cache and getattr(backstore, "write_cache", True)
            commands = BlockCommands(
                self._reactor, backstore, self.settings, self._read_identity, self._keep_write_cache, write_cache
            )
            before, self.unit = self.unit, commands.unit
            if self._has_served:
                self.attentions.compare(before, self.unit)
            self._has_served = True
            self.attentions.guard(commands.handle)
        self._become(State.SERVING)

    def _check_backstore(self, backstore: Any) -> None:
        if not IBackstore.providedBy(backstore):
            raise ConfigError(f"handler {self.config.handler} opened {backstore!r}, which does not provide IBackstore")
        if backstore.size != self.settings.size:
            raise ConfigError(
                f"{self.config} holds {backstore.size} bytes but the LUN has {self.settings.size}:"
                f" make the LUN again with --size {backstore.size}"
            )

    def _degrade(self, error: BaseException) -> None:
        self._become(State.FENCED if isinstance(error, FencedError) else State.DEGRADED)
        self._unready(error)

    def _become(self, state: State) -> None:
        self._condition = state
        if self.state in _LIVE and state is not self.state:
            self.state = state
            self._log.info("{device}: {state}", device=self, state=state.value)

    def _unready(self, error: BaseException) -> None:
        self.attentions.guard(NotReadyCommands(self.unit, error, self._read_identity).handle)

    def _read_identity(self) -> Deferred[Any]:
        return self._threads.run(self._target.identity)

    def _keep_write_cache(self, on: bool) -> Deferred[None]:
        return self._threads.run(self._target.keep_write_cache, on)

    # What becomes of the ring (RingConsumer, beside what the dispatcher does)

    def device_lost(self) -> None:
        """The kernel has unregistered the device."""
        self._log.info("{device}: removed by the kernel", device=self)
        self.close(0)

    def doorbell(self) -> None:
        """Have the kernel look at the ring, if there is one in use."""
        if self.admitted and self.state in _LIVE:
            self._attachment.doorbell()

    def ring_broken(self, error: RingError) -> None:
        """The ring holds what it cannot hold, or the kernel says so: nothing more can be done in it; mend it."""
        if self.state in _LIVE and not self._closing:
            self.state = State.BROKEN
            self._log.error("{device}: the ring is broken: {error}", device=self, error=error)
            self._mending = mending = Promise()
            mended = Deferred.fromCoroutine(self._mend())
            mended.addErrback(lambda failure: self._log.failure("{device}: mending the ring", failure, device=self))
            mended.addBoth(mending.resolve)

    async def _mend(self) -> None:
        try:
            await self._attachment.mend()
        except OSError:
            self.device_lost()
            return
        self._dispatcher.complete_in(self.tasks)
        if not self._closing:
            self.state = self._condition
            self._log.warn("{device}: the ring is mended; what was outstanding ended with BUSY", device=self)
            self._read()

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
            self._left.resolve(None)
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
        self._read()
        if not await within(self._reactor, patience, self._idle()):
            aborted = self.tasks.abort_all(BUSY)
            if aborted:
                self._log.warn("{device}: {aborted} commands were aborted", device=self, aborted=aborted)
            self._changes.cancel()
        self._attachment.flush()
        if self._mending is not None:
            await self._mending.wait()
        await self._idle()
        self.tasks.stop()
        await self.medium.close()
        self._attachment.close()
        self.state = State.CLOSED
        self._log.info("{device}: closed", device=self)
