"""The kernel's log: what is heard in it, and how the broken ring's owner is found."""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.unit_kernel.fake_kmsg import BREAKS, BREAKS_KEPT, COMPLAINS, FakeLog
from txtcmu.kernel.kmsg import SEARCH_INTERVAL, KernelLog
from txtcmu.testing.reactor import FakeReactor


class KernelLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.file = FakeLog()
        self.told = 0
        self.log = KernelLog(self.reactor, self, lambda: self.file)
        self.log.start()
        self.addCleanup(self.log.stop)

    def a_ring_is_broken(self) -> None:
        self.told += 1

    def hears(self, *lines: str, priority: int = 3) -> int:
        """Log lines; return how often the consumer was told, also after a while."""
        before = self.told
        for line in lines:
            self.file.put(line, priority)
        self.reactor.settle()
        self.reactor.advance(10)
        return self.told - before

    def test_breaks(self) -> None:
        """Each line by which the kernel gives a ring up is heard; others are not."""
        self.assertEqual([self.hears(line) for line in (BREAKS, BREAKS_KEPT)], [1, 1])
        self.assertEqual(self.hears("sd 2:0:0:0: [sda] Attached SCSI disk", "", COMPLAINS), 0)

    def test_nonsense(self) -> None:
        """What is no record, or was written by a process, is not believed."""
        self.assertEqual(self.hears(BREAKS, priority=12), 0)
        for record in (b"", b";" + BREAKS.encode(), b"x,y;" + BREAKS.encode(), b"\xff\xfe", BREAKS.encode()):
            self.file.put_record(record or b"\n")
        self.reactor.settle()
        self.reactor.advance(10)
        self.assertEqual(self.told, 0)

    def test_lost(self) -> None:
        """Records that were overwritten before they were read may have told of a broken ring."""
        self.file.fail(errno.EPIPE)
        self.assertEqual(self.hears("another line"), 1)

    def test_flood(self) -> None:
        """However often the log says so, the search is made once a second; and a flood is read piece by piece."""
        for _ in range(1000):
            self.file.put(BREAKS)
        self.reactor.turn()
        self.assertGreater(len(self.file.records), 500)
        self.reactor.settle()
        self.assertEqual(self.told, 1)
        self.reactor.advance(SEARCH_INTERVAL)
        self.assertEqual(self.told, 2)
        self.reactor.advance(10 * SEARCH_INTERVAL)
        self.assertEqual(self.told, 2)

    def test_unreadable(self) -> None:
        """Where the log cannot be opened, or read any more, everything else goes on without it."""

        def refuse() -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        other = KernelLog(self.reactor, self, refuse)
        other.start()
        self.assertFalse(other.complains(lambda: None))
        other.stop()
        self.file.fail(errno.EIO)
        self.reactor.settle()
        self.assertTrue(self.file.closed)
        self.assertEqual(self.reactor.readers, [])

    def complains(self, *answers: str) -> bool:
        """Return what is thought of a device at whose doorbell the kernel logs ``answers``, one at a time."""
        left = list(answers)

        def doorbell() -> None:
            if left:
                self.file.put(left.pop(0))

        return self.log.complains(doorbell)

    def test_owner(self) -> None:
        """A device is the one if the kernel complains at each ring of its doorbell, not just at one."""
        self.assertTrue(self.complains(*[COMPLAINS] * 3))
        for answers in ((), (COMPLAINS,), (COMPLAINS, COMPLAINS, "other"), ("other",) * 3):
            self.assertFalse(self.complains(*answers), answers)

    def test_complaints_of_others(self) -> None:
        """A complaint that was in the log before is not the doorbell's."""
        for _ in range(3):
            self.file.put(COMPLAINS)
        rings: list[Callable[[], None]] = [lambda: None]
        self.assertFalse(self.log.complains(rings[0]))

    def test_breaks_during_the_search(self) -> None:
        """A ring that breaks while another one is looked for is looked for after that."""
        self.assertFalse(self.complains(BREAKS))
        self.reactor.advance(SEARCH_INTERVAL)
        self.assertEqual(self.told, 1)

    def test_stop(self) -> None:
        """A search that is due is not made after the stop."""
        self.file.put(BREAKS)
        self.reactor.turn()
        self.log.stop()
        self.reactor.advance(10)
        self.assertEqual((self.told, self.file.closed, self.reactor.getDelayedCalls()), (0, True, []))
