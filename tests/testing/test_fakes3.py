"""The fake S3 is strict where real ones are, and fails as it is told to."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.objectstore.objects import MaybeMine
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault, FaultPlan


class FakeS3Tests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start with an empty bucket."""
        self.clock = Clock()
        self.fake = FakeS3(self.clock)
        self.store = self.fake.connect()

    def attempt(self, method: str, key: str, **headers: str) -> Any:
        """Send one request, changed after it was signed; return the outcome."""
        outcome: list[Any] = []
        signed = self.successResultOf(self._sign(method, key))
        exchange = self.store._http.exchange(method, self.store.settings.url(key), {**signed, **headers}, b"", 10)
        Deferred.fromCoroutine(exchange).addBoth(outcome.append)
        return outcome[0]

    def _sign(self, method: str, key: str) -> Any:
        url = self.store.settings.url(key)
        return Deferred.fromCoroutine(self.store._signer.sign(method, url, {"x-amz-meta-a": "1"}, sha256().hexdigest()))

    def test_checks_signatures(self) -> None:
        """A header changed after signing is found out."""
        self.assertEqual(self.attempt("PUT", "key").status, 200)
        self.assertEqual(self.attempt("PUT", "key", **{"x-amz-meta-a": "2"}).status, 403)

    def test_checks_content(self) -> None:
        """A digest that does not fit the body is refused."""
        reply = self.attempt("PUT", "key", **{"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})
        self.assertEqual(reply.status, 400)
        self.assertIn(b"BadDigest", reply.body)

    def test_late_requests_apply_late(self) -> None:
        """A request can take effect after its sender gave up."""
        self.fake.faults.append(Fault.late(50.0, method="PUT"))
        put = self.store.put("key", b"late")
        put.cancel()
        self.failureResultOf(put)
        self.clock.advance(49.0)
        self.assertIsNone(self.successResultOf(self.store.get("key")))
        self.clock.advance(2.0)
        found: Any = self.successResultOf(self.store.get("key"))
        self.assertEqual(found.data, b"late")

    def test_lost_replies_are_applied(self) -> None:
        """A request whose reply is lost has taken effect."""
        self.fake.faults.append(Fault.lose_reply(method="PUT"))
        self.store.put("key", b"data").addErrback(lambda _: None)
        self.assertEqual(self.fake.objects.objects["key"].data, b"data")

    def test_faults_choose_their_victims(self) -> None:
        """A fault hits the requests that it names, as often as it says."""
        self.fake.faults.append(Fault.refuse(403, "AccessDenied", method="GET", key="bad", times=2))
        self.assertIsNone(self.successResultOf(self.store.get("good")))
        for _ in range(2):
            self.failureResultOf(self.store.get("bad"), ObjectStoreError)
        self.assertIsNone(self.successResultOf(self.store.get("bad")))

    def test_flipped_bits(self) -> None:
        """A bit of a reply's body, or of a request's before its digest is looked at, is inverted."""
        self.successResultOf(self.store.put("key", b"data"))
        self.fake.faults.append(Fault(flip=8 * 4 + 1))  # counted modulo the length
        self.assertEqual(self.attempt("GET", "key").body, b"fata")
        self.fake.faults.append(Fault(flip_sent=0, method="PUT"))
        put = self.store.put("key", b"more")
        self.assertEqual(self.fake.requests[-1], ("PUT", "key", 400))
        self.clock.advance(1.0)
        self.successResultOf(put)
        self.assertEqual(self.fake.requests[-1], ("PUT", "key", 200))

    def test_repeated_requests(self) -> None:
        """A request that is applied twice is answered with what the second application came to."""
        self.fake.faults.append(Fault.repeat(method="PUT"))
        refused = self.failureResultOf(self.store.put("key", b"data", absent=True), PreconditionFailed)
        self.assertNotIsInstance(refused.value, MaybeMine)
        self.assertEqual(self.fake.objects.objects["key"].data, b"data")

    def test_plans(self) -> None:
        """A plan befalls so many requests as it says, each kind of request with what can befall it, by its seed."""

        def befallen(seed: int) -> list[Fault | None]:
            plan = FaultPlan(seed, 0.05)
            return [plan.hits(method, "key") for method in ("GET", "PUT", "DELETE", "HEAD") * 1000]

        faults = befallen(1)
        self.assertEqual(faults, befallen(1))
        self.assertNotEqual(faults, befallen(2))
        self.assertLess(abs(sum(fault is not None for fault in faults) - 200), 40)
        reads = [fault for fault in faults[::4] if fault is not None]
        self.assertEqual([fault for fault in reads if fault.again is not None or fault.flip_sent is not None], [])

    def test_the_example(self) -> None:
        """What the module's text shows is true."""
        clock = Clock()
        fake = FakeS3(clock)
        store = fake.connect()
        fake.faults.append(Fault.lose_reply(method="PUT", key="journal"))
        done: Any = store.put("journal/1", b"entry", absent=True)
        clock.advance(1.0)
        self.failureResultOf(done, MaybeMine)
