"""The daemon's service: the kernel's events become devices, and devices are drained when it stops.

An ``enable`` or ``rmdir`` in configfs may be waiting, uninterruptibly, for our answer to its event.  So every event
for one of our handlers is answered, whatever becomes of it, and none for anybody else's: the first answer wins, and
it is not ours to give.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from txtcmu.config import Configuration
from txtcmu.errors import BusyError, ConfigError, KernelError, NotReadyError, RingError, TCMUError
from txtcmu.kernel.kmsg import KernelLog, KernelLogConsumer
from txtcmu.kernel.netlink import NetlinkConsumer, NetlinkListener
from txtcmu.kernel.sysfs import UIOConsumer, UIODevice, UIOMonitor, discover, parse_name, wait_for
from txtcmu.kernel.tcm_user import DeviceEvent
from txtcmu.lun.device import Device
from txtcmu.lun.target import KernelTarget, Target
from txtcmu.results import within
from txtcmu.threads import Threads

__all__ = ["Kernel", "TcmuService"]

#: Seconds until whoever enables a device is answered, although it is not open yet.
ADD_PATIENCE: Final = 20.0
#: Seconds until the removal of a device is answered although its backstore is not closed yet.
REMOVE_PATIENCE: Final = 5.0
#: Seconds until a netlink socket that broke is opened again.
REJOIN_DELAY: Final = 1.0
#: Threads for calls into configfs and sysfs: few, and theirs alone, since backstores that hang take all they can get.
KERNEL_THREADS: Final = 4


def _thread_pool(_: Any) -> ThreadPool:
    return ThreadPool(0, KERNEL_THREADS, "kernel")


@frozen
class Kernel:
    """What a service uses of the kernel; tests put theirs in its place."""

    netlink: Callable[[Any, NetlinkConsumer], NetlinkListener] = NetlinkListener
    monitor: Callable[[Any, UIOConsumer], UIOMonitor] = UIOMonitor
    log: Callable[[Any, KernelLogConsumer], KernelLog] = KernelLog
    discover: Callable[[], list[UIODevice]] = discover
    wait_for: Callable[[Any, int], Deferred[UIODevice]] = wait_for
    target: Callable[[UIODevice], Target] = KernelTarget
    thread_pool: Callable[[Any], Any] = _thread_pool


_KERNEL: Final = Kernel()


class TcmuService(Service):
    """Serves every device whose subtype is one of ``factories``.

    :param factories: :class:`~txtcmu.interfaces.IBackstoreFactory` by the subtype that it serves.
    :param drain_timeout: seconds that a stop waits for commands, and again for flush and close.
    :param replies: ask the kernel to wait for our answers (SET_FEATURES).
    :ivar devices: what is served, being opened or closed, by UIO minor.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        factories: Mapping[str, Any],
        configuration: Configuration,
        drain_timeout: float,
        replies: bool,
        kernel: Kernel = _KERNEL,
    ) -> None:
        self.devices: dict[int, Device] = {}
        self._reactor = reactor
        self._factories = factories
        self._configuration = configuration
        self._drain_timeout = drain_timeout
        self._replies = replies
        self._kernel = kernel
        self._netlink = kernel.netlink(reactor, self)
        self._monitor = kernel.monitor(reactor, self)
        self._kernel_log = kernel.log(reactor, self)
        self._pool = kernel.thread_pool(reactor)
        self._threads = Threads(reactor, self._pool)
        self._rejoining: Any = None
        # Devices not closed yet, among them those whose minor another has by now.
        self._open_devices: dict[Device, None] = {}
        # Found by a scan, and not announced since, by minor: whoever enabled them may be waiting for an answer.
        self._found: dict[int, UIODevice] = {}
        # Ids of devices whose ADDED was answered although its event was still to come.
        self._answered: set[int] = set()
        self._answers: set[Deferred[None]] = set()

    def startService(self) -> None:
        """Hear of devices from now on, and look for those that are there.

        :raise TCMUError: the kernel cannot be used; nothing is left behind.
        """
        # Events are heard before the scan, so that no device falls in between.
        self._netlink.start()
        self._pool.start()
        super().startService()  # type: ignore[no-untyped-call]
        self._kernel_log.start()
        try:
            self._monitor.start()
        except Exception:
            self._log.failure("uevents cannot be heard; netlink alone tells of devices")
        if self._replies:
            self._netlink.set_features(True).addErrback(self._log_error, "asking the kernel to wait for replies")
        self.events_lost()

    def stopService(self) -> Deferred[Any]:
        """Drain every device, then stop hearing: removals are answered to the last.

        :return: Deferred of the devices that were given up; their backstores hold on to commands, or threads.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> list[Device]:
        await DeferredList([device.close(self._drain_timeout) for device in list(self._open_devices)])
        for device in self._open_devices:
            self._log.warn("{device}: given up, its backstore is still busy", device=device)
        await within(self._reactor, self._drain_timeout, DeferredList(list(self._answers)))
        self._monitor.stop()
        self._kernel_log.stop()
        self._netlink.stop()
        if self._rejoining is not None:
            self._rejoining.cancel()
            self._rejoining = None
        if not self._open_devices:
            self._pool.stop()
        return list(self._open_devices)

    def _log_error(self, failure: Failure, doing: str) -> None:
        if isinstance(failure.value, TCMUError | OSError):
            self._log.error("{doing}: {error}", doing=doing, error=failure.value)
        else:
            self._log.failure("{doing}", failure, doing=doing)

    def _owns(self, dev_config: str) -> bool:
        return dev_config.partition("/")[0] in self._factories

    # What netlink tells (NetlinkConsumer)

    def device_added(self, event: DeviceEvent) -> None:
        """A device is being enabled: open it, then answer."""
        if self._is_ours(event):
            self._found.pop(event.minor, None)
            self._answer(event, self._add(event))

    async def _add(self, event: DeviceEvent) -> None:
        if event.device_id in self._answered:
            self._answered.discard(event.device_id)
            return
        opening = Deferred.fromCoroutine(self._status(self._find_and_open(event.minor), event.name))
        in_time = await within(self._reactor, ADD_PATIENCE, opening)
        await self._netlink.added_done(event.device_id, await opening if in_time else 0)

    async def _find_and_open(self, minor: int) -> None:
        try:
            uio = await self._kernel.wait_for(self._reactor, minor)
        except KernelError as error:
            self._log.error("{error}", error=error)
            raise
        device = self.devices.get(minor)
        if device is not None and device.closing:
            del self.devices[minor]  # it had this number before
        await self._open(uio)

    async def _status(self, step: Awaitable[None], name: str) -> int:
        """Return what to answer whoever waits for ``step``: 0 when it is done, or a negative errno."""
        try:
            await step
        except ConfigError:
            return -errno.EINVAL
        except (BusyError, NotReadyError):
            return -errno.EBUSY
        except TCMUError:
            return -errno.EIO
        except OSError as error:
            return -(error.errno or errno.EIO)
        except Exception:
            self._log.failure("answering for {name}", name=name)
            return -errno.EIO
        return 0

    def _answer(self, event: DeviceEvent, answering: Coroutine[Any, Any, Any]) -> None:
        answer = Deferred.fromCoroutine(answering)
        answer.addErrback(self._log_error, f"answering for {event.name}")
        self._answers.add(answer)
        answer.addBoth(lambda _: self._answers.discard(answer))

    def device_removed(self, event: DeviceEvent) -> None:
        """A device goes.  Nothing looks at its configfs directory until the answer is sent."""
        if self._is_ours(event):
            self._answer(event, self._remove(event))

    async def _remove(self, event: DeviceEvent) -> None:
        device = self.devices.get(event.minor)
        if device is not None:
            await device.close(REMOVE_PATIENCE)
        self._answered.discard(event.device_id)
        await self._netlink.removed_done(event.device_id)

    def device_reconfigured(self, event: DeviceEvent) -> None:
        """Something of a live device is to change: change it, or refuse it, so that the kernel keeps what was."""
        if self._is_ours(event):
            self._answer(event, self._reconfigure(event))

    async def _reconfigure(self, event: DeviceEvent) -> None:
        status = await self._status(self._change(event), event.name)
        if not await self._netlink.reconfig_done(event.device_id, status) and status:
            # Nobody waited, since replies are off, and so nobody heard.
            self._log.warn("{name}: the kernel has taken a change that was refused; take it back", name=event.name)

    async def _change(self, event: DeviceEvent) -> None:
        device = self.devices.get(event.minor)
        try:
            if device is None or device.closing or not device.admitted:
                raise BusyError("the device is not being served")
            if event.dev_size is not None:
                await device.resize(event.dev_size)
            elif event.write_cache is not None:
                await device.cache_writes(event.write_cache)
            elif event.dev_config is not None:
                await device.reopen(self._configuration.device_config(event.dev_config.rstrip("\n")))
            else:
                raise ConfigError("this kernel changes what txtcmu does not know: use a txtcmu made for it")
        except (TCMUError, OSError) as error:
            self._log.error("{name}: change refused: {error}", name=event.name, error=error)
            raise

    def netlink_lost(self, error: BaseException) -> None:
        """Nobody is answered until events are heard again; devices are served meanwhile."""
        self._log.error("netlink is lost, opening it again: {error}", error=error)
        self._rejoining = self._reactor.callLater(REJOIN_DELAY, self._rejoin)

    def _rejoin(self) -> None:
        self._rejoining = None
        try:
            self._netlink.start()
        except TCMUError as error:
            self.netlink_lost(error)
        else:
            self.events_lost()

    def events_lost(self) -> None:
        """Events may have been lost, or were before our time: look for devices."""
        scanned = Deferred.fromCoroutine(self._scan())
        scanned.addErrback(self._log_error, "looking for devices")

    async def _scan(self) -> None:
        for uio in await self._threads.run(self._kernel.discover):
            self._adopt(uio)

    def _adopt(self, uio: UIODevice) -> None:
        """Open a device that was there already."""
        if self.running and self._owns(uio.dev_config) and uio.minor not in self.devices:
            self._found[uio.minor] = uio
            adopted = Deferred.fromCoroutine(self._open_and_answer(uio))
            adopted.addErrback(self._log_error, f"answering for {uio.name}")

    async def _open_and_answer(self, uio: UIODevice) -> None:
        status = await self._status(self._find_and_open(uio.minor), uio.name)
        # Whoever enabled it may still be waiting for a daemon that died; but a second answer could hit, and so lose
        # for ever, whoever waits for something else by then.
        device_id = await self._threads.run(self._kernel.target(uio).pending)
        if self._found.get(uio.minor) is uio:
            del self._found[uio.minor]
            if device_id is not None:
                if status == 0:
                    self._answered.add(device_id)
                await self._netlink.added_done(device_id, status)

    # What uevents tell (UIOConsumer)

    def uio_added(self, minor: int) -> None:
        """A UIO device of whatever kind appeared; no news where netlink works."""
        if minor not in self.devices:
            # Not every UIO device is a user backstore's, and becomes one to be found.
            self._kernel.wait_for(self._reactor, minor).addCallbacks(self._adopt, lambda _: None)

    def uio_removed(self, minor: int) -> None:
        """A UIO device is gone: its reader sees that by itself, and a new one may have the number already."""

    # What the kernel's log tells (KernelLogConsumer)

    def a_ring_is_broken(self) -> None:
        """A ring is broken, and the kernel does not say whose: mend those that it complains of when they are rung."""
        for device in list(self._open_devices):
            if self._kernel_log.complains(device.doorbell):
                device.ring_broken(RingError("the kernel heeds no completion in it (see dmesg)"))

    # Devices

    def _is_ours(self, event: DeviceEvent) -> bool:
        parsed = parse_name(event.name)
        return parsed is not None and self._owns(parsed[2])

    async def _open(self, uio: UIODevice) -> None:
        """Return when the device answers commands, whoever began to open it.

        :raise TCMUError: it is refused; the line has been logged.
        """
        device = self.devices.get(uio.minor)
        if device is None:
            if not self.running:
                raise KernelError("the daemon is stopping")
            try:
                config = self._configuration.device_config(uio.dev_config)
            except TCMUError as error:
                self._log.error("{name} is refused: {error}", name=uio.name, error=error)
                raise
            factory = self._factories[config.handler]
            device = Device(self._reactor, self._kernel.target(uio), self._threads, factory, config)
            self.devices[uio.minor] = device
            self._open_devices[device] = None
            device.closed().addCallback(lambda _: self._forget(uio.minor, device))
        await device.open()

    def _forget(self, minor: int, device: Device) -> None:
        self._open_devices.pop(device, None)
        if self.devices.get(minor) is device:
            del self.devices[minor]
