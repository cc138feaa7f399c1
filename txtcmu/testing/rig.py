"""A whole device without a kernel: your backstore under the real ring, the real SCSI commands and a fake kernel.

::

    rig = Rig(MyBackstore())
    command = rig.initiator.write(0, b"x" * 512)
    rig.settle()
    command.status                # 0
    rig.close()                   # drains the device, and fails if any rule of the ring was broken
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from zope.interface import implementer

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import KernelError
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.kernel.uio import UIO
from txtcmu.lun.device import Device, State
from txtcmu.lun.target import Settings
from txtcmu.scsi.unit import Identity
from txtcmu.testing.fakekernel import FakeKernel
from txtcmu.testing.initiator import FakeInitiator
from txtcmu.testing.reactor import FakeReactor
from txtcmu.threads import Threads

__all__ = ["FakeTarget", "OneBackstore", "Rig"]


class FakeTarget:
    """The kernel's side of a device (:class:`~txtcmu.lun.target.Target`) on a fake kernel.

    :ivar calls: the names of the methods called so far.
    :ivar device_id: what netlink calls the device.
    """

    device_id = 1

    def __init__(self, kernel: FakeKernel, settings: Settings, name: str = "fake") -> None:
        self.name = name
        self.kernel = kernel
        self.calls: list[str] = []
        self._settings = settings

    def open_uio(self) -> UIO:
        """Open the fake UIO device."""
        self.calls.append("open_uio")
        try:
            return self.kernel.open()
        except OSError as error:
            raise KernelError(f"cannot open the fake device: {error}") from error

    def settings(self) -> Settings:
        """Return what the rig was given."""
        self.calls.append("settings")
        return self._settings

    def enabled(self, enabled: bool = True) -> None:
        """Have the device look as if it had been there before the daemon."""
        self._settings = evolve(self._settings, enabled=enabled)

    def identity(self) -> Identity:
        """Return a serial number made for tests."""
        self.calls.append("identity")
        return Identity("0123456789abcdef0123456789abcdef")

    def pending(self) -> int | None:
        """Return the device id until the device is enabled."""
        self.calls.append("pending")
        return None if self._settings.enabled else self.device_id

    def want_task_management(self) -> None:
        """Switch TMR entries on."""
        self.calls.append("want_task_management")
        self.kernel.tmr_notification = True

    def keep_write_cache(self, on: bool) -> None:
        """Keep it for the next device on this target."""
        self.calls.append("keep_write_cache")
        self._settings = evolve(self._settings, write_cache=on)

    def reset_ring(self) -> None:
        """Reset the fake ring."""
        self.calls.append("reset_ring")
        self.kernel.reset_ring(1)

    def free_kept_buf(self, cmd_id: int) -> None:
        """Free a kept buffer."""
        self.calls.append("free_kept_buf")
        self.kernel.free_kept_buf(cmd_id)


@implementer(IBackstoreFactory)
class OneBackstore:
    """A factory that opens what it is given, each time; an exception instead of a backstore is raised.

    :ivar opened: how often it was asked.
    """

    name = "fake"
    summary = "A backstore made by a test."
    config_help = "fake/anything"
    options: frozenset[str] = frozenset()

    def __init__(self, backstore: Any) -> None:
        self.backstore = backstore
        self.opened = 0

    def check(self, config: Any) -> None:
        """See :class:`~txtcmu.interfaces.IBackstoreFactory`."""

    def create(self, parameters: Any) -> None:
        """See :class:`~txtcmu.interfaces.IBackstoreFactory`."""

    def open(self, parameters: Any) -> Any:
        """Return the backstore."""
        self.opened += 1
        if isinstance(self.backstore, BaseException):
            raise self.backstore
        return self.backstore


class Rig:
    """A device on a fake kernel, open and serving.

    :param backstore: an :class:`~txtcmu.interfaces.IBackstore` or :class:`~txtcmu.interfaces.ICommandHandler`; or
        ``None`` where ``factory`` opens one as ``config`` says, and ``size`` is given.
    :param size: bytes of the LUN; by default the backstore's own.
    :param reactor: a :class:`FakeReactor` by default; benchmarks bring a real one, and open the device themselves.
    :param kernel: options of :class:`~txtcmu.testing.fakekernel.FakeKernel`.
    """

    def __init__(
        self,
        backstore: Any,
        *,
        size: int | None = None,
        block_size: int = 512,
        cmd_time_out: int = 30,
        max_blocks: int = 2048,
        reactor: Any = None,
        start: bool = True,
        factory: Any = None,
        config: DeviceConfig | None = None,
        **kernel: Any,
    ) -> None:
        self.reactor = FakeReactor() if reactor is None else reactor
        self.kernel = FakeKernel(**kernel)
        size = backstore.size if size is None else size
        self.target = FakeTarget(self.kernel, Settings(size, block_size, max_blocks, cmd_time_out, enabled=False))
        self.factory = OneBackstore(backstore) if factory is None else factory
        config = config or DeviceConfig("fake", "disk")
        self.initiator = FakeInitiator(self.kernel, block_size)
        threads = Threads(self.reactor, self.reactor.getThreadPool())
        self.device = Device(self.reactor, self.target, threads, self.factory, config)
        if start:
            self.opened = self.device.open()
            self.settle()

    def settle(self) -> None:
        """Let everything happen that can happen without time passing."""
        self.reactor.settle()

    def close(self) -> None:
        """Drain the device, and see that every command was answered and no rule of the ring broken."""
        if self.device.state is not State.CLOSED:
            closed = self.device.close(1.0)
            self.settle()
            if not closed.called:
                raise AssertionError("the device does not close: its backstore holds on to a command")
        self.kernel.verify()
