"""The service: events, answers, scans and the stop, with netlink's sockets, sysfs and configfs replaced."""

from __future__ import annotations

import asyncio
import errno
from struct import pack
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import classImplements

from tests.lun.support import GOOD, Held, Later, ScriptedBackstore
from tests.unit_kernel.fake_kmsg import BREAKS, COMPLAINS, FakeLog
from txtcmu.config import Configuration
from txtcmu.errors import ConfigError, KernelError, NotReadyError
from txtcmu.interfaces import IResizable
from txtcmu.kernel.kmsg import KernelLog
from txtcmu.kernel.netlink import NetlinkListener
from txtcmu.kernel.sysfs import UIODevice
from txtcmu.lun.device import OPEN_PATIENCE, State
from txtcmu.lun.reconfig import CHANGE_PATIENCE
from txtcmu.lun.target import Settings
from txtcmu.service import REJOIN_DELAY, REMOVE_PATIENCE, Kernel, TcmuService
from txtcmu.testing.fakekernel import FakeKernel
from txtcmu.testing.fakenetlink import FakeTCMUser
from txtcmu.testing.initiator import FakeInitiator
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import FakeTarget, OneBackstore

ADDED, REMOVED, RECONFIG = 1, 2, 3
ADDED_DONE, REMOVED_DONE, RECONFIG_DONE = 4, 5, 6
DEV_CFG, DEV_SIZE, WRITECACHE = 4, 5, 6
SIZE = 1 << 20


class FakeMonitor:
    """Uevents, which a test calls by itself."""

    def __init__(self) -> None:
        self.running = False
        self.error: Exception | None = None

    def start(self) -> bool:
        if self.error is not None:
            raise self.error
        self.running = True
        return True

    def stop(self) -> None:
        self.running = False


class Host:
    """A kernel with devices, and a service for the handlers ``disk`` and ``tape``."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.test = test
        self.reactor = FakeReactor()
        self.netlink = FakeTCMUser()
        self.monitor = FakeMonitor()
        self.present: dict[int, UIODevice] = {}
        self.discovered: list[UIODevice] = []
        self.targets: dict[int, FakeTarget] = {}
        self.kernels: list[FakeKernel] = []
        self.waiting: dict[int, Deferred[UIODevice]] = {}
        self.disk = OneBackstore(ScriptedBackstore(SIZE))
        self.tape = OneBackstore(ScriptedBackstore(SIZE))
        self.service = self.make_service()
        test.addCleanup(self.finish)

    def make_service(self, drain_timeout: float = 20.0, replies: bool = True) -> TcmuService:
        kernel = Kernel(
            thread_pool=lambda reactor: reactor.getThreadPool(),
            netlink=lambda reactor, consumer: NetlinkListener(reactor, consumer, self.netlink.factory),
            monitor=lambda *_: self.monitor,  # type: ignore[arg-type]
            log=lambda reactor, consumer: KernelLog(reactor, consumer, self.make_log),
            discover=lambda: [*self.present.values(), *self.discovered],
            wait_for=lambda _, minor: succeed(self.present[minor]) if minor in self.present else self.waiting[minor],
            target=lambda uio: self.targets[uio.minor],
        )
        factories = {"disk": self.disk, "tape": self.tape}
        return TcmuService(self.reactor, factories, Configuration(), drain_timeout, replies, kernel)

    def make_log(self) -> FakeLog:
        self.kmsg = FakeLog()
        return self.kmsg

    def start(self) -> None:
        self.service.startService()
        self.settle()

    def break_ring(self, kernel: FakeKernel) -> None:
        """Have the kernel flag a ring broken, and log what it logs then."""
        written, kernel.broken = kernel.written, True

        def complaining() -> None:
            if kernel.broken:
                self.kmsg.put(COMPLAINS)
            written()

        kernel.written = complaining  # type: ignore[method-assign]
        self.kmsg.put(BREAKS)
        self.settle()

    def settle(self) -> None:
        self.reactor.settle()

    def device(self, minor: int, dev_config: str = "disk/a", *, enabled: bool = False) -> FakeKernel:
        """Make a device, in sysfs and configfs; netlink's number of it is its minor and 100."""
        kernel = FakeKernel()
        target = FakeTarget(kernel, Settings(SIZE, 512, 2048, 30, enabled), f"vol{minor}")
        target.device_id = 100 + minor
        self.kernels.append(kernel)
        self.targets[minor] = target
        self.present[minor] = UIODevice(minor, f"/dev/uio{minor}", 0, f"vol{minor}", dev_config, kernel.map_size)
        if not enabled:
            self.netlink.waiting[100 + minor] = ADDED_DONE
        return kernel

    def event(self, kind: int, minor: int, dev_config: str = "disk/a", change: dict[int, bytes] | None = None) -> None:
        """Announce something."""
        self.netlink.waiting[100 + minor] = kind + 3
        given = {1: f"tcm-user/0/vol{minor}/{dev_config}\0".encode(), 2: pack("=I", minor)}
        self.netlink.announce(kind, 100 + minor, given | (change or {}))
        self.settle()

    def add(self, minor: int, dev_config: str = "disk/a") -> FakeKernel:
        kernel = self.device(minor, dev_config)
        self.event(ADDED, minor, dev_config)
        return kernel

    def remove(self, minor: int, dev_config: str = "disk/a") -> None:
        self.event(REMOVED, minor, dev_config)

    def stop(self) -> Deferred[Any]:
        stopped = self.service.stopService()
        self.settle()
        return stopped

    def answers(self) -> list[tuple[int, int, int]]:
        """Return the answers since the last call: kind, minor, status."""
        answers, self.netlink.answers = self.netlink.answers, []
        return [(kind, device_id - 100, status) for kind, device_id, status in answers]

    def serves(self, kernel: FakeKernel) -> bool:
        command = FakeInitiator(kernel).test_unit_ready()
        self.settle()
        return command.done and command.status == GOOD

    def finish(self) -> None:
        if self.service.running:
            self.test.successResultOf(self.stop())
        for kernel in self.kernels:
            kernel.verify()
        self.test.assertTrue(all(socket.closed for socket in self.netlink.sockets), "a socket was left open")


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.host = Host(self)


