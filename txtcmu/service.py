"""The daemon's service: the kernel's events become devices, and devices are drained when it stops.

An ``enable`` or ``rmdir`` in configfs may be waiting, uninterruptibly, for our answer to its event.  So every event
for one of our handlers is answered, whatever becomes of it, and none for anybody else's: the first answer wins, and
it is not ours to give.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.config import Configuration
from txtcmu.errors import ConfigError, TCMUError
from txtcmu.kernel.netlink import NetlinkListener
from txtcmu.kernel.sysfs import UIODevice, UIOMonitor, discover, parse_name, wait_for
from txtcmu.kernel.tcm_user import DeviceEvent
from txtcmu.lun.device import Device
from txtcmu.lun.target import KernelTarget
from txtcmu.threads import run

__all__ = ["TcmuService"]

#: Seconds until the removal of a device is answered although its backstore is not closed yet.
REMOVE_PATIENCE: Final = 5.0


class TcmuService(Service):
    """Serves every device whose subtype is one of ``factories``.

    :param factories: :class:`~txtcmu.interfaces.IBackstoreFactory` by the subtype that it serves.
    :param drain_timeout: seconds that a stop waits for commands, and again for flush and close.
    :param replies: ask the kernel to wait for our answers (SET_FEATURES).
    :ivar devices: what is served, or being opened, by UIO minor.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        factories: Mapping[str, Any],
        configuration: Configuration,
        drain_timeout: float,
        replies: bool,
    ) -> None:
        self.devices: dict[int, Device] = {}
        self._reactor = reactor
        self._factories = factories
        self._configuration = configuration
        self._drain_timeout = drain_timeout
        self._replies = replies
        self._netlink = NetlinkListener(reactor, self)
        self._monitor = UIOMonitor(reactor, self)

    def startService(self) -> None:
        """Hear of devices from now on, and look for those that are there.

        :raise TCMUError: the kernel cannot be used; nothing is left behind.
        """
        # Events are heard before the scan, so that no device falls in between.
        self._netlink.start()
        super().startService()  # type: ignore[no-untyped-call]
        self._monitor.start()
        if self._replies:
            self._netlink.set_features(True).addErrback(self._log_error, "asking the kernel to wait for replies")
        self.events_lost()

    def stopService(self) -> Deferred[Any]:
        """Drain every device, then stop hearing: removals are answered to the last."""
        super().stopService()  # type: ignore[no-untyped-call]
        devices = list(self.devices.values())

        def drained(results: list[tuple[bool, Any]]) -> None:
            for device, (_, closed) in zip(devices, results, strict=True):
                if closed is not True:
                    self._log.warn("{device}: given up, its backstore is still busy", device=device)
            self._monitor.stop()
            self._netlink.stop()

        return DeferredList([device.close(self._drain_timeout) for device in devices]).addCallback(drained)

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
            answered = Deferred.fromCoroutine(self._add(event))
            answered.addErrback(self._log_error, f"answering for {event.name}")

    async def _add(self, event: DeviceEvent) -> None:
        status = 0
        try:
            await self._open(await wait_for(self._reactor, event.minor))
        except TCMUError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
                return  # another daemon has this device, and the answer is that one's to give
            status = -errno.EINVAL if isinstance(error, ConfigError) else -errno.EIO
        except Exception:
            self._log.failure("opening {name}", name=event.name)
            status = -errno.EIO
        await self._netlink.added_done(event.device_id, status)

    def device_removed(self, event: DeviceEvent) -> None:
        """A device goes.  Nothing looks at its configfs directory until the answer is sent."""
        if self._is_ours(event):
            answered = Deferred.fromCoroutine(self._remove(event))
            answered.addErrback(self._log_error, f"answering for {event.name}")

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
        for uio in await run(self._reactor, discover):
            Deferred.fromCoroutine(self._adopt(uio)).addErrback(lambda _: None)

    async def _adopt(self, uio: UIODevice) -> None:
        """Open a device that was there already; errors have been logged."""
        if not self._owns(uio.dev_config) or uio.minor in self.devices:
            return
        await self._open(uio)
        # Whoever enabled it may still be waiting for a daemon that died.
        device_id = await run(self._reactor, KernelTarget(uio).pending)
        if device_id is not None:
            await self._netlink.added_done(device_id, 0)

    # What uevents tell (UIOConsumer)

    def uio_added(self, minor: int) -> None:
        """A UIO device of whatever kind appeared; no news where netlink works."""
        if minor not in self.devices:
            wait_for(self._reactor, minor).addCallback(lambda uio: Deferred.fromCoroutine(self._adopt(uio))).addErrback(
                lambda _: None
            )

    def uio_removed(self, minor: int) -> None:
        """A UIO device is gone."""
        if minor in self.devices:
            self.devices[minor].device_lost()

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
            try:
                config = self._configuration.device_config(uio.dev_config)
            except TCMUError as error:
                self._log.error("{name} is refused: {error}", name=uio.name, error=error)
                raise
            device = Device(self._reactor, KernelTarget(uio), self._factories[config.handler], config)
            self.devices[uio.minor] = device
            device.closed().addCallback(lambda _: self._forget(uio.minor, device))
        await device.open()

    def _forget(self, minor: int, device: Device) -> None:
        if self.devices.get(minor) is device:
            del self.devices[minor]
