"""The probe: each lie of a store is found out, no trouble is taken for one, and nothing is left behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.backstores.s3support import PREFIX, Bench
from txtcmu.errors import ObjectStoreError, StoreUnavailable
from txtcmu.objectstore.probe import probe
from txtcmu.results import as_deferred
from txtcmu.testing.fakebucket import Answer, Sent, error
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault

RACERS = 8
RACES = 6


class IgnoresIfNoneMatch(FakeS3):
    """Creates what is there."""

    ignored = "if-none-match"

    def answer(self, sent: Sent) -> Answer:
        """Forget a condition."""
        headers = {name: value for name, value in sent.headers.items() if name != self.ignored}
        return super().answer(Sent(sent.method, sent.uri, headers, sent.body))


class IgnoresIfMatch(IgnoresIfNoneMatch):
    """Replaces what has changed."""

    ignored = "if-match"


class TwoWinners(FakeS3):
    """Tells one of those who lost that he has won, and keeps what the other wrote."""

    condition = "if-none-match"

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.refused: Counter[str] = Counter()

    def answer(self, sent: Sent) -> Answer:
        """Lie to the third in a row."""
        answer = super().answer(sent)
        if answer.status == 412 and self.condition in sent.headers and sent.method == "PUT":
            self.refused[sent.key] += 1
            if self.refused[sent.key] == 3:
                return Answer(200, b"", {"ETag": '"0123456789abcdef0123456789abcdef"'})
        return answer


class TwoReplace(TwoWinners):
    """The same to one of those who replace."""

    condition = "if-match"


class LoserStays(FakeS3):
    """Refuses who comes too late, and stores what he sent."""

    def answer(self, sent: Sent) -> Answer:
        """Store it all the same."""
        answer = super().answer(sent)
        if answer.status == 412 and sent.method == "PUT":
            super().answer(Sent(sent.method, sent.uri, {}, sent.body))
        return answer


class NobodyReplaces(FakeS3):
    """Refuses each If-Match."""

    def answer(self, sent: Sent) -> Answer:
        """Find no etag right."""
        if sent.method == "PUT" and "if-match" in sent.headers:
            return error(412, "PreconditionFailed")
        return super().answer(sent)


class WantsBareEtags(FakeS3):
    """As radosgw does."""

    quoted = False

    def answer(self, sent: Sent) -> Answer:
        """Know an etag only as it should be."""
        if sent.headers.get("if-match", "").startswith('"') != self.quoted and "if-match" in sent.headers:
            return error(412, "PreconditionFailed")
        return super().answer(sent)


class WantsQuotedEtags(WantsBareEtags):
    """As the standard does."""

    quoted = True


class Conflicting(FakeS3):
    """Answers a conflict to who has lost a race just now, as AWS does."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.conflicts: set[bytes] = set()

    def answer(self, sent: Sent) -> Answer:
        """Say 409 at first."""
        answer = super().answer(sent)
        if answer.status == 412 and sent.method == "PUT" and sent.body not in self.conflicts:
            self.conflicts.add(sent.body)
            return error(409, "ConditionalRequestConflict")
        return answer