class EventTests(ServiceTestCase):
    def test_added(self) -> None:
        """A device of ours is opened, and its ADDED answered with success."""
        self.host.start()
        kernel = self.host.add(4)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.assertTrue(self.host.serves(kernel))
        self.assertNotIn("pending", self.host.targets[4].calls)

    def test_not_ours(self) -> None:
        """Events for others' devices, and of names that are none, are not answered at all."""
        self.host.start()
        for dev_config in ("glfs/vol", "diskette/a", "", "DISK/a"):
            for kind in (ADDED, REMOVED, RECONFIG):
                self.host.event(kind, 4, dev_config)
        self.host.netlink.announce(ADDED, 104, {1: b"uio_pci_generic\0"})
        self.host.settle()
        self.assertEqual((self.host.answers(), self.host.service.devices), ([], {}))

    def test_several_handlers(self) -> None:
        """Each device is opened by its own handler."""
        self.host.start()
        self.host.add(1, "disk/a")
        self.host.add(2, "tape/b")
        self.assertEqual((self.host.disk.opened, self.host.tape.opened), (1, 1))
        self.assertEqual([str(device.config) for device in self.host.service.devices.values()], ["disk/a", "tape/b"])

    def test_refused(self) -> None:
        """A device that can never work is answered with EINVAL, and forgotten."""
        self.host.disk.backstore = ConfigError("no such file")
        self.host.start()
        self.host.add(4)
        self.host.device(5, "disk")
        self.host.event(ADDED, 5, "disk")  # not even a dev_config
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, -errno.EINVAL), (ADDED_DONE, 5, -errno.EINVAL)])
        self.assertEqual(self.host.service.devices, {})

    def test_not_ready(self) -> None:
        """A device whose backstore is away is there all the same: success, and NOT READY until it is back."""
        self.host.disk.backstore = NotReadyError("away")
        self.host.start()
        kernel = self.host.add(4)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.assertFalse(self.host.serves(kernel))

    def test_slow(self) -> None:
        """Whoever enables a device waits for its backstore, but not for ever."""
        self.host.disk.backstore = Deferred()
        self.host.start()
        self.host.add(4)
        self.assertEqual(self.host.answers(), [])
        self.host.reactor.advance(OPEN_PATIENCE)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])

    def test_kernel_refuses(self) -> None:
        """Whatever goes wrong on the way to a device, ADDED is answered, with EIO."""

        def refuse(error: Exception) -> Any:
            def raising() -> None:
                raise error

            return raising

        self.host.start()
        for minor, error in enumerate((KernelError("no attribute"), OSError("bad"), LookupError("a bug"))):
            self.host.device(minor)
            self.host.targets[minor].settings = refuse(error)  # type: ignore[method-assign]
            self.host.event(ADDED, minor)
        self.host.waiting[8] = fail(KernelError("no device node"))
        self.host.event(ADDED, 8)
        self.host.device(9)
        del self.host.targets[9]  # making the target raises
        self.host.event(ADDED, 9)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, minor, -errno.EIO) for minor in (0, 1, 2, 8, 9)])
        self.assertEqual(self.host.service.devices, {})
        self.flushLoggedErrors(OSError, LookupError)

    def test_factory_leaves(self) -> None:
        """A factory that raises what is no error at all is one that failed; ADDED is answered."""
        self.host.disk.backstore = SystemExit(1)
        self.host.start()
        self.host.add(4)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.flushLoggedErrors(SystemExit)

    def test_busy(self) -> None:
        """Whoever enables a device that another process keeps is not held for ever."""
        self.host.start()
        kernel = self.host.device(4)
        other = kernel.open()
        self.host.event(ADDED, 4)
        self.host.reactor.pump([0.1] * 190)
        self.assertEqual(self.host.answers(), [])
        self.host.reactor.pump([0.1] * 20)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        other.close()
        self.host.reactor.pump([0.1] * 2)
        self.assertTrue(self.host.serves(kernel))

    def test_hung_configfs(self) -> None:
        """Whoever enables a device is answered even if its attributes cannot be read."""
        self.host.start()
        self.host.reactor.hold_threads()
        self.host.add(4)
        self.host.reactor.pump([1.0] * 19)
        self.assertEqual(self.host.answers(), [])
        self.host.reactor.advance(1)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.host.reactor.release_threads()
        self.host.settle()

    def test_hung_backstores(self) -> None:
        """Backstores that keep all of the reactor's threads keep none that devices need of the kernel."""
        service = TcmuService(self.host.reactor, {}, Configuration(), 1.0, True)
        self.assertIsNot(service._pool, self.host.reactor.getThreadPool())
        self.assertGreater(service._pool.max, 0)

    def test_removed(self) -> None:
        """REMOVED is answered when the device is closed; nothing looks at configfs in between."""
        flush = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, flush=flush)
        self.host.start()
        self.host.add(4)
        self.host.answers()
        calls = len(self.host.targets[4].calls)
        self.host.remove(4)
        self.assertEqual(self.host.answers(), [])
        flush.made[0].callback(None)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 4, 0)])
        self.assertEqual((self.host.service.devices, len(self.host.targets[4].calls)), ({}, calls))

    def test_removed_slowly(self) -> None:
        """REMOVED is answered after a while even if the backstore is still busy with its close."""
        close = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, close=close)
        self.host.start()
        self.host.add(4)
        self.host.answers()
        self.host.remove(4)
        self.host.reactor.advance(2 * REMOVE_PATIENCE)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 4, 0)])
        close.made[0].callback(None)
        self.assertEqual(self.host.service.devices, {})

    def test_removed_unknown(self) -> None:
        """REMOVED of a device that was never opened is answered at once."""
        self.host.start()
        self.host.remove(4)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 4, 0)])

    def test_minor_again(self) -> None:
        """A UIO number that another device gets is that device, even while the first one still closes."""
        close = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, close=close)
        self.host.start()
        first = self.host.add(4)
        first.remove()  # without netlink's replies nobody waits for us
        self.host.settle()
        second = self.host.add(4)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)] * 2)
        self.assertTrue(self.host.serves(second))
        self.host.service.uio_removed(4)  # late news of the first
        close.made[0].callback(None)
        self.assertTrue(self.host.serves(second))
        self.host.disk.backstore.script.clear()
        self.host.remove(4)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 4, 0)])
        third = self.host.add(4)
        self.assertTrue(self.host.serves(third))

    def test_answer_refused(self) -> None:
        """An answer that the kernel does not take is logged; the device is served on."""
        self.host.start()
        self.host.netlink.error = errno.EPERM
        kernel = self.host.add(4)
        self.host.netlink.error = 0
        self.assertTrue(self.host.serves(kernel))


