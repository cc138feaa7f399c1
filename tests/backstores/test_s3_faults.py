"""Requests that are lost, late, or answered twice: no disk content may come to harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from attrs import evolve
from botocore.exceptions import CredentialRetrievalError
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.backstores.s3support import BLOCK, Bench, start
from txtcmu.backstores import blockwriter
from txtcmu.errors import BackstoreError, NotReadyError
from txtcmu.testing.faults import Fault
from txtcmu.threads import uncancellable

A, B, C = (letter * BLOCK for letter in (b"a", b"b", b"c"))
ZEROES = bytes(BLOCK)
HOUR = 3600.0


class LateRequestTests(SynchronousTestCase):
    """A request of unknown outcome lands long after its sender went on."""

    def setUp(self) -> None:
        """Open a disk of eight blocks."""
        self.bench = Bench()
        self.bench.create()
        self.disk = self.bench.open()
        self.fake = self.bench.fake

    def script(self, *faults: Fault) -> None:
        """Let these befall the next requests."""
        self.fake.faults.extend(faults)

    def write(self, block: int, data: bytes) -> None:
        """Write a block."""
        self.bench.write(self.disk, block * BLOCK, data)

    def discard(self, block: int) -> None:
        """Discard a block."""
        self.bench.run(self.disk.discard(block * BLOCK, BLOCK))

    def crash(self) -> None:
        """Kill the daemon, and open the disk as its successor."""
        self.bench.kill(self.disk)
        self.disk = self.bench.open()

    def reopen(self) -> None:
        """Close and open."""
        self.bench.run(self.disk.close())
        self.disk = self.bench.open()

    def assert_holds(self, block: int, data: bytes) -> None:
        """Assert what a block holds, now and when everything has landed, for this daemon and the next."""
        self.assertTrue(self.bench.read(self.disk, block * BLOCK, BLOCK) == data)
        self.bench.clock.advance(100 * HOUR)
        self.assertTrue(self.bench.read(self.disk, block * BLOCK, BLOCK) == data)
        self.reopen()
        self.assertTrue(self.bench.read(self.disk, block * BLOCK, BLOCK) == data)

    def puts(self, block: int) -> list[int]:
        """Return the statuses of all requests that wrote a block."""
        return [
            status for method, key, status in self.fake.requests if method == "PUT" and key.endswith(f"/{block:08x}")
        ]

    def test_late_overwrite(self) -> None:
        """A PUT that lands an hour later finds another state and is refused."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        self.write(1, B)
        self.write(1, C)
        self.assert_holds(1, C)
        self.assertEqual(self.puts(1), [200, 412, 200, 200])

    def test_late_overwrite_of_returned_content(self) -> None:
        """The same, when the block holds again what it held when the PUT was sent."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        self.write(1, B)
        self.write(1, A)
        self.assert_holds(1, A)
        self.assertEqual(self.puts(1), [200, 412, 200, 200])

    def test_late_create_after_discard(self) -> None:
        """A late create does not bring discarded data back."""
        self.script(Fault.late(HOUR, method="PUT"))
        self.write(1, A)
        self.discard(1)
        self.assert_holds(1, ZEROES)
        self.assertEqual(self.puts(1), [412, 200, 200])

    def test_late_delete(self) -> None:
        """A late DELETE does not remove what was written since, even if it is what was there before."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="DELETE"))
        self.discard(1)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_late_hole(self) -> None:
        """A late first half of a discard does not zero what was written since."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        self.discard(1)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_many_late_attempts(self) -> None:
        """One attempt lands, the next finds that out, two more are still under way."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"), Fault.late(2 * HOUR, method="PUT"), Fault.lose_reply(method="PUT"))
        self.write(1, B)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_killed_with_requests_under_way(self) -> None:
        """The successor of a killed daemon is safe from its requests."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        start(self.disk.write(BLOCK, memoryview(B)))
        self.crash()
        self.write(1, C)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_killed_while_creating(self) -> None:
        """The same for a block that was absent."""
        self.script(Fault.late(HOUR, method="PUT"))
        start(self.disk.write(BLOCK, memoryview(B)))
        self.crash()
        self.write(1, C)
        self.discard(1)
        self.assert_holds(1, ZEROES)

    def test_killed_twice(self) -> None:
        """What haunts a block is not forgotten by the successor's successor, however it ended."""
        for end in (self.crash, self.reopen):
            self.fake.faults.clear()
            self.write(1, A)
            self.script(Fault.late(HOUR, method="PUT"))
            start(self.disk.write(BLOCK, memoryview(B)))
            self.crash()
            self.write(1, C)
            end()
            self.write(1, A)
            self.assert_holds(1, A)

    def test_doubt_outlives_a_clean_close(self) -> None:
        """A successor that closes properly, without having touched the block, still leaves its successor careful."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        start(self.disk.write(BLOCK, memoryview(B)))
        self.crash()
        self.reopen()
        self.write(1, C)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_given_up(self) -> None:
        """A write that is given up fails with NOT READY; the disk opened again is safe from it."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT", times=100))
        with self.assertRaises(NotReadyError):
            self.write(1, B)
        self.fake.faults.clear()
        self.assertFalse(self.disk._states.settled)
        self.reopen()
        self.write(1, C)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_given_up_for_lack_of_credentials(self) -> None:
        """The same, when further attempts fail because credentials cannot be renewed."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        away = mock.Mock()
        away.get_frozen_credentials.side_effect = CredentialRetrievalError(provider="sso", error_msg="away\nfor now")
        _, outcome = start(self.disk.write(BLOCK, memoryview(B)))
        with mock.patch.object(self.disk._store._signer, "_credentials", away):
            self.bench.clock.pump([1.0] * 60)
        self.assertTrue(outcome[0].check(NotReadyError))
        self.assertIn("sso: away for now", str(outcome[0].value))
        self.write(1, A)
        self.assert_holds(1, A)

    def test_given_up_for_no_good_reason(self) -> None:
        """The same, when a further attempt fails in a way that nobody thought of."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        _, outcome = start(self.disk.write(BLOCK, memoryview(B)))
        with mock.patch.object(self.disk._store._signer, "sign", side_effect=ZeroDivisionError):
            self.bench.clock.pump([1.0] * 60)
        self.assertTrue(outcome[0].check(ZeroDivisionError))
        self.write(1, A)
        self.assert_holds(1, A)

    def test_credentials_renewed_in_time(self) -> None:
        """Credentials that come a moment late cost nothing but that moment."""
        away = mock.Mock()
        good = self.disk._store._signer._credentials.get_frozen_credentials()
        away.get_frozen_credentials.side_effect = [RuntimeError("still expired"), good, good]
        with mock.patch.object(self.disk._store._signer, "_credentials", away):
            self.write(1, A)
        self.assert_holds(1, A)

    def test_haunting_outlives_a_clean_close(self) -> None:
        """What haunts a block is in its object, for whoever opens the disk later."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        self.write(1, B)
        self.write(1, C)
        self.reopen()
        self.assertFalse(self.disk._session.unclean)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_killed_between_attempts(self) -> None:
        """One attempt has landed when the daemon dies, another has not: the successor sees only the landed one."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"), Fault(method="PUT", answered=None))
        _, outcome = start(self.disk.write(BLOCK, memoryview(B)))
        while self.bench.stored(1).data != B:
            self.bench.clock.advance(1.0)
        self.assertEqual(outcome, [])
        self.crash()
        self.write(1, C)
        self.write(1, A)
        self.assert_holds(1, A)

    def test_lost_reply(self) -> None:
        """A write whose reply is lost succeeds, once."""
        self.write(1, A)
        self.script(Fault.lose_reply(method="PUT"))
        self.write(1, B)
        self.assert_holds(1, B)

    def test_predecessor_lands_in_between(self) -> None:
        """A killed daemon's request that lands between our read and our write is not undone."""
        self.write(1, A)
        self.script(Fault.late(0.5, method="PUT"))
        start(self.disk.write(BLOCK, memoryview(b"B" * 512)))
        self.crash()
        self.assertTrue(self.bench.read(self.disk, BLOCK, BLOCK) == A)
        self.script(Fault(method="PUT", applied=1.0, answered=1.0))
        self.bench.write(self.disk, BLOCK + 1024, b"C" * 512)
        self.assert_holds(1, b"B" * 512 + A[512:1024] + b"C" * 512 + A[1536:])

    def test_block_zero(self) -> None:
        """Block 0 keeps its metadata whatever is written or discarded."""
        self.write(0, A)
        self.discard(0)
        self.script(Fault.lose_reply(method="PUT"))
        self.write(0, A)
        self.discard(0)
        self.assert_holds(0, ZEROES)
        self.assertEqual(self.bench.stored(0).metadata["s3backer-filesize"], str(8 * BLOCK))

    def test_tails_go_away(self) -> None:
        """A tail is needed for content that returns while a request may wait for it, and for nothing else."""
        self.write(1, A)
        self.script(Fault.late(HOUR, method="PUT"))
        self.write(1, B)
        self.write(1, A)
        self.assertGreater(self.bench.stored(1).size, BLOCK)
        self.assertEqual(self.bench.read(self.disk, BLOCK + 512, 512), A[:512])
        self.bench.write(self.disk, BLOCK, C[:512])
        self.assertEqual(self.bench.stored(1).data, C[:512] + A[512:])

    def test_ordinary_life_leaves_no_traces(self) -> None:
        """Without doubts, content may return as often as it likes, over closing and opening."""
        for _ in range(3):
            for data in (A, B, A):
                self.write(1, data)
                self.assertEqual(self.bench.stored(1).data, data)
            self.discard(1)
            self.assertIsNone(self.bench.stored(1))
            self.reopen()

    def test_store_without_conditional_delete(self) -> None:
        """Where DELETE ignores conditions nothing is deleted: the hole stays."""
        self.fake.delete_conditions = False
        self.reopen()
        self.write(1, A)
        deleted = self.fake.count("DELETE")
        self.discard(1)
        self.assertEqual(self.fake.count("DELETE"), deleted)
        self.assertLess(self.bench.stored(1).size, 64)
        self.assert_holds(1, ZEROES)


