"""The UIO devices of user backstores, found in sysfs.

Netlink is how a daemon hears of devices; this is how it finds those that were there before it, and those whose
event was lost.  pyudev enumerates them and hears of them where libudev is installed; a plain look at sysfs does
where it is not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txtcmu.errors import KernelError

__all__ = ["DEV", "SYSFS", "UIOConsumer", "UIODevice", "UIOMonitor", "discover", "lookup", "parse_name", "wait_for"]

SYSFS = Path("/sys")
DEV = Path("/dev")
_PREFIX = "tcm-user"
_POLL_SECONDS = 0.02


@frozen
class UIODevice:
    """What sysfs says of one user backstore's UIO device.

    :ivar minor: N of ``/dev/uioN``.
    :ivar node: the path of the device node, which may appear a little later than the device.
    :ivar hba: N of the backstore's ``core/user_N`` in configfs.
    :ivar name: the backstore's directory below that.
    :ivar dev_config: as the kernel gives it, empty when there is none.
    :ivar map_size: bytes to map: mailbox, ring and data area.
    """

    minor: int
    node: str
    hba: int
    name: str
    dev_config: str
    map_size: int

    @property
    def ready(self) -> bool:
        """Whether the device node is there."""
        try:
            return stat.S_ISCHR(os.stat(self.node).st_mode)
        except OSError:
            return False


def parse_name(text: str) -> tuple[int, str, str] | None:
    """Take a UIO device's name apart: HBA number, backstore name, dev_config (which may be empty, or hold slashes).

    Newlines at the end are sysfs's own, or come from an ``echo`` into dev_config.

    :return: ``None`` when the device is not a user backstore's.
    """
    prefix, hba, name, dev_config, *_ = [*text.rstrip("\n").split("/", 3), "", "", ""]
    if prefix != _PREFIX or not name or not hba.isascii() or not hba.isdigit():
        return None
    return int(hba), name, dev_config


def lookup(minor: int, sysfs: Path = SYSFS, dev: Path = DEV) -> UIODevice | None:
    """Return UIO device ``minor``, or ``None`` when it is not there (yet, or any more) or not a user backstore's."""
    directory = sysfs / "class" / "uio" / f"uio{minor}"
    try:
        parsed = parse_name((directory / "name").read_text(errors="surrogateescape"))
        # The kernel announces a device before it has made this file.
        map_size = int((directory / "maps" / "map0" / "size").read_text(), 16)
    except (OSError, ValueError):
        return None
    if parsed is None:
        return None
    return UIODevice(minor, str(dev / f"uio{minor}"), *parsed, map_size)


def _context() -> Any:
    """Return a pyudev Context, or ``None`` when libudev (or sysfs) is missing."""
    try:
        from pyudev import Context

        return Context()
    except (ImportError, OSError):
        return None


def _minor(name: str) -> int | None:
    number = name.removeprefix("uio")
    return int(number) if name != number and number.isascii() and number.isdigit() else None


def _names(sysfs: Path) -> Iterable[str]:
    context = _context() if sysfs == SYSFS else None  # libudev knows no other place
    if context is not None:
        return [device.sys_name for device in context.list_devices(subsystem="uio")]
    try:
        return os.listdir(sysfs / "class" / "uio")
    except OSError:
        return []  # no UIO device was ever made


def discover(sysfs: Path = SYSFS, dev: Path = DEV) -> list[UIODevice]:
    """Return every user backstore's UIO device, in order of their numbers."""
    minors = sorted(minor for minor in map(_minor, _names(sysfs)) if minor is not None)
    return [device for device in (lookup(minor, sysfs, dev) for minor in minors) if device is not None]


def wait_for(
    reactor: Any, minor: int, timeout: float = 10.0, sysfs: Path = SYSFS, dev: Path = DEV
) -> Deferred[UIODevice]:
    """Wait until UIO device ``minor`` can be opened: its node is there, and sysfs knows the size of its map.

    :return: Deferred of the device, or of a :class:`KernelError`; can be cancelled.
    """
    deadline = reactor.seconds() + timeout
    found: list[UIODevice] = []

    def look() -> None:
        device = lookup(minor, sysfs, dev)
        if device is not None and device.ready:
            found.append(device)
            loop.stop()
        elif reactor.seconds() >= deadline:
            raise KernelError(
                f"{dev}/uio{minor} did not appear in {timeout:g} s: mount devtmpfs on {dev}, or run udev there"
            )

    loop = LoopingCall(look)
    loop.clock = reactor

    def cancel(_: object) -> None:
        if loop.running:
            loop.stop()

    waiting: Deferred[UIODevice] = Deferred(cancel)

    def ended(_: object) -> None:
        if found and not waiting.called:
            waiting.callback(found[0])

    def failed(failure: Failure) -> None:
        if not waiting.called:
            waiting.errback(failure)

    loop.start(_POLL_SECONDS).addCallbacks(ended, failed)
    return waiting


class UIOConsumer(Protocol):
    """Who hears of UIO devices coming and going, of whatever kind.  Called in the reactor's thread."""

    def uio_added(self, minor: int) -> None:
        """Hear of a new UIO device; see :func:`wait_for`."""

    def uio_removed(self, minor: int) -> None:
        """Hear that a UIO device is gone."""

    def events_lost(self) -> None:
        """Hear that events may have been dropped: scan the UIO devices."""


def _kernel_monitor() -> Any:
    """Return a pyudev Monitor of UIO devices, or ``None`` when libudev is missing.

    The source is the kernel itself: containers and small guests run no udevd.
    """
    context = _context()
    if context is None:
        return None
    from pyudev import Monitor

    monitor = Monitor.from_netlink(context, source="kernel")
    monitor.filter_by("uio")
    monitor.start()
    return monitor


@implementer(IReadDescriptor)
class UIOMonitor:
    """Hears of UIO devices from the kernel's uevents: a second ear, for when TCM-USER events do not come."""

    _log = Logger()

    def __init__(self, reactor: Any, consumer: UIOConsumer, make_monitor: Callable[[], Any] = _kernel_monitor) -> None:
        self._reactor = reactor
        self._consumer = consumer
        self._make_monitor = make_monitor
        self._monitor: Any = None

    def start(self) -> bool:
        """Begin to hear.

        :return: ``False`` when there is no libudev; then only netlink and scans find devices.
        """
        self._monitor = self._make_monitor()
        if self._monitor is None:
            return False
        self._reactor.addReader(self)
        return True

    def stop(self) -> None:
        """Hear no more; harmless when it never started."""
        if self._monitor is not None:
            self._reactor.removeReader(self)
            self._monitor = None  # libudev closes the socket when the object goes

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return -1 if self._monitor is None else int(self._monitor.fileno())

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "uio monitor"

    def doRead(self) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        while self._monitor is not None:
            try:
                device = self._monitor.poll(timeout=0)
            except OSError:
                self._tell(self._consumer.events_lost)
                return
            if device is None:
                return
            minor = _minor(device.sys_name)
            if minor is not None and device.action == "add":
                self._tell(self._consumer.uio_added, minor)
            elif minor is not None and device.action == "remove":
                self._tell(self._consumer.uio_removed, minor)

    def _tell(self, method: Callable[..., object], *args: int) -> None:
        try:
            method(*args)
        except Exception:
            self._log.failure("consumer of UIO events failed")

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        self._monitor = None
