from __future__ import annotations

from itertools import pairwise
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tests.objectstore.finish import finish
from tests.objectstore.storecontract import StoreContract
from tests.objectstore.wirecontract import BODY, WireContract
from txtcmu.errors import ObjectStoreError, PreconditionFailed, StoreUnavailable
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.http import Reply
from txtcmu.objectstore.objects import MaybeMine, StoredObject
from txtcmu.objectstore.retry import Later, Patience
from txtcmu.objectstore.s3errors import refusal
from txtcmu.results import as_deferred
from txtcmu.testing.fakebucket import Answer
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault
from txtcmu.testing.reactor import FakeReactor
from txtcmu.volume.persistent import PersistentStore


class S3ObjectStoreTests(StoreContract, TestCase):
    """The S3 store keeps the contract against the fake."""

    def setUp(self) -> None:
        """Start with an empty store."""
        self.fake = FakeS3(Clock())
        self.store = self.fake.connect()

    def test_interface(self) -> None:
        """It provides what it says."""
        verifyObject(IObjectStore, self.store)


class FakeWireTests(WireContract, TestCase):
    """The fake replies as S3 does."""

    def setUp(self) -> None:
        """Start with an empty store."""
        self.fake = FakeS3(Clock())
        self.store = self.fake.connect()

    async def test_what_the_real_server_does_not_refuse(self) -> None:
        """AWS refuses unknown buckets, other regions and bodies that do not fit their SHA-256; SeaweedFS does not."""
        await self.error_reply(400, "XAmzContentSHA256Mismatch", "PUT", "a", BODY, payload=b"other")
        for store, status, code in (
            (self.fake.connect(bucket="other"), 404, "NoSuchBucket"),
            (self.fake.connect(region="eu-1"), 400, "AuthorizationHeaderMalformed"),
        ):
            self.store = store
            for method in ("GET", "PUT", "DELETE"):
                await self.error_reply(status, code, method, "a")
            await self.error_reply(status, code, "GET", query=[("list-type", "2")])

    async def test_requests_that_it_does_not_know(self) -> None:
        """What S3 has and the fake has not is refused, never half understood."""
        await self.error_reply(501, "NotImplemented", "GET")
        await self.error_reply(501, "NotImplemented", "PUT", "a", query=[("partNumber", "1")])


