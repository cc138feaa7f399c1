"""The parts of ``make bench-s3`` that decide what is measured, and whether something was lost."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.s3.generator import Generator
from benchmarks.s3.report import line
from benchmarks.s3.sequences import AtRandom, Chosen, InOrder
from benchmarks.s3.stamps import BLOCK, Stamps
from benchmarks.s3.verify import verify

SEED = 7


class Disk:
    """A front end whose disk is memory, and whose commands end in an order of their own.

    :ivar commands: what was given, in order: a letter, and the offset.
    :ivar most: commands that were outstanding at a time.
    """

    def __init__(self, size: int, depth: int, unit: int) -> None:
        self.memory = bytearray(size)
        self.buffers = [memoryview(bytearray(unit)) for _ in range(depth)]
        self.commands: list[tuple[str, int]] = []
        self.most = 0
        self.dead = False
        self._outstanding: deque[int] = deque()

    def write(self, slot: int, offset: int) -> None:
        self._give("w", slot, offset)
        self.memory[offset : offset + len(self.buffers[slot])] = self.buffers[slot]

    def read(self, slot: int, offset: int) -> None:
        self._give("r", slot, offset)
        self.buffers[slot][:] = self.memory[offset : offset + len(self.buffers[slot])]

    def flush(self, slot: int) -> None:
        self._give("f", slot, 0)

    def _give(self, kind: str, slot: int, offset: int) -> None:
        assert slot not in self._outstanding
        assert not self.dead
        self.commands.append((kind, offset))
        self._outstanding.append(slot)
        self.most = max(self.most, len(self._outstanding))

    def wait(self) -> list[int]:
        """End the one that was given last, and the first."""
        ended = {self._outstanding.pop()}
        if self._outstanding:
            ended.add(self._outstanding.popleft())
        return list(ended)

    def close(self) -> None:
        self.dead = True


class SequenceTests(SynchronousTestCase):
    @given(st.integers(1, 50), st.integers(0, 3), st.integers())
    def test_passes(self, units: int, passes: int, seed: int) -> None:
        """Each pass has every unit once; the sequence is the same whoever asks, beforehand or not."""
        sequence, again = AtRandom(units, seed, passes), AtRandom(units, seed)
        found = [sequence[number] for number in range(3 * units)]
        for start in range(0, 3 * units, units):
            self.assertEqual(sorted(found[start : start + units]), list(range(units)))
        self.assertEqual([again[number] for number in reversed(range(3 * units))], found[::-1])

    def test_passes_differ(self) -> None:
        """A second pass has an order of its own, and so has another seed."""
        sequence, other = AtRandom(1000, 1), AtRandom(1000, 2)
        first = [sequence[number] for number in range(1000)]
        self.assertNotEqual(first, [sequence[number] for number in range(1000, 2000)])
        self.assertNotEqual(first, [other[number] for number in range(1000)])

    def test_chosen(self) -> None:
        """Only what the first operations wrote is read, each once before any is read again."""
        written = AtRandom(100, 1)
        chosen = Chosen(written, AtRandom(30, 2))
        self.assertEqual(
            sorted(chosen[number] for number in range(30)), sorted(written[number] for number in range(30))
        )

    def test_in_order(self) -> None:
        """Behind the end of the area comes its start."""
        sequence = InOrder(3)
        self.assertEqual([sequence[number] for number in range(7)], [0, 1, 2, 0, 1, 2, 0])


class StampTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stamps = Stamps(SEED)
        self.buffer = bytearray(3 * BLOCK)
        self.stamps.put(self.buffer, BLOCK, 5, 1000)

    def test_found(self) -> None:
        """A block tells which operation wrote it, and its neighbours are as they were."""
        self.assertEqual(self.stamps.operation(self.buffer, BLOCK, 5), 1000)
        self.assertEqual(self.buffer[:BLOCK] + self.buffer[2 * BLOCK :], bytes(2 * BLOCK))

    def test_elsewhere(self) -> None:
        """A block of another place is not taken for the one asked for; neither is one of another load, nor zeroes."""
        self.assertIsNone(self.stamps.operation(self.buffer, BLOCK, 6))
        self.assertIsNone(Stamps(SEED + 1).operation(self.buffer, BLOCK, 5))
        self.assertIsNone(self.stamps.operation(self.buffer, 0, 0))

    @given(st.integers(0, BLOCK - 1), st.integers(1, 255))
    def test_damage(self, at: int, flip: int) -> None:
        """One byte that is wrong makes a block nobody's, or another operation's; never the same."""
        damaged = bytearray(self.buffer)
        damaged[BLOCK + at] ^= flip
        self.assertIsNone(self.stamps.operation(damaged, BLOCK, 5))

    def test_torn(self) -> None:
        """A block of which half is older is nobody's."""
        older = bytearray(BLOCK)
        self.stamps.put(older, 0, 5, 999)
        torn = older[: BLOCK // 2] + self.buffer[BLOCK + BLOCK // 2 : 2 * BLOCK]
        self.assertIsNone(self.stamps.operation(torn, 0, 5))


class GeneratorTests(SynchronousTestCase):
    units, depth = 20, 4

    def make(self, unit: int = BLOCK, flushes: bool = False) -> tuple[Disk, Generator]:
        """Return a disk, and a generator for it."""
        disk = Disk(self.units * unit, self.depth, unit)
        return disk, Generator(disk, AtRandom(self.units, SEED), Stamps(SEED), unit, flushes)

    def test_writes(self) -> None:
        """As many operations as are enough are done in order, as many at a time as there are slots; then one flush."""
        disk, generator = self.make()
        generator.write(lambda begun: begun >= 30)
        sequence = AtRandom(self.units, SEED)
        self.assertEqual(disk.commands[:-1], [("w", sequence[number] * BLOCK) for number in range(30)])
        self.assertEqual(disk.commands[-1], ("f", 0))
        self.assertEqual(disk.most, self.depth)
        self.assertEqual((generator.operations, len(generator.latencies)), (30, 30))
        self.assertEqual(generator.flushed, {sequence[number]: number + 1 for number in range(30)})

    def test_flushes(self) -> None:
        """Where each write is followed by a flush, an operation is both, and ends with the flush."""
        disk, generator = self.make(flushes=True)
        generator.write(lambda begun: begun >= 30)
        kinds = [kind for kind, _ in disk.commands]
        self.assertEqual((kinds.count("w"), kinds.count("f")), (30, 31))
        self.assertEqual(len(generator.latencies), 30)

    def test_large_units(self) -> None:
        """Every block of an operation has its own stamp."""
        disk, generator = self.make(unit=4 * BLOCK)
        generator.write(lambda begun: begun >= self.units)
        for block in range(4 * self.units):
            self.assertIsNotNone(Stamps(SEED).operation(disk.memory, block * BLOCK, block))

    def test_reads_of_what_nobody_wrote(self) -> None:
        """A read that finds something else than what was written is counted."""
        disk, generator = self.make()
        generator.write(lambda begun: begun >= 10)
        reader = Generator(disk, InOrder(self.units), Stamps(SEED), BLOCK)
        reader.read(lambda begun: begun >= self.units)
        self.assertEqual(reader.wrong, self.units - 10)

    def test_killed(self) -> None:
        """The engine is killed while commands are outstanding; none of these counts as flushed."""
        disk, generator = self.make()
        generator.write(lambda begun: begun >= 10)
        flushed = dict(generator.flushed)
        generator.write_until_killed(0, disk.close)
        self.assertTrue(disk.dead)
        self.assertEqual(generator.flushed, flushed)

    def test_killed_while_flushing(self) -> None:
        """What is flushed between the measurement and the kill counts, too."""
        disk, generator = self.make(flushes=True)
        generator.write(lambda begun: begun >= 10)
        acknowledged = len(generator.latencies)
        generator.write_until_killed(0.01, disk.close)
        done = len(generator.latencies) - acknowledged
        self.assertGreater(done, 0)
        later = [operation for operation in generator.flushed.values() if operation > 10]
        self.assertGreater(max(later, default=0), 10)


class VerifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = Disk(16 * BLOCK, 1, 8 * BLOCK)
        self.stamps = Stamps(SEED)

    def verify(self, expected: list[int], per_unit: int = 1) -> dict[str, int]:
        """Look at the disk."""
        return verify(self.disk, expected, self.stamps, per_unit, 8 * BLOCK)

    def test_as_expected(self) -> None:
        """Blocks that are as they were flushed, or newer, are right; nobody asks for those that were not flushed."""
        self.stamps.put(self.disk.memory, 3 * BLOCK, 3, 10)
        self.stamps.put(self.disk.memory, 9 * BLOCK, 9, 12)
        self.assertEqual(self.verify([0, 0, 0, 11, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0]), {"lost": 0, "blocks": 2})

    def test_lost(self) -> None:
        """A block that is older than its flush is lost, and so is one that is not there."""
        self.stamps.put(self.disk.memory, 3 * BLOCK, 3, 9)
        self.assertEqual(self.verify([0, 0, 0, 11, 1]), {"lost": 2, "blocks": 2})

    def test_units(self) -> None:
        """All blocks of a unit are looked at, and windows of which nothing is expected are not read."""
        for block in range(12, 15):
            self.stamps.put(self.disk.memory, block * BLOCK, block, 4)
        self.assertEqual(self.verify([0, 0, 0, 5], per_unit=4), {"lost": 1, "blocks": 4})
        self.assertEqual(self.disk.commands, [("r", 8 * BLOCK)])


def figures(rate: float, latency: float = 0.025, **others: Any) -> dict[str, Any]:
    """Return the figures of a row."""
    return {"operations": rate * 20, "seconds": 20.0, "latency": latency, **others}


class ReportTests(SynchronousTestCase):
    def rotation(self, factor: float = 1.0) -> dict[str, Any]:
        """Return what a rotation has measured; ``factor`` is how fast this time txtcmu was."""
        gib = {"bytes_written": 1 << 30}
        return {
            "rtt": 0.022,
            "engines": {
                "txtcmu": {
                    "rw": figures(8000 * factor, requests={"PUT": 260}, bytes=1.25 * (1 << 30), lost=1, **gib),
                    "rr": figures(480 * factor),
                    "rr1": figures(40, 0.025),
                    "flushw": figures(38 * factor, lost=0),
                    "flush16": figures(500 * factor, lost=2),
                    "sw": figures(80 * factor, lost=0),
                    "sr": figures(150 * factor),
                },
                "s3backer": {
                    "rw": figures(400, requests={"PUT": 262000, "DELETE": 144}, **gib),
                    "flushw": figures(20),
                    "sw": figures(40),
                    "sr": figures(100),
                },
                "nbdkit": {"rw": figures(250), "rr": figures(300), "sw": figures(10), "sr": figures(20)},
            },
        }

    def test_line(self) -> None:
        """The last line has medians of all rotations, and everything that was lost."""
        rotations = [self.rotation(), self.rotation(1.5), self.rotation(0.1)]
        self.assertEqual(
            line(rotations),
            "bench-s3: lost=9 rtt_ms=22.0 s3backer_rw_iops=400 nbdkit_rw_iops=250 rw_s3backer=20.0 rw_nbdkit=32.0"
            " flushw_s3backer=1.90 flush16_nbdkit=2.00 sw_s3backer=2.00 sw_nbdkit=8.00 sr_s3backer=1.50 sr_nbdkit=7.50"
            " rr_eff=0.75 rr_nbdkit=1.60 puts_s3backer=1008 wa=1.250",
        )

    def test_trial(self) -> None:
        """What was not measured is not in it."""
        rotation = self.rotation()
        rotation["engines"] = {"txtcmu": {"sw": figures(80, lost=0)}}
        self.assertEqual(line([rotation]), "bench-s3: lost=0 rtt_ms=22.0")
