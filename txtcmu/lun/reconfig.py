"""RECONFIG: an operator changes the size, the dev_config or the write cache of a live device.

Somebody waits uninterruptibly for each answer, so none takes longer than a patience, whatever the backstore does.

*Kernel and device never differ for long.*  The kernel takes the new value when the answer is 0, and keeps the old one
otherwise.  Here nothing counts as changed before the step that decides on that answer.  A change that is not made by
then has failed, and stays so: whatever the backstore may still do late, it is told to take back before the next change
is let in, before the backstore is closed, and before commands may use what was in dispute.  If even that fails, the
backstore is opened anew, and compared with what the kernel keeps as at any opening.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import BackstoreError, BusyError, ConfigError, NotReadyError
from txtcmu.interfaces import ICommandHandler, IResizable
from txtcmu.lun.commands.rw import cache_writes
from txtcmu.results import Promise, as_deferred, within
from txtcmu.scsi import constants as c
from txtcmu.scsi.constants import BUSY
from txtcmu.threads import uncancellable

if TYPE_CHECKING:
    from txtcmu.lun.device import Device

__all__ = ["Reconfiguration"]

#: Seconds until outstanding commands that a change must not meet are aborted; initiators send them again.
DRAIN_PATIENCE: Final = 5.0
#: Seconds until a change that is not made is given up.
CHANGE_PATIENCE: Final = 15.0


class Reconfiguration:
    """The changes of one device, one at a time.

    Each method's Deferred fails with :class:`ConfigError` when it cannot be, :class:`BusyError` when it cannot be
    now, or with the error of the backstore; then everything is, or will be again, as it was.
    """

    def __init__(self, reactor: Any, device: Device, log: Logger) -> None:
        self._reactor = reactor
        self._device = device
        self._log = log
        self._change: Deferred[BaseException | None] | None = None
        self._late = False
        self._in_use: Promise | None = None

    async def resize(self, size: int) -> None:
        """Make the disk ``size`` bytes long, or find that its storage has grown to that by itself.

        Before a disk shrinks, commands behind the new end are refused, and those that came before are waited for.
        """
        settings = self._device.settings
        if size <= 0 or size % settings.block_size:
            raise ConfigError(f"{size} bytes are no whole number of blocks of {settings.block_size}: give a multiple")
        if size != settings.size or self._change is not None:
            await self._make(self._resize, f"dev_size={size}", size)

    async def cache_writes(self, on: bool) -> None:
        """Switch the write cache (WCE): while it is off, a write is answered when it is durable.

        Before it is off, what was answered becomes durable; commands wait in the ring meanwhile.
        """
        if on != self._device.unit.write_cache or self._change is not None:
            await self._make(self._cache_writes, f"emulate_write_cache={on:d}", on)

    async def reopen(self, config: DeviceConfig) -> None:
        """Close the backstore and open it with the options of ``config``; commands wait in the ring meanwhile."""
        old = self._device.config
        if (config.handler, config.path) != (old.handler, old.path):
            raise ConfigError(f"{config.handler}/{config.path} is another disk than {old}: make another LUN for it")
        if config != old or self._change is not None:
            await self._make(self._reopen, f"dev_config={config}", config)

    def cancel(self) -> None:
        """Have the change under way end soon, if its backstore lets it: the device is being closed."""
        if self._change is not None:
            self._late = True
            self._change.cancel()

    def released(self) -> Deferred[None]:
        """Return a Deferred that fires when no change is using the backstore."""
        return succeed(None) if self._in_use is None else self._in_use.wait()

    async def _make(self, change: Callable[..., Coroutine[Any, Any, None]], what: str, *args: Any) -> None:
        if self._change is not None:
            raise BusyError("an earlier change is still under way: try again when it has ended")
        if not self._device.serving:
            raise BusyError(f"the device is {self._device.state.value}: try again when it is serving")
        self._late = False
        # In place before it runs, since it may end at once.
        started: Deferred[None] = Deferred()
        self._change = under_way = started.addCallback(lambda _: Deferred.fromCoroutine(self._ending(change(*args))))
        started.callback(None)
        if not await within(self._reactor, CHANGE_PATIENCE, under_way):
            self.cancel()
            self._device.hold(False)
            under_way.addCallback(lambda _: self._log.info("{log_source}: {what} was taken back", what=what))
            raise BusyError("the backstore takes too long")
        problem = await under_way
        if isinstance(problem, CancelledError):
            raise BusyError("the device is being closed")
        if isinstance(problem, Exception):
            raise problem
        if problem is not None:
            # asyncio's CancelledError, say: on the way to the answer nobody expects such a one.
            raise BackstoreError(f"the backstore raised {problem!r}") from problem

    async def _ending(self, change: Coroutine[Any, Any, None]) -> BaseException | None:
        """Make ``change``; return how it failed."""
        try:
            await change
        except BaseException as error:  # whatever it is, it may have come from a handler
            return error
        finally:
            self._change = None
            self._device.hold(False)
        return None

    def _check(self, backstore: Any) -> None:
        """Raise unless the change may still be made."""
        if self._late or self._device.closing:
            raise BusyError("it took too long")
        if self._device.medium.backstore is not backstore:
            raise NotReadyError("the backstore was lost meanwhile")

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._in_use = in_use = Promise()
        try:
            yield
        finally:
            self._in_use = None
            in_use.resolve(None)

    def _disk(self) -> Any:
        backstore = self._device.medium.backstore
        if ICommandHandler.providedBy(backstore):
            raise ConfigError(f"handler {self._device.config.handler} answers SCSI by itself; it has no such setting")
        return backstore

    async def _drain(self) -> None:
        """Wait for the commands that are outstanding now; abort those that take too long."""
        tasks = self._device.tasks
        before = tasks.waiting
        passed = tasks.passed(before)
        if not await within(self._reactor, DRAIN_PATIENCE, passed):
            tasks.abort_these(before, BUSY)
            await uncancellable(passed)

    async def _resize(self, size: int) -> None:
        device, backstore = self._device, self._disk()
        if not IResizable.providedBy(backstore) and backstore.size != size:
            raise ConfigError(
                f"handler {device.config.handler} cannot resize an open disk, and its storage has"
                f" {backstore.size} bytes: change the storage first"
            )
        old, unit = device.settings.size, device.unit
        with self._using():
            try:
                if size < old:
                    # From now on nobody new gets behind the end.
                    unit.blocks = size // unit.block_size
                    await self._drain()
                    self._check(backstore)
                if IResizable.providedBy(backstore):
                    await self._resize_storage(backstore, old, size)
            except BaseException:
                unit.blocks = old // unit.block_size
                raise
        device.settings = evolve(device.settings, size=size)
        unit.blocks = size // unit.block_size
        device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)

    async def _resize_storage(self, backstore: Any, old: int, size: int) -> None:
        try:
            await as_deferred(backstore.resize(size))
            self._check(backstore)
            if backstore.size != size:
                raise ConfigError(f"the backstore has {backstore.size} bytes after it was resized to {size}")
        except ConfigError as error:
            if backstore.size != old:
                await self._take_back(backstore, old, error)
            raise
        except BaseException as error:
            # It may have failed, or been given up, and be done all the same.
            await self._take_back(backstore, old, error)
            raise

    async def _take_back(self, backstore: Any, old: int, why: BaseException) -> None:
        try:
            await uncancellable(as_deferred(backstore.resize(old)))
        except BaseException as error:
            self._device.medium.lose(NotReadyError(f"{why}, and then it could not be brought back to {old}: {error}"))

    async def _flush(self, backstore: Any) -> None:
        if not backstore.read_only:
            await as_deferred(backstore.flush())
        self._check(backstore)

    async def _cache_writes(self, on: bool) -> None:
        device, backstore = self._device, self._disk()
        if not on:
            # Held, so that no MODE SENSE and no MODE SELECT speaks of a cache that is neither on nor off.
            device.hold(True)
            await self._drain()
            self._check(backstore)
            with self._using():
                await self._flush(backstore)
        cache_writes(device.unit, backstore, on)
        device.attentions.establish(c.MODE_PARAMETERS_CHANGED)

    async def _reopen(self, config: DeviceConfig) -> None:
        device, backstore = self._device, self._device.medium.backstore
        await device.check_config(config)
        self._check(backstore)
        old = device.config
        device.hold(True)
        await self._drain()
        self._check(backstore)
        if not ICommandHandler.providedBy(backstore):
            with self._using():
                await self._flush(backstore)
        device.config = config
        try:
            # An opening cannot be called off: what it opens must be closed.
            error = await uncancellable(device.medium.reopen())
            if error is not None:
                raise error
            if self._late or device.closing:
                raise BusyError("it took too long")
        except BaseException:
            device.config = old
            if not device.closing:
                await uncancellable(device.medium.reopen())
            raise