class ProbeTests(SynchronousTestCase):
    def on(self, kind: type[FakeS3] = FakeS3) -> Bench:
        """Return a clock and a store of some kind."""
        bench = Bench()
        bench.fake = kind(bench.clock)
        return bench

    def refused(self, bench: Bench) -> str:
        """See that the store is refused, in one line, and that nothing stays there; return the line."""
        with self.assertRaises(ObjectStoreError) as caught:
            bench.run(probe(bench.fake.connect(), PREFIX))
        self.assertNotIsInstance(caught.exception, StoreUnavailable)
        self.assertEqual(bench.fake.objects.objects, {})
        line = str(caught.exception)
        self.assertNotIn("\n", line)
        return line

    def test_honest_store(self) -> None:
        """An honest store passes, and nothing is left behind."""
        bench = self.on()
        self.assertTrue(bench.run(probe(bench.fake.connect(), PREFIX)))
        self.assertEqual(bench.fake.objects.objects, {})

    def test_no_conditional_delete(self) -> None:
        """That DELETE ignores conditions is found out, and is no error."""
        bench = self.on()
        bench.fake.delete_conditions = False
        self.assertFalse(bench.run(probe(bench.fake.connect(), PREFIX)))
        self.assertEqual(bench.fake.objects.objects, {})

    def test_lies(self) -> None:
        """Each lie is called by its name, with what it would do, and with stores that do better."""
        for kind, condition, what in (
            (IgnoresIfNoneMatch, "If-None-Match", "8 of 8 writers won"),
            (IgnoresIfMatch, "If-Match", "8 of 8 writers won"),
            (TwoWinners, "If-None-Match", "2 of 8 writers won"),
            (TwoReplace, "If-Match", "2 of 8 writers won"),
            (LoserStays, "If-(None-)?Match", "its data is not there"),
            (NobodyReplaces, "If-Match", "none of 8 writers won"),
        ):
            line = self.refused(self.on(kind))
            self.assertRegex(line, rf"^the store does not honour {condition} on PUT \(.*{what}")
            self.assertRegex(line, "two writers would destroy each other's data; use .* SeaweedFS")

    def test_a_lie_among_troubles(self) -> None:
        """A lie is told, and not to try again, although other requests went unanswered."""
        bench = self.on(IgnoresIfNoneMatch)
        bench.fake.faults = [Fault(method="PUT", times=4), Fault.hang(method="PUT", times=3)]
        bench.fake.faults.append(Fault.hang(method="GET", times=50))
        self.assertIn("does not honour If-None-Match", self.refused(bench))

    def test_all_at_once(self) -> None:
        """All writers of all races are at the store at the same time, however few connections there may be."""
        bench = self.on()
        bench.fake.faults = [Fault(method="PUT", times=4), Fault(method="PUT", times=100, answered=4.0)]
        bench.clock.callLater(3.5, lambda: arrived.extend(bench.fake.requests))
        arrived: list[tuple[str, str, int]] = []
        self.assertTrue(bench.run(probe(bench.fake.connect(connections=1), PREFIX)))
        puts = Counter(key for method, key, _ in arrived[4:] if method == "PUT")
        self.assertEqual(list(puts.values()), [RACERS] * RACES)

    def test_etags(self) -> None:
        """How conditions take an etag is learned."""
        for kind in (WantsQuotedEtags, WantsBareEtags):
            bench = self.on(kind)
            store = bench.fake.connect()
            bench.run(probe(store, PREFIX))
            self.assertEqual(store.quote_etags, kind is WantsQuotedEtags)

    def test_conflict_is_a_loss(self) -> None:
        """Who is told of a conflict has lost, and that is all."""
        bench = self.on(Conflicting)
        self.assertTrue(bench.run(probe(bench.fake.connect(), PREFIX)))
        conflicts = [status for method, _, status in bench.fake.requests if (method, status) == ("PUT", 409)]
        self.assertEqual(len(conflicts), RACES * (RACERS - 1))

    def test_trouble_is_no_lie(self) -> None:
        """Whichever request is lost, late or repeated: an honest store passes, and learns nothing wrong."""
        faults = (
            Fault.lose_reply(),
            Fault.repeat(),
            Fault.repeat(0.1),
            Fault.late(100.0),
            Fault.lose_request(),
            Fault.refuse(503, "SlowDown"),
            Fault(status=500, code="InternalError"),
        )
        for first, fault in enumerate(faults):
            for number in range(first, 4 + RACES * (RACERS + 1) + 9, 2 * len(faults)):
                bench = self.on()
                store = bench.fake.connect()
                bench.fake.faults = [Fault(times=number), evolve(fault)]
                self.assertTrue(bench.run(probe(store, PREFIX)), (fault, number))
                self.assertTrue(store.quote_etags)
                self.assertEqual(bench.fake.objects.objects, {})

    def test_many_replies_are_lost(self) -> None:
        """Who wrote, and hears only that he may not, is known by his bytes, in every race."""
        bench = self.on()
        bench.fake.faults = [Fault.lose_reply(method="PUT", times=RACES * 3)]
        self.assertTrue(bench.run(probe(bench.fake.connect(), PREFIX)))

    def test_store_that_does_not_answer(self) -> None:
        """Nothing is said of a store that does not answer."""
        bench = self.on()
        bench.fake.faults = [Fault(method="PUT", times=10), Fault.hang(times=10_000)]
        with self.assertRaises(StoreUnavailable):
            bench.run(probe(bench.fake.connect(), PREFIX))

    def test_cancelled(self) -> None:
        """Nothing is left behind either when nobody wants to know any more, at whichever request."""
        for number in range(0, 4 + RACES * (RACERS + 1) + 9, 7):
            bench = self.on()
            bench.fake.faults = [Fault(times=number), Fault(answered=1.0, times=100)]
            probing = as_deferred(probe(bench.fake.connect(), PREFIX))
            bench.clock.pump([0.05] * 10)
            self.assertNoResult(probing)
            probing.cancel()
            with self.assertRaises(CancelledError):
                bench.run(probing)
            self.assertEqual(bench.fake.objects.objects, {}, number)

    def test_read_only_place(self) -> None:
        """That one may not write, or not remove, is said, and nothing of honesty."""
        for method in ("PUT", "DELETE"):
            bench = self.on()
            bench.fake.faults = [Fault.refuse(403, "AccessDenied", method=method, times=100)]
            with self.assertRaises(ObjectStoreError) as caught:
                bench.run(probe(bench.fake.connect(), PREFIX))
            self.assertRegex(str(caught.exception), "403 AccessDenied: these credentials may not do that: grant")
            self.assertNotIn("honour", str(caught.exception))