class ResizableBackstore(ScriptedBackstore):
    """A disk that can be resized, at once or as the script says."""

    def resize(self, size: int) -> Any:
        self.calls.append(("resize", size))
        if "resize" in self.script:
            return self.script["resize"](size)
        self.size = size
        return None


classImplements(ResizableBackstore, IResizable)


class ReconfigTests(ServiceTestCase):
    """Whatever RECONFIG brings, it is answered, and once."""

    def change(self, minor: int, attribute: int, value: bytes) -> list[tuple[int, int, int]]:
        """Announce a change; return the answers."""
        self.host.answers()
        self.host.event(RECONFIG, minor, "disk/a", {attribute: value})
        return self.host.answers()

    def resize(self, size: int) -> list[tuple[int, int, int]]:
        return self.change(4, DEV_SIZE, pack("=Q", size))

    def answered(self, status: int) -> list[tuple[int, int, int]]:
        return [(RECONFIG_DONE, 4, status)]

    def test_changes(self) -> None:
        """Size, write cache and dev_config change what the device is, and are answered with 0."""
        self.host.disk.backstore = disk = ResizableBackstore(SIZE)
        self.host.disk.options = frozenset({"colour"})
        self.host.start()
        kernel = self.host.add(4)
        device = self.host.service.devices[4]
        self.assertEqual(self.resize(2 * SIZE), self.answered(0))
        self.assertEqual((disk.size, device.unit.blocks), (2 * SIZE, 2 * SIZE // 512))
        self.assertEqual(self.change(4, WRITECACHE, b"\0"), self.answered(0))
        self.assertFalse(device.unit.write_cache)
        self.assertEqual(self.change(4, DEV_CFG, b"disk/a;colour=red\n\0"), self.answered(0))
        self.assertEqual(str(device.config), "disk/a;colour=red")
        codes = []
        for _ in range(3):
            command = FakeInitiator(kernel).test_unit_ready()
            self.host.settle()
            codes.append(command.sense_code)
        self.assertEqual(codes, [(6, 0x2A, 9), (6, 0x2A, 1), None])

    def test_changes_nothing(self) -> None:
        """What is so already is answered with 0, on any device that is being served."""
        self.host.start()
        kernel = self.host.add(4)
        for attribute, value in ((DEV_SIZE, pack("=Q", SIZE)), (WRITECACHE, b"\1"), (DEV_CFG, b"disk/a\0")):
            self.assertEqual(self.change(4, attribute, value), self.answered(0))
        self.assertTrue(self.host.serves(kernel))
        self.assertEqual(self.host.disk.opened, 1)

    def test_refused(self) -> None:
        """What cannot be is answered with EINVAL, and the device goes on as it was."""
        self.host.start()
        kernel = self.host.add(4)
        for size in (0, 512 * 3 + 1, 2 * SIZE):  # the last one for lack of IResizable
            self.assertEqual(self.resize(size), self.answered(-errno.EINVAL), size)
        for dev_config in (b"disk\0", b"tape/a\0", b"disk/b\0", b"disk/a;colour=red\0", b"nope/a\0", b"\0", b"\xff/\0"):
            self.assertEqual(self.change(4, DEV_CFG, dev_config), self.answered(-errno.EINVAL), dev_config)
        self.assertEqual(self.change(4, 99, b"of a later kernel"), self.answered(-errno.EINVAL))
        self.assertTrue(self.host.serves(kernel))

    def test_not_served(self) -> None:
        """A device that is not there, not open yet, or not ready, cannot be changed now: EBUSY."""
        self.host.start()
        self.assertEqual(self.resize(2 * SIZE), self.answered(-errno.EBUSY))
        self.host.disk.backstore = Deferred()
        self.host.add(4)
        self.assertEqual(self.resize(2 * SIZE), self.answered(-errno.EBUSY))
        self.host.disk.backstore.errback(NotReadyError("away"))
        self.host.settle()
        self.assertEqual(self.host.service.devices[4].state, State.DEGRADED)
        for attribute, value in ((DEV_SIZE, pack("=Q", 2 * SIZE)), (WRITECACHE, b"\0")):
            self.assertEqual(self.change(4, attribute, value), self.answered(-errno.EBUSY))

    def test_before_it_is_attached(self) -> None:
        """A change that comes while the device's attributes are still being read is refused, not an error of ours."""
        self.host.start()
        self.host.reactor.hold_threads()
        self.host.device(4)
        self.host.event(ADDED, 4)
        for attribute, value in ((DEV_SIZE, pack("=Q", SIZE)), (WRITECACHE, b"\0"), (DEV_CFG, b"disk/a;b=c\0")):
            self.assertEqual(self.change(4, attribute, value), self.answered(-errno.EBUSY))
        self.host.reactor.release_threads()
        self.host.settle()

    def test_bug_of_a_handler(self) -> None:
        """A backstore that raises what it should not, be it no Exception, fails the change, and it is answered."""
        errors = [asyncio.CancelledError(), LookupError("a bug")]

        def bug(size: int) -> Any:
            return fail(errors.pop()) if size != SIZE else succeed(None)

        self.host.disk.backstore = ResizableBackstore(SIZE, resize=bug)
        self.host.start()
        self.host.add(4)
        for _ in range(2):
            self.assertEqual(self.resize(2 * SIZE), self.answered(-errno.EIO))
        self.flushLoggedErrors(LookupError)

    def test_hangs(self) -> None:
        """A backstore that hangs fails the change in bounded time; until it lets go, others are EBUSY."""
        resize = Later(Held)
        self.host.disk.backstore = disk = ResizableBackstore(SIZE, resize=resize)
        self.host.start()
        kernel = self.host.add(4)
        self.assertEqual(self.resize(2 * SIZE), [])
        self.host.reactor.advance(CHANGE_PATIENCE)
        self.host.settle()
        self.assertEqual(self.host.answers(), self.answered(-errno.EBUSY))
        self.assertEqual(self.resize(2 * SIZE), self.answered(-errno.EBUSY))
        self.assertTrue(self.host.serves(kernel))
        disk.size = 2 * SIZE  # an hour later
        disk.script.clear()
        resize.made[0].callback(None)
        self.host.settle()
        self.assertEqual((disk.size, self.host.service.devices[4].unit.blocks), (SIZE, SIZE // 512))
        self.assertEqual((self.host.answers(), self.resize(2 * SIZE)), ([], self.answered(0)))

    def test_removed_meanwhile(self) -> None:
        """A device that is removed while it is changed: both are answered, once each."""
        results: list[Any] = [None, Deferred()]  # the second one takes back
        self.host.disk.backstore = ResizableBackstore(SIZE, resize=lambda _: results.pop())
        self.host.start()
        self.host.add(4)
        self.assertEqual(self.resize(2 * SIZE), [])
        self.host.remove(4)
        self.host.reactor.advance(REMOVE_PATIENCE)
        self.host.settle()
        self.host.reactor.advance(CHANGE_PATIENCE)
        self.host.settle()
        self.assertEqual(sorted(self.host.answers()), [(REMOVED_DONE, 4, 0), (RECONFIG_DONE, 4, -errno.EBUSY)])
        self.assertEqual(self.host.service.devices, {})

    def test_without_replies(self) -> None:
        """A kernel that does not wait has taken what was refused: the log says so, and the device stays as it is."""
        self.host.start()
        kernel = self.host.add(4)
        self.host.netlink.announce(
            RECONFIG, 104, {1: b"tcm-user/0/vol4/disk/a\0", 2: pack("=I", 4), DEV_SIZE: pack("=Q", 2 * SIZE)}
        )
        with capturedLogs() as events:
            self.host.settle()
        self.assertTrue(any("take it back" in event["log_format"] for event in events))
        self.assertTrue(self.host.serves(kernel))


class BrokenTests(ServiceTestCase):
    """Rings that the kernel calls broken, of which only its log knows."""

    def test_mended(self) -> None:
        """The one whose ring is broken is found and mended, and no other one is touched."""
        self.host.start()
        kernels = [self.host.add(minor) for minor in range(3)]
        self.host.break_ring(kernels[1])
        self.assertTrue(all(self.host.serves(kernel) for kernel in kernels))
        resets = [self.host.targets[minor].calls.count("reset_ring") for minor in range(3)]
        self.assertEqual(resets, [0, 1, 0])

    def test_not_ours(self) -> None:
        """The ring of another daemon's device is none of our business."""
        self.host.start()
        kernels = [self.host.add(minor) for minor in range(2)]
        self.host.kmsg.put(BREAKS)
        self.host.settle()
        self.assertTrue(all(self.host.serves(kernel) for kernel in kernels))
        self.assertTrue(all("reset_ring" not in self.host.targets[minor].calls for minor in range(2)))

    def test_while_opening(self) -> None:
        """A device that is not attached yet is not asked."""
        self.host.start()
        self.host.reactor.hold_threads()
        self.host.device(4)
        self.host.event(ADDED, 4)
        self.host.kmsg.put(BREAKS)
        self.host.settle()
        self.host.reactor.release_threads()
        self.host.settle()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])

    def test_removed_while_mending(self) -> None:
        """REMOVED of a device that waits for its backstore to be mended is answered in time, without a reset."""
        write = Later(Held)
        self.host.disk.backstore = ScriptedBackstore(SIZE, write=write)
        self.host.start()
        kernel = self.host.add(4)
        FakeInitiator(kernel).write(0, bytes(512))
        self.host.settle()
        self.host.break_ring(kernel)
        self.host.answers()
        self.host.remove(4)
        self.host.reactor.pump([REMOVE_PATIENCE] * 2)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 4, 0)])
        write.made[0].callback(None)
        self.host.settle()
        self.assertEqual(self.host.service.devices, {})
        self.assertNotIn("reset_ring", self.host.targets[4].calls)
        kernel.reset_ring(1)

    def test_removed_while_opening(self) -> None:
        """REMOVED of a device whose backstore is still being opened is answered when that is called off."""
        self.host.disk.backstore = Deferred()
        self.host.start()
        self.host.add(4)
        self.host.remove(4)
        self.assertEqual(sorted(self.host.answers()), [(ADDED_DONE, 4, 0), (REMOVED_DONE, 4, 0)])
        self.assertEqual(self.host.service.devices, {})


