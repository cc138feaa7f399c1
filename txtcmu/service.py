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

from txtcmu.config import Configuration
from txtcmu.errors import ConfigError, KernelError, TCMUError
from txtcmu.kernel.netlink import NetlinkConsumer, NetlinkListener
from txtcmu.kernel.sysfs import UIOConsumer, UIODevice, UIOMonitor, discover, parse_name, wait_for
from txtcmu.kernel.tcm_user import DeviceEvent
from txtcmu.lun.device import Device
from txtcmu.lun.target import KernelTarget, Target
from txtcmu.results import within
from txtcmu.threads import run

__all__ = ["Kernel", "TcmuService"]

#: Seconds until the removal of a device is answered although its backstore is not closed yet.
REMOVE_PATIENCE: Final = 5.0


@frozen
class Kernel:
    """What a service uses of the kernel; tests put theirs in its place."""

    netlink: Callable[[Any, NetlinkConsumer], NetlinkListener] = NetlinkListener
    monitor: Callable[[Any, UIOConsumer], UIOMonitor] = UIOMonitor
    discover: Callable[[], list[UIODevice]] = discover
    wait_for: Callable[[Any, int], Deferred[UIODevice]] = wait_for
    target: Callable[[UIODevice], Target] = KernelTarget


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
        # Devices not closed yet, among them those whose minor another has by now.
        self._open_devices: dict[Device, None] = {}
        # Minors whose ADDED event is, or was, answered as such.
        self._announced: set[int] = set()
        self._answers: set[Deferred[None]] = set()

    def startService(self) -> None:
        """Hear of devices from now on, and look for those that are there.

        :raise TCMUError: the kernel cannot be used; nothing is left behind.
        """
        # Events are heard before the scan, so that no device falls in between.
        self._netlink.start()
        super().startService()  # type: ignore[no-untyped-call]
        try:
            self._monitor.start()
        except Exception:
            self._log.failure("uevents cannot be heard; netlink alone tells of devices")
        if self._replies:
            self._netlink.set_features(True).addErrback(self._log_error, "asking the kernel to wait for replies")
        self.events_lost()

    def stopService(self) -> Deferred[Any]:
        """Drain every device, then stop hearing: removals are answered to the last."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await DeferredList([device.close(self._drain_timeout) for device in list(self._open_devices)])
        for device in self._open_devices:
            self._log.warn("{device}: given up, its backstore is still busy", device=device)
        await within(self._reactor, self._drain_timeout, DeferredList(list(self._answers)))
        self._monitor.stop()
        self._netlink.stop()

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
            self._announced.add(event.minor)
            self._answer(event, self._add(event))

    async def _add(self, event: DeviceEvent) -> None:
        status = await self._status(self._find_and_open(event.minor), event.name)
        await self._netlink.added_done(event.device_id, status)

    async def _find_and_open(self, minor: int) -> None:
        uio = await self._kernel.wait_for(self._reactor, minor)
        device = self.devices.get(minor)
        if device is not None and device.closing:
            del self.devices[minor]  # it had this number before
        await self._open(uio)

    async def _status(self, opening: Awaitable[None], name: str) -> int:
        """Return what to answer whoever enables the device: 0 when it is open, or a negative errno."""
        try:
            await opening
        except ConfigError:
            return -errno.EINVAL
        except TCMUError as error:
            # Another daemon that serves the device has answered long ago, and its answer counts.
            busy = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY
            return -errno.EBUSY if busy else -errno.EIO
        except Exception:
            self._log.failure("opening {name}", name=name)
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
        await self._netlink.removed_done(event.device_id)

    def device_reconfigured(self, event: DeviceEvent) -> None:
        """Live changes are refused, so that the kernel keeps what was."""
        if self._is_ours(event):
            refused = self._netlink.reconfig_done(event.device_id, -errno.EOPNOTSUPP)
            refused.addErrback(self._log_error, f"answering for {event.name}")

    def netlink_lost(self, error: BaseException) -> None:
        """Devices are served, and heard of through uevents, but nobody gets an answer."""
        self._log.critical("netlink is lost, restart the daemon: {error}", error=error)

    def events_lost(self) -> None:
        """Events may have been lost, or were before our time: look for devices."""
        scanned = Deferred.fromCoroutine(self._scan())
        scanned.addErrback(self._log_error, "looking for devices")

    async def _scan(self) -> None:
        for uio in await run(self._reactor, self._kernel.discover):
            self._adopt(uio)

    def _adopt(self, uio: UIODevice) -> None:
        """Open a device that was there already."""
        if self.running and self._owns(uio.dev_config) and uio.minor not in self.devices:
            adopted = Deferred.fromCoroutine(self._open_and_answer(uio))
            adopted.addErrback(self._log_error, f"answering for {uio.name}")

    async def _open_and_answer(self, uio: UIODevice) -> None:
        status = await self._status(self._open(uio), uio.name)
        # Whoever enabled it may still be waiting for a daemon that died; but a second answer could hit, and so lose
        # for ever, whoever waits for something else by then.
        if uio.minor not in self._announced:
            device_id = await run(self._reactor, self._kernel.target(uio).pending)
            if device_id is not None:
                await self._netlink.added_done(device_id, status)

    # What uevents tell (UIOConsumer)

    def uio_added(self, minor: int) -> None:
        """A UIO device of whatever kind appeared; no news where netlink works."""
        if minor not in self.devices:
            # Not every UIO device is a user backstore's, and becomes one to be found.
            self._kernel.wait_for(self._reactor, minor).addCallbacks(self._adopt, lambda _: None)

    def uio_removed(self, minor: int) -> None:
        """A UIO device is gone: its reader sees that by itself, and a new one may have the number already."""

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
            device = Device(self._reactor, self._kernel.target(uio), self._factories[config.handler], config)
            self.devices[uio.minor] = device
            self._open_devices[device] = None
            device.closed().addCallback(lambda _: self._forget(uio.minor, device))
        await device.open()

    def _forget(self, minor: int, device: Device) -> None:
        self._open_devices.pop(device, None)
        if self.devices.get(minor) is device:
            del self.devices[minor]
            self._announced.discard(minor)
