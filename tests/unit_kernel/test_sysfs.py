"""UIO devices in a sysfs made of files."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txtcmu.errors import KernelError
from txtcmu.kernel.sysfs import UIODevice, UIOMonitor, discover, lookup, parse_name, wait_for


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Whatever the kernel makes of HBA, name and dev_config is taken apart again."""
        for text, expected in (
            ("tcm-user/0/vol0/file/var/disk.img\n", (0, "vol0", "file/var/disk.img")),
            ("tcm-user/12/vol0\n", (12, "vol0", "")),
            ("tcm-user/12/vol0/\n", (12, "vol0", "")),
            ("tcm-user/1/vol0/s3/b//c/\n", (1, "vol0", "s3/b//c/")),
            ("tcm-user/1/vol0/s3/b;x=y\n\n", (1, "vol0", "s3/b;x=y")),
            ("tcm-user/1/vol 0/a:b, c", (1, "vol 0", "a:b, c")),
            ("tcm-user/1/vol0/two\nlines\n", (1, "vol0", "two\nlines")),
        ):
            self.assertEqual(parse_name(text), expected)

    def test_others(self) -> None:
        """Other drivers' devices are none of ours."""
        for text in (
            "",
            "\n",
            "tcm-user",
            "tcm-user/1",
            "tcm-user/1/",
            "tcm-user/x/vol0/a",
            "tcm-user//v/a",
            "a/1/v/b",
        ):
            self.assertIsNone(parse_name(text))

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """No text breaks it."""
        parsed = parse_name(text)
        self.assertTrue(parsed is None or parsed[0] >= 0)


class DiscoveryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make an empty sysfs, and a /dev that is the real one's relative."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.sysfs = Path(directory.name) / "sys"
        self.dev = Path(directory.name) / "dev"
        self.dev.mkdir()

    def make(self, minor: int, name: str = "tcm-user/3/vol0/test/a", size: str | None = "0x40800000") -> Path:
        """Have a UIO device."""
        path = self.sysfs / "class/uio" / f"uio{minor}"
        (path / "maps/map0").mkdir(parents=True)
        (path / "name").write_text(name + "\n")
        if size is not None:
            (path / "maps/map0/size").write_text(size + "\n")
        return path

    def make_node(self, minor: int) -> None:
        """Have a device node: any character device will do."""
        (self.dev / f"uio{minor}").symlink_to("/dev/null")


class DiscoveryTests(DiscoveryTestCase):
    def test_nothing(self) -> None:
        """No UIO devices at all is no error."""
        self.assertEqual(discover(self.sysfs, self.dev), [])

    def test_devices(self) -> None:
        """User backstores are found in order of their numbers; others, and half-made ones, are not."""
        for minor in (10, 2):
            self.make(minor)
        self.make(4, "some-fpga")
        self.make(5, size=None)
        self.make(6, size="?")
        (self.sysfs / "class/uio/uiox").mkdir()
        found = discover(self.sysfs, self.dev)
        self.assertEqual([device.minor for device in found], [2, 10])
        expected = UIODevice(2, str(self.dev / "uio2"), 3, "vol0", "test/a", 0x40800000)
        self.assertEqual(found[0], expected)

    def test_ready(self) -> None:
        """A device is ready when its node is there and is one."""
        self.make(2)
        device = lookup(2, self.sysfs, self.dev)
        assert device is not None
        self.assertFalse(device.ready)
        (self.dev / "uio2").write_text("")
        self.assertFalse(device.ready)
        (self.dev / "uio2").unlink()
        self.make_node(2)
        self.assertTrue(device.ready)

    def test_this_host(self) -> None:
        """The real sysfs can be searched, with libudev or without, whatever is in it."""
        self.assertIsInstance(discover(), list)


class WaitTests(DiscoveryTestCase):
    def test_there(self) -> None:
        """What is there needs no waiting."""
        self.make(2)
        self.make_node(2)
        device = self.successResultOf(wait_for(Clock(), 2, 10, self.sysfs, self.dev))
        self.assertEqual(device.minor, 2)

    def test_later(self) -> None:
        """First comes sysfs, then the node, then the device can be used."""
        clock = Clock()
        waiting = wait_for(clock, 2, 10, self.sysfs, self.dev)
        self.make(2)
        clock.advance(1)
        self.assertNoResult(waiting)
        self.make_node(2)
        clock.advance(1)
        self.assertEqual(self.successResultOf(waiting).name, "vol0")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_never(self) -> None:
        """A node that never comes is named, with what makes nodes."""
        clock = Clock()
        waiting = wait_for(clock, 2, 10, self.sysfs, self.dev)
        clock.advance(11)
        failure = self.failureResultOf(waiting, KernelError)
        self.assertIn("uio2 did not appear in 10 s: mount devtmpfs", failure.getErrorMessage())
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """Waiting can be given up."""
        clock = Clock()
        waiting = wait_for(clock, 2, 10, self.sysfs, self.dev)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])


class FakeMonitor:
    def __init__(self) -> None:
        self.events: list[tuple[str, str] | OSError] = []

    def fileno(self) -> int:
        """Be something to poll."""
        return 3

    def poll(self, timeout: float) -> SimpleNamespace | None:
        """Return the next event."""
        if not self.events:
            return None
        event = self.events.pop(0)
        if isinstance(event, OSError):
            raise event
        return SimpleNamespace(action=event[0], sys_name=event[1])


class UIOMonitorTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a monitor whose consumer is this test."""
        self.reactor = MemoryReactor()
        self.source = FakeMonitor()
        self.heard: list[tuple[str, int | None]] = []
        self.monitor = UIOMonitor(self.reactor, self, lambda: self.source)
        self.assertTrue(self.monitor.start())

    def uio_added(self, minor: int) -> None:
        """Hear."""
        self.heard.append(("added", minor))
        if minor == 99:
            raise RuntimeError("a consumer's mistake")

    def uio_removed(self, minor: int) -> None:
        """Hear."""
        self.heard.append(("removed", minor))

    def events_lost(self) -> None:
        """Hear."""
        self.heard.append(("lost", None))

    def test_events(self) -> None:
        """Devices that come and go are told, other events and names are not."""
        self.source.events = [("add", "uio3"), ("change", "uio3"), ("add", "uio"), ("remove", "uio3")]
        self.monitor.doRead()
        self.assertEqual(self.heard, [("added", 3), ("removed", 3)])

    def test_overrun(self) -> None:
        """Lost events are told."""
        self.source.events = [OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))]
        self.monitor.doRead()
        self.assertEqual(self.heard, [("lost", None)])

    def test_consumer_fails(self) -> None:
        """A consumer's mistake is logged and costs no other event."""
        self.source.events = [("add", "uio99"), ("add", "uio1")]
        self.monitor.doRead()
        self.assertEqual(self.heard, [("added", 99), ("added", 1)])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_life(self) -> None:
        """It is read from start to stop."""
        verifyObject(IReadDescriptor, self.monitor)
        self.assertEqual((self.reactor.getReaders(), self.monitor.fileno()), ([self.monitor], 3))
        self.monitor.stop()
        self.monitor.stop()
        self.assertEqual((self.reactor.getReaders(), self.monitor.fileno()), ([], -1))

    def test_no_libudev(self) -> None:
        """Without libudev there is no monitor, and no error."""
        monitor = UIOMonitor(self.reactor, self, lambda: None)
        self.assertFalse(monitor.start())
        monitor.stop()
