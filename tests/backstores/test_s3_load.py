"""Ten thousand operations while one request of twenty fails.

On the fake S3 in simulated time; and the same list on a real server behind a proxy that fails, with the same kinds of
faults and shorter delays.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from attrs import evolve
from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.backstores.s3load import KINDS, Load, operations
from tools.servers.faultproxy import FaultProxy
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.objectstore.credentials import Signer
from txtcmu.objectstore.retry import Patience
from txtcmu.objectstore.s3 import S3ObjectStore
from txtcmu.objectstore.settings import S3Settings
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import FaultPlan

SEED = 1
OPERATIONS = 10_000
RATE = 0.05
AT_ONCE = 16
HOUR = 3600.0
PATIENCE = 2.0  # seconds, so that one hang is enough for an error


def judge(case: Any, load: Load, plan: FaultPlan, most: int) -> None:
    """Assert that much went wrong, that at most so much of it was seen, and that what was seen is clear."""
    case.assertEqual(set(plan.befell), EVERYTHING)
    case.assertGreater(min(plan.befell.values()), 20)
    case.assertEqual(sum(load.counts[kind] for kind in KINDS), OPERATIONS)
    case.assertGreater(load.counts["NotReadyError"], 5)
    case.assertLess(load.counts["NotReadyError"], most)
    case.assertEqual({kind for kind in load.counts if kind.endswith("Error")}, {"NotReadyError"})
    for line in load.errors:
        case.assertRegex(line, r"\A[A-Z]+ \S+: .* \(\d+ attempts in \d+ s\); see whether the store is up\Z")


class FakeLoadTests(SynchronousTestCase):
    def test_operations(self) -> None:
        """Data is right, or the error is clear and the sectors hold the old or the new; for good."""
        clock = Clock()
        clock.advance(1_000_000_000)
        fake = FakeS3(clock)
        plan = FaultPlan(SEED, RATE, late=HOUR)
        fake.faults.append(plan)
        jitter = Random(SEED).random
        load = Load(lambda: fake.connect(Patience(clock, jitter, total=PATIENCE)), clock, HOUR, AT_ONCE)
        simulate(clock, load.run(operations(SEED, OPERATIONS)))
        fake.faults.clear()
        simulate(clock, load.check())
        clock.advance(2 * HOUR)
        simulate(clock, load.check())
        simulate(clock, load.close())
        judge(self, load, plan, OPERATIONS // 20)


class SeaweedFSLoadTests(TestCase):
    timeout = 900
    longest = 1.5  # seconds, where the fake has an hour: longer than the client has patience

    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs

    async def test_operations(self) -> None:
        """The same on a real server."""
        proxy = FaultProxy(reactor, self.server.port)
        self.addCleanup(proxy.stop)
        plan = FaultPlan(SEED, RATE, latency=0.6, late=self.longest, retry_after="0")
        proxy.faults.append(plan)
        jitter = Random(SEED).random
        seconds = 0.4

        def connect() -> S3ObjectStore:
            settings = S3Settings(self.server.bucket, proxy.endpoint, request_timeout=seconds, connections=AT_ONCE)
            signer = Signer(reactor, Credentials(self.server.access_key, self.server.secret_key), self.server.region)
            patience = Patience(reactor, jitter, total=0.45, first=0.01)
            return S3ObjectStore(reactor, settings, signer, patience)

        load = Load(connect, reactor, 0.2, AT_ONCE)
        await load.run(operations(SEED, OPERATIONS))
        proxy.faults.clear()
        seconds = 30.0  # nothing hangs any more, and a slow machine may be slow
        for store in load.stores:
            store.settings = evolve(store.settings, request_timeout=seconds)
        await load.check()
        await deferLater(reactor, self.longest)  # what is late has landed then
        await load.check()
        await load.close()
        judge(self, load, plan, OPERATIONS // 8)  # a slow machine's timeouts count, too


EVERYTHING = {
    "bit flip",
    "bit flip sent",
    "error",
    "hang",
    "late",
    "latency",
    "repeated",
    "reply lost",
    "request lost",
    "slow down",
    "truncated",
}


def simulate(clock: Clock, coroutine: Any) -> None:
    """Let time pass, from event to event, until a coroutine is done."""
    done: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(done.append)
    while not done:
        calls = clock.getDelayedCalls()
        if not calls:
            raise AssertionError("nothing is under way, and nothing will be")
        clock.advance(max(0.0, min(call.getTime() for call in calls) - clock.seconds()))
    if done[0] is not None:
        done[0].raiseException()