class ScanTests(ServiceTestCase):
    def test_adopted(self) -> None:
        """Devices that were there before are served, after a reset; nobody waits, so nobody is answered."""
        kernel = self.host.device(4, enabled=True)
        self.host.device(5, "glfs/b", enabled=True)
        left = FakeInitiator(kernel).test_unit_ready()
        self.host.start()
        self.assertEqual((left.status, list(self.host.service.devices)), (8, [4]))
        self.assertTrue(self.host.serves(kernel))
        self.assertEqual((self.host.answers(), self.host.targets[5].calls), ([], []))

    def test_pending(self) -> None:
        """An ADDED that a dead daemon left unanswered is answered, without a reset of the new ring."""
        self.host.device(4)
        self.host.start()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.assertNotIn("reset_ring", self.host.targets[4].calls)

    def test_pending_refused(self) -> None:
        """It is answered with the error if the device is refused."""
        self.host.device(4)
        self.host.disk.backstore = ConfigError("no such file")
        self.host.start()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, -errno.EINVAL)])

    def test_event_during_scan(self) -> None:
        """A device that is found and announced at once is opened once, and answered once."""
        self.host.disk.backstore = Deferred()
        self.host.device(4)
        self.host.start()
        self.host.event(ADDED, 4)
        self.host.disk.backstore.callback(ScriptedBackstore(SIZE))
        self.host.settle()
        self.assertEqual((self.host.answers(), self.host.disk.opened), ([(ADDED_DONE, 4, 0)], 1))

    def test_refused_before_its_event(self) -> None:
        """A device that a uevent tells of, and that is refused when it is announced, is answered once."""
        opening = self.host.disk.backstore = Deferred()
        self.host.start()
        self.host.device(4)
        self.host.service.uio_added(4)
        self.host.event(ADDED, 4)
        opening.errback(ConfigError("no such file"))
        self.host.settle()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, -errno.EINVAL)])

    def test_answered_before_its_event(self) -> None:
        """A device that is open before its event comes is answered once; one enabled anew later is, too."""
        self.host.start()
        self.host.device(4)
        self.host.service.uio_added(4)
        self.host.settle()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])
        self.host.event(ADDED, 4)
        self.assertEqual(self.host.answers(), [])
        self.host.remove(4)
        self.host.answers()
        self.host.add(4)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])

    def test_scan_goes_on(self) -> None:
        """A device that cannot even be asked for its state keeps no other one from being found."""
        self.host.device(3)
        del self.host.targets[3]
        self.host.device(4, enabled=True)
        self.host.start()
        self.assertEqual(list(self.host.service.devices), [4])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)

    def test_node_appears_late(self) -> None:
        """A device that is found before its node is there is waited for."""
        kernel = self.host.device(4, enabled=True)
        node = self.host.waiting[4] = Deferred()
        found = self.host.present.pop(4)
        self.host.discovered = [found]
        self.host.start()
        self.assertEqual(self.host.targets[4].calls, [])
        node.callback(found)
        self.assertTrue(self.host.serves(kernel))

    def test_events_lost(self) -> None:
        """When events were lost, devices are looked for again; those served already are left alone."""
        self.host.start()
        kernel = self.host.add(4)
        self.host.device(5)
        self.host.netlink.members[0].put(OSError(errno.ENOBUFS, "no buffer space"))
        self.host.settle()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0), (ADDED_DONE, 5, 0)])
        self.assertEqual(self.host.targets[4].calls.count("open_uio"), 1)
        self.assertTrue(self.host.serves(kernel))

    def test_uevents(self) -> None:
        """A uevent finds a device, too, and harms none that is known; a foreign UIO device is ignored."""
        self.host.start()
        kernel = self.host.device(4)
        self.host.waiting[5] = fail(KernelError("not a user backstore's"))
        for minor in (4, 4, 5):
            self.host.service.uio_added(minor)
        self.host.settle()
        self.assertTrue(self.host.serves(kernel))
        self.assertEqual((self.host.answers(), self.host.disk.opened), ([(ADDED_DONE, 4, 0)], 1))

    def test_netlink_lost(self) -> None:
        """When netlink breaks, devices are served on, and what was announced meanwhile is found and answered."""
        self.host.start()
        kernel = self.host.add(4)
        self.host.answers()
        self.host.netlink.members[0].put(OSError(errno.EBADF, "broken"))
        self.host.settle()
        self.assertTrue(self.host.serves(kernel))
        self.host.device(5)
        self.host.reactor.advance(REJOIN_DELAY)
        self.host.settle()
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 5, 0)])
        self.host.add(6)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 6, 0)])


