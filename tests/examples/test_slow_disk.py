"""The proxy does what the disk behind it does, later, and passes everything on."""

from __future__ import annotations

import os
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementedBy, implementer

from examples import slow_disk
from examples.slow_disk import SlowDisk, slow
from tests.examples.support import parameters
from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError
from txtcmu.interfaces import IBackstore, ICommandHandler, IDiscard
from txtcmu.results import as_deferred
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.rig import Rig
from txtcmu.threads import uncancellable


@implementer(IBackstore)
@define
class Recorder:
    """A disk that says what it was asked, and whose reads give ``result``, by default never."""

    size: int = 1 << 20
    read_only: bool = True
    physical_block_size: int = 4096
    calls: list[Any] = field(factory=list)
    result: Any = None

    def read(self, offset: int, length: int) -> Deferred[bytes]:
        """Be under way."""
        self.calls.append((offset, length))
        return self.result or Deferred(lambda _: self.calls.append("cancelled"))

    def write(self, offset: int, data: memoryview) -> None:
        """Fail."""
        raise ValueError("no")

    def flush(self) -> None:
        """Flush."""

    def close(self) -> None:
        """Close."""
        self.calls.append("close")


class SlowDiskContractTests(BackstoreContract, TestCase):
    companions = frozenset(implementedBy(MemoryBackstore)) - {IBackstore}
    size = 1 << 20

    async def make_backstore(self, size: int) -> SlowDisk:
        """Slow a disk in memory down, by as little as there is: all of it still passes through the reactor."""
        from twisted.internet import reactor

        return SlowDisk(MemoryBackstore(size), 0, reactor)


class SlowDiskTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Slow a recorder down by a second."""
        self.clock = Clock()
        self.disk = Recorder()
        self.slow: Any = SlowDisk(self.disk, 1, self.clock)

    def test_it_is_slow(self) -> None:
        """An operation begins when the delay is over, and not before."""
        as_deferred(self.slow.read(512, 1024)).addErrback(lambda _: None)
        self.clock.advance(0.9)
        self.assertEqual(self.disk.calls, [])
        self.clock.advance(0.1)
        self.assertEqual(self.disk.calls, [(512, 1024)])

    def test_cancelled_before_it_began(self) -> None:
        """An operation that is cancelled during the delay is never begun, and lets go at once."""
        read = as_deferred(self.slow.read(0, 512))
        read.cancel()
        self.failureResultOf(read, CancelledError)
        self.clock.advance(2)
        self.assertEqual(self.disk.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_while_it_runs(self) -> None:
        """Later, the cancellation reaches the disk."""
        read = as_deferred(self.slow.read(0, 512))
        self.clock.advance(1)
        read.cancel()
        self.failureResultOf(read, CancelledError)
        self.assertEqual(self.disk.calls, [(0, 512), "cancelled"])

    def test_held(self) -> None:
        """A disk that does not let go is waited for, cancelled or not."""
        work: Deferred[bytes] = Deferred()
        self.disk.result = uncancellable(work)
        read = as_deferred(self.slow.read(0, 512))
        self.clock.advance(1)
        read.cancel()
        self.assertNoResult(read)
        work.callback(b"late")
        self.assertEqual(self.successResultOf(read), b"late")

    def test_errors(self) -> None:
        """What the disk raises, the proxy fails with."""
        write = as_deferred(self.slow.write(0, memoryview(bytes(512))))
        self.clock.advance(1)
        self.failureResultOf(write, ValueError)

    def test_attributes(self) -> None:
        """Its attributes are the disk's, a size that changes included."""
        self.disk.size = 1 << 21
        self.assertEqual((self.slow.size, self.slow.read_only, self.slow.physical_block_size), (1 << 21, True, 4096))

    def test_honest(self) -> None:
        """It provides what the disk provides, and nothing else."""
        self.assertTrue(IBackstore.providedBy(self.slow))
        self.assertFalse(IDiscard.providedBy(self.slow) or ICommandHandler.providedBy(self.slow))
        disk = MemoryBackstore(1 << 20)
        self.addCleanup(disk.close)
        self.assertTrue(IDiscard.providedBy(SlowDisk(disk, 1, self.clock)))

    def test_close(self) -> None:
        """Closing it closes the disk, at once."""
        self.slow.close()
        self.assertEqual(self.disk.calls, ["close"])

    def test_abort_on_the_ring(self) -> None:
        """Under the real ring, an aborted write of a slow disk ends at once, and leaves the disk as it was."""
        disk = MemoryBackstore(1 << 20)
        rig = Rig(SlowDisk(disk, 1, self.clock), size=1 << 20)
        write = rig.initiator.write(0, b"x" * 4096)
        rig.settle()
        rig.kernel.abort(write)
        rig.settle()
        self.assertTrue(write.done)
        self.clock.advance(2)
        self.assertEqual(disk.read(0, 4096), bytes(4096))
        closed = rig.device.close(10)
        rig.settle()
        self.clock.advance(1)  # the last flush is slow, too
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        rig.close()


class SlowFactoryTests(TestCase):
    async def test_create_and_open(self) -> None:
        """Storage is made and opened by the other handler, whose dev_config is the path."""
        path = os.path.abspath(self.mktemp())
        where = f"slow/file{path};delay=1"
        self.assertIn("does not exist", await as_deferred(slow.check(DeviceConfig.parse(where))) or "")
        from twisted.internet import reactor

        await as_deferred(slow.create(parameters(where, 1 << 20, reactor)))
        self.assertIsNone(await as_deferred(slow.check(DeviceConfig.parse(where))))
        disk: Any = await as_deferred(slow.open(parameters(where, 1 << 20, reactor)))
        self.assertEqual(disk.size, 1 << 20)
        self.assertEqual(bytes(await as_deferred(disk.read(0, 512))), bytes(512))
        await as_deferred(disk.close())

    def test_bad_paths(self) -> None:
        """A path that is no dev_config, an unknown handler and an impossible delay are refused with one line."""
        for where, problem in (
            ("slow/memory", "is not HANDLER/PATH"),
            ("slow/nothing/x", "no handler is called 'nothing'"),
            ("slow/memory/x;delay=soon", "delay=soon"),
        ):
            config = DeviceConfig.parse(where)
            self.assertIn(problem, str(slow_disk.check(config)))
            self.failureResultOf(as_deferred(slow.open(parameters(where, 1 << 20))), ConfigError)
