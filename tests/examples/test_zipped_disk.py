"""The coroutine's disk is one, and small."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from examples.zipped_disk import PIECE, ZippedDisk, zipped
from tests.examples.support import parameters
from txtcmu.interfaces import IDiscard
from txtcmu.results import as_deferred
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import Rig


class ZippedDiskContractTests(BackstoreContract, TestCase):
    companions = frozenset({IDiscard})
    size = 1 << 20

    async def make_backstore(self, size: int) -> ZippedDisk:
        """Open one with real threads."""
        from twisted.internet import reactor

        disk: ZippedDisk = zipped.open(parameters("zipped/disk", size, reactor))
        return disk


class ZippedDiskTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a disk whose threads run when told."""
        self.reactor = FakeReactor()
        self.disk = ZippedDisk(parameters("zipped/disk", 1 << 20, self.reactor))

    def memory(self) -> int:
        """Return how many bytes the disk takes."""
        return sum(map(len, self.disk._pieces.values()))

    def test_small(self) -> None:
        """Data that repeats takes little memory, and zeroes none."""
        self.successResultOf(as_deferred(self.disk.write(0, memoryview(b"again " * 100_000))))
        self.assertLess(self.memory(), 5000)
        self.assertGreater(self.memory(), 0)
        self.successResultOf(as_deferred(self.disk.write(0, memoryview(bytes(600_000)))))
        self.assertEqual(self.memory(), 0)

    def test_two_writes_of_one_piece(self) -> None:
        """Of two writes that change the same piece at the same time, none is lost."""
        self.reactor.hold_threads()
        writes = [as_deferred(self.disk.write(at, memoryview(data * 512))) for at, data in ((0, b"a"), (512, b"b"))]
        while not all(write.called for write in writes):
            self.reactor.release_threads()
        self.assertEqual(self.successResultOf(as_deferred(self.disk.read(0, 1024))), b"a" * 512 + b"b" * 512)

    def test_cancelled_while_it_waits(self) -> None:
        """A write that is cancelled while it waits for its turn lets go at once and changes nothing."""
        self.reactor.hold_threads()
        first = as_deferred(self.disk.write(0, memoryview(b"a" * PIECE)))
        second = as_deferred(self.disk.write(0, memoryview(b"b" * PIECE)))
        second.addErrback(lambda _: "gone")
        second.cancel()
        self.assertEqual(self.successResultOf(second), "gone")
        self.reactor.release_threads()
        self.successResultOf(first)
        self.assertEqual(self.successResultOf(as_deferred(self.disk.read(0, PIECE))), b"a" * PIECE)

    def test_cancelled_in_a_thread(self) -> None:
        """One that is cancelled while a thread works does not let go before the thread has ended."""
        self.reactor.hold_threads()
        write: Deferred[None] = as_deferred(self.disk.write(0, memoryview(b"a" * PIECE)))
        write.cancel()
        self.assertNoResult(write)
        self.reactor.release_threads()
        self.successResultOf(write)

    def test_on_the_ring(self) -> None:
        """It serves reads, writes and UNMAP through ring and SCSI."""
        rig = Rig(ZippedDisk(parameters("zipped/disk", 1 << 20, FakeReactor())), fragment=True)
        commands = [rig.initiator.write(5, b"z" * 8192), rig.initiator.unmap((6, 2))]
        rig.settle()
        read = rig.initiator.read(4, 6)
        rig.settle()
        self.assertEqual([each.status for each in (*commands, read)], [0, 0, 0])
        self.assertEqual(read.data, bytes(512) + b"z" * 512 + bytes(1024) + b"z" * 1024)
        rig.close()