class StartStopTests(ServiceTestCase):
    def test_features(self) -> None:
        """The kernel is asked to wait for answers, unless that is not wanted; a refusal stops nothing."""
        self.host.start()
        self.assertEqual(self.host.netlink.features, 1)
        other = Host(self)
        other.service = other.make_service(replies=False)
        other.start()
        self.assertIsNone(other.netlink.features)

    def test_no_kernel(self) -> None:
        """Without TCMU the start fails with the reason, and nothing is left behind."""
        self.host.netlink.loaded = False
        with self.assertRaises(KernelError):
            self.host.service.startService()
        self.assertFalse(self.host.service.running or self.host.monitor.running)
        self.assertTrue(all(socket.closed for socket in self.host.netlink.sockets))
        self.assertEqual((self.host.reactor.readers, self.host.reactor.getDelayedCalls()), ([], []))

    def test_no_uevents(self) -> None:
        """Without uevents netlink is enough."""
        self.host.monitor.error = OSError("no libudev")
        self.host.start()
        self.assertTrue(self.host.serves(self.host.add(4)))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_stop(self) -> None:
        """A stop drains all devices at once, and hears of removals until the last is closed."""
        flushes = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, flush=flushes)
        self.host.start()
        for minor in (1, 2):
            self.host.add(minor)
        self.host.answers()
        stopped = self.host.stop()
        self.assertEqual(len(flushes.made), 2)
        self.host.remove(1)
        self.assertEqual(self.host.answers(), [])
        flushes.made[0].callback(None)
        self.assertEqual(self.host.answers(), [(REMOVED_DONE, 1, 0)])
        self.assertNoResult(stopped)
        flushes.made[1].callback(None)
        self.successResultOf(stopped)
        self.assertFalse(self.host.monitor.running or self.host.netlink.members)
        self.assertEqual((self.host.service.devices, self.host.reactor.readers), ({}, []))

    def test_stop_gives_up(self) -> None:
        """A backstore that never lets go delays the stop for twice the timeout, not for ever."""
        self.host.disk.backstore = ScriptedBackstore(SIZE, write=Later(Held))
        self.host.start()
        command = FakeInitiator(self.host.add(4)).write(0, bytes(512))
        self.host.settle()
        stopped = self.host.stop()
        self.host.reactor.advance(20)
        self.host.settle()
        self.assertNoResult(stopped)
        self.assertEqual(command.status, 8)
        self.host.reactor.advance(20)
        self.successResultOf(stopped)
        self.host.kernels.clear()  # it still has the kept buffer

    def test_stop_waits_for_removed(self) -> None:
        """A stop waits for devices that were removed before, while their backstores flush and close."""
        flush = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, flush=flush)
        self.host.start()
        self.host.add(4).remove()
        self.host.settle()
        self.host.add(4).remove()
        self.host.settle()
        stopped = self.host.stop()
        self.assertEqual(len(flush.made), 2)
        flush.made[0].callback(None)
        self.assertNoResult(stopped)
        flush.made[1].callback(None)
        self.successResultOf(stopped)

    def test_stop_while_opening(self) -> None:
        """A device that is being opened when the daemon stops is closed, and its ADDED answered before the end."""
        self.host.disk.backstore = Deferred()
        self.host.start()
        self.host.add(4)
        self.successResultOf(self.host.stop())
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 4, 0)])

    def test_added_while_stopping(self) -> None:
        """A device that is made while the daemon stops is not opened, and whoever makes it does not hang."""
        close = Later()
        self.host.disk.backstore = ScriptedBackstore(SIZE, close=close)
        self.host.start()
        self.host.add(4)
        self.host.answers()
        self.host.waiting[6] = Deferred()
        self.host.event(ADDED, 6)
        stopped = self.host.stop()
        self.host.add(5)
        self.assertEqual(self.host.answers(), [(ADDED_DONE, 5, -errno.EIO)])
        close.made[0].callback(None)
        self.assertNoResult(stopped)
        self.host.device(6)
        self.host.waiting[6].callback(self.host.present[6])
        self.successResultOf(stopped)
        self.assertEqual((self.host.answers(), self.host.disk.opened), ([(ADDED_DONE, 6, -errno.EIO)], 1))

    def test_scan_that_ends_too_late(self) -> None:
        """A scan whose thread ends after the stop opens nothing."""
        self.host.device(4, enabled=True)
        self.host.reactor.hold_threads()
        self.host.service.startService()
        self.successResultOf(self.host.stop())
        self.host.reactor.release_threads()
        self.host.settle()
        self.assertEqual((self.host.disk.opened, self.host.service.devices), (0, {}))

    def test_states(self) -> None:
        """The service knows its devices and what they are doing."""
        self.host.start()
        self.host.add(4)
        self.assertEqual(self.host.service.devices[4].state, State.SERVING)