class BusyBlockTests(SynchronousTestCase):
    """Several changes of one block at the same time."""

    def setUp(self) -> None:
        """Open a disk of eight blocks."""
        self.bench = Bench()
        self.bench.create()
        self.disk = self.bench.open()
        self.fake = self.bench.fake

    def test_changes_gather(self) -> None:
        """While one PUT is under way all further writes of its block become one more."""
        self.fake.faults.append(Fault(method="PUT", applied=1.0, answered=1.0))
        before = len(self.fake.requests)
        outcomes = [
            start(self.disk.write(BLOCK + at, memoryview(bytes([at // 512 + 1]) * 512)))[1]
            for at in range(0, BLOCK, 512)
        ]
        self.assertEqual(outcomes, [[]] * 8)
        self.bench.clock.advance(1.0)
        self.assertEqual(outcomes, [[None]] * 8)
        self.assertEqual([method for method, _, _ in self.fake.requests[before:]], ["GET", "PUT", "PUT"])
        expected = b"".join(bytes([number + 1]) * 512 for number in range(8))
        self.assertEqual(self.bench.stored(1).data, expected)

    def test_change_after_a_delete_whose_reply_was_lost(self) -> None:
        """A change that waited for a discard of unknown outcome reads the block, and is carried out."""
        for fault in (Fault.lose_reply(method="DELETE"), Fault.refuse(403, "AccessDenied", method="DELETE")):
            for data in (B, B[:512]):
                self.bench.write(self.disk, BLOCK, A)
                self.fake.faults = [evolve(fault)]
                _, discarded = start(self.disk.discard(BLOCK, BLOCK))
                _, written = start(self.disk.write(BLOCK, memoryview(data)))
                self.bench.clock.pump([0.1] * 100)
                self.assertEqual((discarded, written), ([None], [None]))
                self.assertEqual(self.bench.stored(1).data, data + ZEROES[len(data) :])

    def test_not_acknowledged_before_durable(self) -> None:
        """A gathered write is not acknowledged by the PUT before it."""
        self.fake.faults.append(Fault(method="PUT", applied=1.0, answered=1.0, times=2))
        _, first = start(self.disk.write(BLOCK, memoryview(A)))
        _, second = start(self.disk.write(BLOCK, memoryview(B)))
        _, flushed = start(self.disk.flush())
        self.bench.clock.advance(1.0)
        self.assertEqual((first, second, flushed), ([None], [], []))
        self.bench.clock.advance(1.0)
        self.assertEqual(second, [None])
        self.assertEqual(len(flushed), 1)

    def test_data_is_copied(self) -> None:
        """The caller's buffer may change as soon as the call returns."""
        self.fake.faults.append(Fault(method="PUT", applied=1.0, answered=1.0, times=2))
        window = bytearray(A)
        _, first = start(self.disk.write(BLOCK, memoryview(window)))
        _, second = start(self.disk.write(2 * BLOCK + 512, memoryview(window)[:512]))
        window[:] = C
        self.bench.clock.advance(2.0)
        self.assertEqual((first, second), ([None], [None]))
        self.assertEqual(self.bench.stored(1).data, A)
        self.assertEqual(self.bench.stored(2).data[512:1024], A[:512])

    def test_cancelled_write_is_held(self) -> None:
        """A write cannot be recalled, so it fires when its outcome is known."""
        self.fake.faults.append(Fault(method="PUT", applied=5.0, answered=5.0))
        deferred, outcome = start(self.disk.write(BLOCK, memoryview(A)))
        deferred.cancel()
        self.assertEqual(outcome, [])
        self.bench.clock.advance(5.0)
        self.assertEqual(outcome, [None])

    def test_cancelled_read_ends(self) -> None:
        """A read can be recalled."""
        self.bench.write(self.disk, BLOCK, A)
        self.fake.faults.append(Fault(method="GET", answered=5.0))
        buffer = bytearray(BLOCK)
        deferred, outcome = start(self.disk.readv(BLOCK, [memoryview(buffer)]))
        deferred.cancel()
        self.assertEqual(len(outcome), 1)
        self.bench.clock.advance(10.0)
        self.assertEqual(buffer, ZEROES)

    def read_with_one_failure(self, during: Callable[[Deferred[Any]], object]) -> None:
        """Read two blocks, of which one waits in a thread for its signature and the other is refused."""
        self.bench.write(self.disk, BLOCK, A + A)
        self.fake.faults.append(Fault.refuse(403, "AccessDenied", method="GET", key="00000002"))
        signer = self.disk._store._signer
        sign, thread = signer.sign, Deferred[None]()

        async def slowly(method: str, url: str, *rest: Any) -> Any:
            if url.endswith("00000001"):
                await uncancellable(thread)
            return await sign(method, url, *rest)

        buffer = bytearray(2 * BLOCK)
        with mock.patch.object(signer, "sign", slowly):
            deferred, outcome = start(self.disk.readv(BLOCK, [memoryview(buffer)]))
            self.bench.clock.advance(1.0)
            during(deferred)
            self.assertEqual(outcome, [])
            thread.callback(None)
        self.bench.clock.advance(1.0)
        self.assertTrue(outcome[0].check(NotReadyError, CancelledError))
        released = bytes(buffer)
        self.bench.clock.advance(10.0)
        self.assertEqual(buffer, released)

    def test_failed_read_touches_nothing_more(self) -> None:
        """When a read of several blocks has failed, those of the others are over."""
        self.read_with_one_failure(lambda deferred: None)

    def test_cancelled_read_touches_nothing_more(self) -> None:
        """The same when it is cancelled, which cannot be done to all of them."""
        self.read_with_one_failure(lambda deferred: deferred.cancel())

    def test_failed_read_reports_the_reason(self) -> None:
        """A read that fails waits for the last block, and fails with what was wrong with the one."""
        self.bench.write(self.disk, BLOCK, A + A)
        self.fake.faults.append(Fault(method="GET", key="00000001", answered=1.5))
        self.fake.faults.append(Fault.refuse(403, "AccessDenied", method="GET", key="00000002"))
        _, outcome = start(self.disk.readv(BLOCK, [memoryview(bytearray(2 * BLOCK))]))
        self.assertEqual(outcome, [])
        self.bench.clock.advance(1.5)
        self.assertTrue(outcome[0].check(NotReadyError))
        self.assertIn("grant", str(outcome[0].value))

    def test_whole_blocks_need_no_read(self) -> None:
        """A whole block is written with one request when its state is known."""
        self.bench.write(self.disk, BLOCK, A)
        requests = self.bench.requests(lambda: self.bench.write(self.disk, BLOCK, B))
        self.assertEqual(requests, [("PUT", "00000001", 200)])

    def test_absent_blocks_cost_nothing(self) -> None:
        """What is known to be absent is read, zeroed and discarded without a request."""
        self.bench.run(self.disk.discard(BLOCK, BLOCK))

        def idle() -> None:
            self.assertEqual(self.bench.read(self.disk, BLOCK, BLOCK), ZEROES)
            self.bench.write(self.disk, BLOCK, ZEROES)
            self.bench.run(self.disk.discard(BLOCK, BLOCK))

        self.assertEqual(self.bench.requests(idle), [])

    def test_reads_learn_states(self) -> None:
        """A write that follows a read of the block need not ask again."""
        self.bench.write(self.disk, BLOCK, A)
        self.bench.run(self.disk.close())
        self.disk = self.bench.open()
        self.bench.read(self.disk, BLOCK + 512, 512)
        requests = self.bench.requests(lambda: self.bench.write(self.disk, BLOCK, B))
        self.assertEqual(requests, [("PUT", "00000001", 200)])

    def test_small_writes_of_one_block(self) -> None:
        """A small write of a block that was written lately is one request: its other content is known."""
        self.bench.write(self.disk, BLOCK, A)
        self.bench.write(self.disk, 2 * BLOCK, A)
        requests = self.bench.requests(lambda: self.bench.write(self.disk, BLOCK + 512, B[:512]))
        self.assertEqual(requests, [("PUT", "00000001", 200)])
        self.assertEqual(self.bench.stored(1).data, A[:512] + B[:512] + A[1024:])

    def test_content_that_is_not_kept(self) -> None:
        """Only so many blocks are kept; a small write of another reads it first."""
        with mock.patch.object(blockwriter, "_IMAGES", BLOCK):
            self.bench.write(self.disk, BLOCK, A)
            self.bench.write(self.disk, 2 * BLOCK, A)
            requests = self.bench.requests(lambda: self.bench.write(self.disk, BLOCK + 512, B[:512]))
        self.assertEqual([method for method, _, _ in requests], ["GET", "PUT"])
        self.assertEqual(self.bench.stored(1).data, A[:512] + B[:512] + A[1024:])

    def test_foreign_writer(self) -> None:
        """What somebody else wrote is kept where this write leaves it alone, and reported once."""
        self.bench.write(self.disk, BLOCK, A)
        for number in (1, 2):
            self.bench.run(self.fake.objects.put(f"disk/{1:08x}", B))
            self.bench.write(self.disk, BLOCK + 512 * number, C[:512])
        self.assertEqual(self.bench.stored(1).data, B[:1024] + C[:512] + B[1536:])
        warnings = [event for event in self.bench.events if "somebody else" in event["log_format"]]
        self.assertEqual(len(warnings), 1)

    def test_endless_conflict(self) -> None:
        """A writer that changes a block all the time is not fought for ever."""
        self.bench.write(self.disk, BLOCK, A)
        self.fake.faults.append(Fault.refuse(412, "PreconditionFailed", method="PUT", times=100))
        with self.assertRaisesRegex(BackstoreError, "another writer"):
            self.bench.write(self.disk, BLOCK, B)

    def test_forbidden(self) -> None:
        """A refusal is logged with its mend, and makes the device not ready."""
        self.fake.faults.append(Fault.refuse(403, "AccessDenied", method="PUT"))
        with self.assertRaisesRegex(NotReadyError, "grant"):
            self.bench.write(self.disk, BLOCK, A)
        logged: list[Any] = [event["error"] for event in self.bench.events if "error" in event]
        self.assertIn("grant", str(logged[0]))


class DiscardTests(SynchronousTestCase):
    """Giving back a lot at once."""

    def test_large_discard_lists(self) -> None:
        """Absent blocks cost a list request for a thousand of them, not one each."""
        bench = Bench()
        bench.create(blocks=4000)
        disk = bench.open()
        for block in (0, 1, 5, 1500, 3999):
            bench.write(disk, block * BLOCK, A)
        bench.fake.objects.page = 2
        requests = bench.requests(lambda: bench.run(disk.discard(512, 3999 * BLOCK)))
        self.assertLess(len(requests), 25)
        for block in (1, 5, 1500):
            self.assertIsNone(bench.stored(block))
        self.assertEqual(bench.stored(0).data, A[:512] + ZEROES[512:])
        self.assertEqual(bench.stored(3999).data, ZEROES[:512] + A[512:])

    def test_discard_after_reopening(self) -> None:
        """What an earlier session wrote is found, too."""
        bench = Bench()
        bench.create(blocks=100)
        disk = bench.open()
        bench.write(disk, 0, A * 50)
        bench.run(disk.close())
        disk = bench.open()
        bench.run(disk.discard(0, 100 * BLOCK))
        self.assertEqual(bench.read(disk, 0, 100 * BLOCK), bytes(100 * BLOCK))
        self.assertEqual([key for key in bench.fake.objects.objects if key.startswith("disk/0")], ["disk/00000000"])
