"""Random writes, discards, crashes and faults: what a disk may hold is always known, and so is what it must hold.

Contents come from a handful of patterns, so that blocks return to earlier states all the time, and requests land
up to ten hours late.  The model knows for each sector which contents are possible: one after an acknowledged write,
several after one that failed or was cut off by a crash.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.backstores.s3support import BLOCK, Bench, start
from txtcmu.errors import NotReadyError
from txtcmu.testing.faults import Fault

SECTOR = 1024
BLOCKS = 4
SECTORS = BLOCKS * BLOCK // SECTOR
PATTERNS = [bytes([value]) * SECTOR for value in (0, 1, 2)]
SEEDS = range(6)


class Simulation:
    """One run; it is the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = Bench()
        self.bench.fake.delete_conditions = self.random.random() < 0.8
        self.bench.create(BLOCKS)
        self.disk = self.bench.open()
        self.possible: list[set[bytes]] = [{PATTERNS[0]} for _ in range(SECTORS)]
        self.doubts = 0

    def fault(self) -> Fault:
        """Return something that goes wrong."""
        random = self.random
        method = random.choice(["PUT", "PUT", "PUT", "DELETE", "GET"])
        kind = random.randrange(6)
        if kind == 0:
            return Fault.refuse(503, "SlowDown", method=method, times=random.randrange(1, 4))
        if kind == 1:
            return Fault.lose_reply(method=method)
        if kind == 2:
            return Fault(method=method, applied=random.choice([0.0, None]), status=500, code="InternalError")
        if kind == 3:
            return Fault(method=method, applied=random.uniform(0, 20), answered=random.uniform(20, 30))
        times = random.choice([1, 1, 2, 50])
        return Fault.late(random.choice([1.0, 60.0, 600.0, 36000.0]) * random.random(), method=method, times=times)

    def operate(self) -> None:
        """Do a few things at the same time that do not overlap."""
        random = self.random
        free = set(range(SECTORS))
        started: list[tuple[range, list[bytes], list[Any]]] = []
        for _ in range(random.choice([1, 1, 2, 4])):
            first = random.choice([random.randrange(SECTORS), random.randrange(BLOCKS) * BLOCK // SECTOR])
            sectors = range(first, min(SECTORS, first + random.choice([1, 2, 4, 4, 8])))
            if not free.issuperset(sectors):
                continue
            free.difference_update(sectors)
            offset, length = first * SECTOR, len(sectors) * SECTOR
            if random.random() < 0.3:
                data = [PATTERNS[0]] * len(sectors)
                result: Any = self.disk.discard(offset, length)
            else:
                pattern = random.choice(PATTERNS)
                data = [pattern if random.random() < 0.9 else random.choice(PATTERNS) for _ in sectors]
                result = self.disk.write(offset, memoryview(b"".join(data)))
            for sector, content in zip(sectors, data, strict=True):
                self.possible[sector].add(content)
            started.append((sectors, data, start(result)[1]))
        self.finish(started)

    def finish(self, started: list[tuple[range, list[bytes], list[Any]]]) -> None:
        """Wait for the operations, or crash before they are done."""
        crash_after = self.random.uniform(0, 20) if self.random.random() < 0.1 else None
        waited = 0.0
        while not all(outcome for _, _, outcome in started):
            if crash_after is not None and waited > crash_after:
                self.crash()
                return
            self.bench.clock.advance(0.5)
            waited += 0.5
        failed = False
        for sectors, data, outcome in started:
            if isinstance(outcome[0], Failure):
                outcome[0].trap(NotReadyError)
                failed = True
            else:
                for sector, content in zip(sectors, data, strict=True):
                    self.possible[sector] = {content}
        if failed:
            self.doubts += 1
            self.bench.fake.faults.clear()
            self.bench.run(self.disk.close())
            self.disk = self.bench.open()

    def crash(self) -> None:
        """Lose the daemon; what it sent is still under way."""
        self.bench.fake.faults.clear()
        self.bench.kill(self.disk)
        self.disk = self.bench.open()

    def check(self) -> None:
        """Compare the disk with the model."""
        for sector in range(SECTORS):
            content = self.bench.read(self.disk, sector * SECTOR, SECTOR)
            if content not in self.possible[sector]:
                raise AssertionError(
                    f"sector {sector} holds {content[:1]!r}, not one of {[each[:1] for each in self.possible[sector]]}"
                )

    def run(self, steps: int) -> None:
        """Do everything."""
        random = self.random
        for _ in range(steps):
            if random.random() < 0.4:
                self.bench.fake.faults.append(self.fault())
            self.operate()
            if random.random() < 0.1:
                self.bench.fake.faults.clear()
                self.check()
            if random.random() < 0.05:
                self.bench.fake.faults.clear()
                self.bench.run(self.disk.close())
                self.disk = self.bench.open()
            if random.random() < 0.1:
                self.bench.clock.advance(random.choice([100.0, 4000.0]))
        self.bench.fake.faults.clear()
        self.check()
        self.bench.clock.advance(20 * 3600.0)
        self.check()
        self.bench.run(self.disk.close())
        self.disk = self.bench.open()
        self.check()


class SimulationTests(SynchronousTestCase):
    def test_seeds(self) -> None:
        """Every run ends with a disk that the model allows; a failure names its seed."""
        doubts = 0
        for seed in SEEDS:
            simulation = Simulation(seed)
            try:
                simulation.run(60)
            except AssertionError as error:
                self.fail(f"seed {seed}: {error}")
            doubts += simulation.doubts
        self.assertGreater(doubts, 0)
