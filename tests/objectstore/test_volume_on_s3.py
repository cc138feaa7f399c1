"""A volume on an S3 store that fails: what was flushed stays, what is read is right, and what is away is waited for."""

from __future__ import annotations

import os
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.objectstore.finish import finish
from txtcmu.errors import MediumError
from txtcmu.objectstore.retry import Patience
from txtcmu.results import as_deferred
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault, flipped
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

BLOCK = 4096
HOUR = 3600.0


class FailingStoreTests(SynchronousTestCase):
    """One volume after the other at one place, none of which remembers anything."""

    def setUp(self) -> None:
        """Have a volume."""
        self.clock = Clock()
        self.fake = FakeS3(self.clock)
        self.opened = 0
        self.run_to_end(create_volume(self.connect(), "", 1 << 20, self.writer(), os.urandom, Geometry(16, 64)))
        self.volume = self.open()

    def connect(self) -> Any:
        """Return a store."""
        return self.fake.connect(Patience(self.clock, Random(7).random))

    def writer(self) -> Writer:
        """Return the next writer."""
        self.opened += 1
        return Writer(os.urandom(16), "here", f"host {self.opened}", 1, "today")

    def run_to_end(self, result: object, limit: float = 200.0) -> Any:
        """Let time pass until a result is there; return it, or raise its failure."""
        return finish(self.clock, result, limit)

    def open(self) -> Volume:
        """Take the volume over."""
        store = self.connect()
        keeper, replay = self.run_to_end(
            take_over(store, "", self.writer(), os.urandom, self.clock, forced=True), 2 * HOUR
        )
        return Volume(store, keeper, replay, self.clock, Tuning(cache_blocks=1, read_ahead_blocks=0))

    def reopen(self) -> None:
        """Kill the writer, and open as its successor."""
        self.volume.abandon()
        self.volume = self.open()

    def write(self, block: int, letter: bytes) -> None:
        """Write a block."""
        self.run_to_end(as_deferred(self.volume.write(block * BLOCK, memoryview(letter * BLOCK))))

    def reading(self, block: int, count: int = 1) -> tuple[bytearray, Deferred[Any]]:
        """Begin to read."""
        data = bytearray(count * BLOCK)
        return data, as_deferred(self.volume.read(block * BLOCK, [memoryview(data)]))

    def read(self, block: int, count: int = 1) -> bytes:
        """Read blocks, and return a byte of each, all of whose bytes are the same."""
        data, reading = self.reading(block, count)
        self.run_to_end(reading)
        for at in range(0, len(data), BLOCK):
            self.assertEqual(len(set(data[at : at + BLOCK])), 1)
        return bytes(data[::BLOCK])

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([0.5] * round(seconds / 0.5))

    def end(self) -> None:
        """Close, and see that nothing is asked of the store afterwards."""
        self.fake.faults.clear()
        self.run_to_end(self.volume.close())
        before = len(self.fake.requests)
        self.clock.pump([10.0] * 360)
        self.assertEqual(len(self.fake.requests), before)

    def test_away_for_ten_minutes(self) -> None:
        """Reads and flushes wait for a store that hangs, refuses or breaks connections, and end when it is back."""
        for outage in (Fault.hang(), Fault.refuse(503, "ServiceUnavailable"), Fault.lose_request()):
            self.write(1, b"a")
            self.run_to_end(self.volume.flush())
            self.reopen()
            outage.times = 1 << 30
            self.fake.faults.append(outage)
            self.write(2, b"b")
            flushing = self.volume.flush()
            data, reading = self.reading(1)
            self.wait(600)
            self.assertNoResult(flushing)
            self.assertNoResult(reading)
            self.fake.faults.clear()
            self.run_to_end(flushing)
            self.run_to_end(reading)
            self.assertEqual(data, b"a" * BLOCK)
            self.reopen()
            self.assertEqual(self.read(0, 4), b"\0ab\0")
            self.write(1, b"\0")
            self.write(2, b"\0")
        self.end()

    def test_opened_while_it_refuses(self) -> None:
        """An opening in the middle of refusals finds everything that was flushed."""
        self.write(3, b"c")
        self.run_to_end(self.volume.flush())
        self.volume.abandon()
        for outage in (Fault.refuse(503, "SlowDown", retry_after="1"), Fault.refuse(500, "InternalError")):
            outage.times = 4
            self.fake.faults.append(outage)
        self.volume = self.open()
        self.assertEqual(self.read(3), b"c")
        self.end()

    def test_damaged_on_the_way(self) -> None:
        """Bits that flip and bodies that end early on their way back are read again; nobody hears of them."""
        for block in range(16):
            self.write(block, bytes([65 + block]))
        self.run_to_end(self.volume.flush())
        self.reopen()
        for bit in range(0, 8 * 4112, 997):
            block = bit % 15
            self.fake.faults.append(Fault(method="GET", flip=bit))
            self.assertEqual(self.read(block), bytes([65 + block]))
            self.fake.faults.append(Fault(method="GET", truncate=bit // 8))
            self.assertEqual(self.read(block + 1), bytes([66 + block]))
        self.flushLoggedErrors()
        self.end()

    def test_damaged_for_good(self) -> None:
        """A slot that has rotted in the store is a medium error at its block, and its neighbours are whole."""
        for block in range(8):
            self.write(block, bytes([65 + block]))
        self.run_to_end(self.volume.flush())
        self.reopen()
        [key] = [key for key, found in self.fake.objects.objects.items() if "/d/" in key and found.size > 8 * BLOCK]
        body = self.fake.objects.objects[key].data
        damaged = flipped(body, 8 * (body.index(b"D" * BLOCK) + 100))
        self.fake.objects.put(key, damaged)
        _, reading = self.reading(3)
        with self.assertRaises(MediumError) as caught:
            self.run_to_end(reading)
        self.assertEqual(caught.exception.offset, 3 * BLOCK)
        self.assertEqual(self.read(0, 3) + self.read(4, 4), b"ABCEFGH")
        self.fake.objects.put(key, body)
        self.assertEqual(self.read(3), b"D")
        self.end()

    def test_replies_lost(self) -> None:
        """An object that landed, and whose reply did not, is recognised: the flush ends, and nothing is fenced."""
        for number in range(4):
            self.fake.faults.append(Fault.lose_reply(method="PUT", key="/d/"))
            self.write(number, b"x")
            self.run_to_end(self.volume.flush())
        self.fake.faults.append(Fault.lose_reply(method="PUT", key="head"))
        self.run_to_end(self.volume.close())
        self.volume = self.open()
        self.assertEqual(self.read(0, 5), b"xxxx\0")
        self.end()

    def test_applied_an_hour_later(self) -> None:
        """An object whose first attempt lands when its writer is long dead changes nothing of what came since."""
        self.fake.faults.append(Fault.late(HOUR, method="PUT", key="/d/"))
        self.write(1, b"a")
        self.run_to_end(self.volume.flush())
        self.fake.faults.append(Fault.late(HOUR, method="PUT", key="/d/", times=100))
        self.write(1, b"b")  # of which no attempt lands in time
        dead, flushing = self.volume, self.volume.flush()
        self.wait(30)
        self.assertNoResult(flushing)
        flushing.addErrback(lambda _: None)
        dead.abandon()
        self.fake.faults.clear()
        self.volume = self.open()
        self.assertEqual(self.read(1), b"a")
        self.write(1, b"c")
        self.run_to_end(self.volume.flush())
        self.wait(2 * HOUR)
        self.assertEqual(self.read(1), b"c")
        self.reopen()
        self.assertEqual(self.read(1), b"c")
        self.end()

    def test_told_to_slow_down(self) -> None:
        """A store that refuses three requests of four for a while is asked ever less often, and loses nothing."""
        self.fake.faults += [Fault.refuse(503, "SlowDown", times=40)]
        for block in range(64):
            self.write(block, bytes([block + 1]))
        started, before = self.clock.seconds(), len(self.fake.requests)
        self.run_to_end(self.volume.flush(), HOUR)
        self.assertGreater(self.clock.seconds() - started, 1.0)
        self.assertLess(len(self.fake.requests) - before, 40 + 64)
        self.reopen()
        self.assertEqual(self.read(0, 64), bytes(range(1, 65)))
        self.end()
