"""Ten thousand operations while one request of twenty fails: on the fake S3, in simulated time."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.backstores.s3load import Load, operations
from txtcmu.objectstore.retry import Patience
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import FaultPlan

SEED = 1
OPERATIONS = 10_000
RATE = 0.05
HOUR = 3600.0
PATIENCE = 2.0  # seconds, so that one hang is enough for an error


class FakeLoadTests(SynchronousTestCase):
    def test_operations(self) -> None:
        """Data is right, or the error is clear and the sectors hold the old or the new; for good."""
        clock = Clock()
        clock.advance(1_000_000_000)
        fake = FakeS3(clock)
        plan = FaultPlan(SEED, RATE, late=HOUR)
        fake.faults.append(plan)
        jitter = Random(SEED).random
        load = Load(lambda: fake.connect(Patience(clock, jitter, total=PATIENCE)), clock, HOUR)
        simulate(clock, load.run(operations(SEED, OPERATIONS)))
        fake.faults.clear()
        simulate(clock, load.check())
        clock.advance(2 * HOUR)
        simulate(clock, load.check())
        simulate(clock, load.close())
        self.assertEqual(set(plan.befell), EVERYTHING)
        self.assertGreater(min(plan.befell.values()), 20)
        self.assertGreater(load.counts["NotReadyError"], 20)
        self.assertLess(load.counts["NotReadyError"], OPERATIONS / 20)
        self.assertEqual({kind for kind in load.counts if kind.endswith("Error")}, {"NotReadyError"})
        for line in load.errors:
            self.assertRegex(line, r"\A[A-Z]+ disk/\S+: .* \(\d+ attempts in \d+ s\); see whether the store is up\Z")


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