class FailureTests(SynchronousTestCase):
    """What the S3 store makes of failures."""

    def setUp(self) -> None:
        """Start with an empty store."""
        self.clock = Clock()
        self.fake = FakeS3(self.clock)
        self.store = self.fake.connect()

    def script(self, *faults: Fault) -> None:
        """Let these befall the next requests."""
        self.fake.faults.extend(faults)

    def finish(self, deferred: Deferred[Any]) -> Any:
        """Let time pass until a Deferred has fired; return its result."""
        return finish(self.clock, deferred)

    def assert_refused(self, store: Any, *words: str) -> None:
        """Assert that a request fails for good with one line that holds ``words``."""
        with self.assertRaises(ObjectStoreError) as caught:
            self.finish(store.get("key"))
        line = str(caught.exception)
        self.assertNotIn("\n", line)
        for word in words:
            self.assertIn(word, line)

    def test_errors_are_tried_again(self) -> None:
        """Server errors, throttling and broken connections are not the end."""
        self.finish(self.store.put("key", b"data"))
        for fault in (
            Fault.refuse(500, "InternalError"),
            Fault.refuse(502),
            Fault.refuse(503, "SlowDown"),
            Fault.refuse(429, "TooManyRequests"),
            Fault.refuse(400, "RequestTimeout"),
            Fault(reset=True),
            Fault(truncate=2),
            Fault.hang(),
        ):
            self.script(fault)
            self.assertEqual(self.finish(self.store.get("key")).data, b"data", fault)
        self.assertEqual(self.fake.count("GET"), 16)

    def test_patience_ends(self) -> None:
        """A store that stays away is reported, and how long it was asked."""
        self.script(Fault.refuse(503, "SlowDown", times=1000))
        with self.assertRaisesRegex(StoreUnavailable, "GET key: http://fake.test answered 503 SlowDown .* attempts in"):
            self.finish(self.store.get("key"))
        self.assertLessEqual(self.clock.seconds(), 31)

    def test_delays_double(self) -> None:
        """The waits between attempts double up to a bound."""
        times: list[float] = []
        self.script(Fault.refuse(503, "SlowDown", times=5))
        finished: list[Any] = []
        self.store.get("key").addBoth(finished.append)
        seen = self.fake.count("GET")
        while not finished:
            self.clock.advance(0.01)
            if self.fake.count("GET") > seen:
                seen = self.fake.count("GET")
                times.append(round(self.clock.seconds(), 2))
        gaps = [round(after - before, 2) for before, after in zip([0.0, *times], times, strict=False)]
        for gap, expected in zip(gaps, [0.05, 0.1, 0.2, 0.4, 0.8], strict=True):
            self.assertLess(abs(gap - expected), 0.02)

    def test_retry_after(self) -> None:
        """The store's own wish is granted, be it for more than all patience."""
        for seconds in (7, 60):
            self.script(Fault.refuse(503, "SlowDown", retry_after=str(seconds)))
            waiting: list[Any] = []
            self.store.get("key").addBoth(waiting.append)
            self.clock.advance(seconds - 0.1)
            self.assertEqual(waiting, [])
            self.clock.advance(0.2)
            self.assertEqual(waiting, [None])

    def test_retry_after_without_end(self) -> None:
        """But not without end; and who must go on all the same asks not much more often than the store wants."""
        self.script(Fault.refuse(503, "SlowDown", retry_after="60", times=1000))
        with self.assertRaisesRegex(StoreUnavailable, "2 attempts in 60 s"):
            self.finish(self.store.get("key"))
        before = self.fake.count("GET")
        reading = as_deferred(PersistentStore(self.store, self.clock).get("key"))
        self.clock.pump([0.5] * 1200)
        self.assertNoResult(reading)
        self.assertLess(self.fake.count("GET") - before, 25)

    def attempts(self, begin: Any, *faults: Fault) -> list[float]:
        """Return how long each attempt lasted that one of the faults kept from being answered."""
        arrived: list[float] = []
        answer, store = self.fake.render, self.fake.connect(Patience(self.clock, lambda: 0.0, total=1000.0))

        def noting(request: Any) -> int:
            arrived.append(self.clock.seconds())
            return answer(request)

        self.patch(self.fake, "render", noting)
        self.script(*faults)
        self.finish(begin(store))
        self.patch(self.fake, "render", answer)
        return [round(after - before, 1) for before, after in pairwise(arrived)]

    def test_deadlines(self) -> None:
        """An attempt that stalls is over when its time is, which doubles with each, up to ``request_timeout``.

        A small object comes soon or not at all; a change, a list and a large object have longer, and all have a
        second for each million bytes, and more of them later: else a slow line would never get them through.
        """
        self.finish(self.store.put("key", b"data"))
        self.finish(self.store.put("large", bytes(1_000_000)))
        hang = Fault.hang(times=4)
        for begin, expected in (
            (lambda store: store.get("key"), [2.0, 4.0, 8.0, 10.0]),
            (lambda store: store.get("large", 5, 4096, checked=False), [2.0, 4.0, 8.0, 10.0]),
            (lambda store: store.get("large", 0, 1_000_000, checked=False), [6.0, 12.0, 14.0, 18.0]),
            (lambda store: store.put("key", b"data"), [5.0, 10.0, 10.0, 10.0]),
            (lambda store: store.put("large", bytes(1_000_000)), [6.0, 12.0, 14.0, 18.0]),
            (lambda store: store.list("key"), [5.0, 10.0, 10.0, 10.0]),
        ):
            found = self.attempts(begin, evolve(hang))
            for seconds, right in zip(found, expected, strict=True):
                self.assertLess(abs(seconds - right), 0.2, found)

    def test_dates_to_wait_for(self) -> None:
        """Retry-After may be a date, which is the store's, whatever the time is here; and a wrong one does no harm."""
        for text, seconds in (
            ("Thu, 01 Jan 1970 00:00:07 GMT", 7.0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
            ("Thu, 01 Jan 2099 00:00:00 GMT", 120.0),
            ("999999", 120.0),
            ("soon", 0.0),
            ("", 0.0),
        ):
            headers = {"date": "Thu, 01 Jan 1970 00:00:00 GMT", "retry-after": text}
            later = refusal(self.store.settings, 503, headers, b"")
            assert isinstance(later, Later)
            self.assertEqual(Patience(self.clock, lambda: 0.0).granted(later.wait), seconds)

    def test_clear_lines(self) -> None:
        """Each refusal names its mend."""
        self.assert_refused(self.fake.connect(bucket="other"), "NoSuchBucket", "create it")
        self.assert_refused(self.fake.connect(region="eu-1"), "AuthorizationHeaderMalformed", "set region=")
        self.fake.secret_key = "other"
        self.assert_refused(self.store, "SignatureDoesNotMatch", "secret_access_key")
        self.fake.access_key = "other"
        self.assert_refused(self.store, "InvalidAccessKeyId", "correct access_key_id")
        for status, code, word in (
            (403, "RequestTimeTooSkewed", "clock"),
            (403, "AccessDenied", "grant"),
            (301, "PermanentRedirect", "set region="),
            (418, "", "endpoint"),
        ):
            self.script(Fault.refuse(status, code))
            self.assert_refused(self.store, code, word)

    def test_regions(self) -> None:
        """A bucket elsewhere is told of with its region, however the store says it."""
        elsewhere = {"x-amz-bucket-region": "eu-7"}
        malformed = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-7</Region></Error>"
        redirect = b"<Error><Code>PermanentRedirect</Code></Error>"
        for status, headers, body, region in (
            (301, elsewhere, b"", "eu-7"),
            (307, elsewhere, b"", "eu-7"),
            (400, {}, malformed, "eu-7"),
            (301, {}, redirect, "that of the bucket"),
        ):
            error = refusal(self.store.settings, status, headers, body)
            self.assertRegex(str(error), f"the bucket is in another region; set region={region}$")

    def test_no_s3_at_all(self) -> None:
        """A web server, and one that wants TLS, are told of."""
        for status, body, mend in (
            (400, b"Client sent an HTTP request to an HTTPS server.\n", "speaks TLS; write the endpoint with https://"),
            (405, b"<html>405 Not Allowed</html>", "see whether the endpoint is that of an S3 service"),
        ):
            self.patch(self.fake, "answer", lambda _, status=status, body=body: Answer(status, body))
            self.assert_refused(self.store, mend)

    def test_wrong_clocks(self) -> None:
        """A host whose clock is wrong goes by the store's, at the first refusal, whichever way the clock is wrong."""
        self.finish(self.store.put("key", b"data"))
        for ahead in (7200.0, -7200.0, 0.0):
            self.fake.clock_ahead = ahead
            before = len(self.fake.requests)
            for _ in range(3):
                self.assertEqual(self.finish(self.store.get("key")).data, b"data")
            self.assertEqual([status for _, _, status in self.fake.requests[before:]], [403, 200, 200, 200])

    def test_wrong_clock_of_many(self) -> None:
        """So does each of many requests that were under way when the first refusal came."""
        self.finish(self.store.put("key", b"data"))
        self.fake.clock_ahead = 7200.0
        self.script(Fault(answered=1.0, times=3))
        reads = [self.store.get("key") for _ in range(3)]
        self.assertEqual([self.finish(each).data for each in reads], [b"data"] * 3)
        self.assertEqual(self.fake.count("GET"), 6)

    def test_clocks_that_agree(self) -> None:
        """A store that goes on about the time when there is no difference, or says none, is told of."""
        for headers in ({}, {"Date": "now"}):
            refused = Answer(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", headers)
            self.patch(self.fake, "answer", lambda _, refused=refused: refused)
            before = len(self.fake.requests)
            self.assert_refused(self.store, "RequestTimeTooSkewed", "NTP")
            self.assertEqual(len(self.fake.requests) - before, 1)

    def test_secrets_are_not_shown(self) -> None:
        """Settings can be printed."""
        store = self.fake.connect(access_key_id="id", secret_access_key="hidden", session_token="hidden")
        self.assertNotIn("hidden", repr(store.settings))

    def test_absence_needs_proof(self) -> None:
        """A 404 that does not come from S3 does not mean that there is no object; it is asked for again."""
        self.finish(self.store.put("key", b"data"))
        self.script(Fault.refuse(404, "", times=3))
        self.assertEqual(self.finish(self.store.get("key")).data, b"data")
        self.script(Fault.refuse(404, "", times=4))
        self.assert_refused(self.store, "404")
        self.assertEqual(self.fake.count("GET"), 8)

    def test_replaced_while_read(self) -> None:
        """An object that was too short for a range, and is not when its size is asked for, is read again."""
        self.finish(self.store.put("key", b"hole"))
        answer = self.fake.answer

        def replacing(sent: Any) -> Any:
            if sent.method == "HEAD":
                self.fake.objects.put("key", bytes(8192))
            return answer(sent)

        self.patch(self.fake, "answer", replacing)
        found = self.finish(self.store.get("key", 4096, 512))
        self.assertEqual((found.size, found.data), (8192, bytes(512)))

    def test_damaged_sizes(self) -> None:
        """An object's size with a flipped bit, or none, is asked for again, whether its range came or not."""
        self.finish(self.store.put("key", bytes(4096)))
        exchange = self.store._http.exchange
        for start, method, header, wrong in (
            (0, "GET", "content-range", "bytes 0-3/409\xb2"),
            (0, "GET", "content-range", ""),
            (4096, "HEAD", "content-length", "409\xb2"),
            (4096, "HEAD", "content-length", ""),
        ):
            replies = 0

            async def damaged(
                sent: str, *args: Any, method: str = method, header: str = header, wrong: str = wrong
            ) -> Reply:
                nonlocal replies
                reply = await exchange(sent, *args)
                replies += sent == method
                return evolve(reply, headers={**reply.headers, header: wrong}) if replies == 1 else reply

            self.patch(self.store._http, "exchange", damaged)
            found = self.finish(self.store.get("key", start, 4, checked=False))
            self.assertEqual((found.size, found.data, replies), (4096, bytes(4096)[start : start + 4], 2), wrong)

    def test_damaged_lists(self) -> None:
        """A list with a flipped bit is asked for again, wherever that is seen; what never is one is told of."""
        for number in range(3):
            self.finish(self.store.put(f"disk/{number}", bytes(7)))
        self.fake.objects.objects["disk"] = self.fake.objects.objects["disk/0"]
        good = list(self.finish(self.store.list("disk/")))
        seen = 0
        for bit in range(0, 5000, 23):
            self.script(Fault(flip=bit))
            before = self.fake.count("GET")
            try:
                page = list(self.finish(self.store.list("disk/")))
            except ObjectStoreError as error:
                self.fail(f"bit {bit}: {error}")
            again = self.fake.count("GET") - before > 1
            seen += again
            self.assertTrue(page == good or not again)
        self.assertGreater(seen, 100)
        self.script(Fault.refuse(200, "NoList", times=4))
        with self.assertRaisesRegex(ObjectStoreError, "LIST disk/: .* is no list .*; see whether the endpoint"):
            self.finish(self.store.list("disk/"))

    def test_damaged_absence(self) -> None:
        """That there is no object is read again, too, when a bit of it flips."""
        for bit in range(0, 900, 7):
            self.script(Fault(flip=bit))
            self.assertIsNone(self.finish(self.store.get("none")), bit)
        self.assertGreater(self.fake.count("GET"), 140)

    def test_lost_reply_of_a_create(self) -> None:
        """The retry of a create that did land fails, and says that it may be ours."""
        self.script(Fault.lose_reply(method="PUT"))
        with self.assertRaises(MaybeMine) as caught:
            self.finish(self.store.put("key", b"data", absent=True))
        self.assertEqual(caught.exception.doubts, 1)

    def test_lost_request_of_a_create(self) -> None:
        """The retry of a create that did not land succeeds, and tells of the doubt."""
        self.script(Fault.hang(method="PUT"))
        receipt = self.finish(self.store.put("key", b"data", absent=True))
        self.assertEqual(receipt.doubts, 1)

    def test_no_doubt_when_nothing_was_done(self) -> None:
        """A refusal leaves no doubt: a condition that fails afterwards is somebody else's doing."""
        self.finish(self.store.put("key", b"other"))
        self.script(Fault.refuse(503, "SlowDown"), Fault.refuse(409, "ConditionalRequestConflict"))
        with self.assertRaises(PreconditionFailed) as caught:
            self.finish(self.store.put("key", b"data", absent=True))
        self.assertNotIsInstance(caught.exception, MaybeMine)

    def test_retries_keep_the_condition(self) -> None:
        """A request that lands late does not undo what came after it."""
        first = self.finish(self.store.put("key", b"first"))
        self.script(Fault.late(100.0, method="PUT"))
        second = self.finish(self.store.put("key", b"second", if_match=first.etag))
        self.finish(self.store.put("key", b"third", if_match=second.etag))
        self.clock.advance(200)
        self.assertEqual(self.fake.objects.objects["key"].data, b"third")
        self.assertEqual([status for method, _, status in self.fake.requests if method == "PUT"], [200, 412, 200, 200])

    def test_compressed_objects(self) -> None:
        """A compressed object tells so, and its bytes are left alone."""
        for encoding in ("deflate", "gzip"):
            self.fake.objects.objects["key"] = StoredObject("key", "e", 3, b"abc", encoding=encoding)
            found = self.finish(self.store.get("key"))
            self.assertEqual((found.data, found.encoding), (b"abc", encoding))

    def test_cancelled_requests_end(self) -> None:
        """A cancelled request frees its place, wherever it was."""
        store = self.fake.connect(connections=1)
        self.script(Fault.hang())
        hung = store.get("key")
        queued = store.get("key")
        queued_too = store.get("key")
        queued.cancel()
        self.failureResultOf(queued)
        self.assertEqual(self.fake.count("GET"), 1)
        hung.cancel()
        self.failureResultOf(hung)
        self.assertIsNone(self.successResultOf(queued_too))

    def test_cancelled_while_hashed(self) -> None:
        """A large PUT that is cancelled while a thread hashes it ends at once, and is never sent."""
        reactor = FakeReactor()
        fake = FakeS3(reactor)
        reactor.hold_threads()
        writing = fake.connect().put("large", bytes(2 << 20))
        writing.cancel()
        self.failureResultOf(writing, CancelledError)
        reactor.release_threads()
        reactor.pump([1.0] * 10)
        self.assertEqual(fake.requests, [])

    def test_connections_are_bounded(self) -> None:
        """No more requests are under way than there are connections."""
        store = self.fake.connect(connections=3)
        self.script(Fault(answered=1.0, times=7))
        results = [store.get("key") for _ in range(7)]
        self.assertEqual(self.fake.count("GET"), 3)
        self.clock.advance(1.0)
        self.assertEqual(self.fake.count("GET"), 6)
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        for each in results:
            self.assertIsNone(self.successResultOf(each))
