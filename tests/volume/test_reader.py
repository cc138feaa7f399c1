"""Reading what only the store has: which requests are made, who waits for them, and what becomes of each block."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred

from tests.volume.support import BLOCK, VolumeCase
from txtcmu.errors import MediumError
from txtcmu.results import as_deferred
from txtcmu.volume.tuning import Tuning


class ReaderCase(VolumeCase):
    def setUp(self) -> None:
        """Have 16 blocks in one object, each full of its number."""
        super().setUp()
        first = self.open()
        for block in range(16):
            first.write(block * BLOCK, memoryview(bytes([block]) * BLOCK))
        self.done(first.close())
        self.volume = self.open()
        self.done(self.volume.read(40 * BLOCK, [memoryview(bytearray(BLOCK))]))  # brings the leaf
        self.store.requests.clear()
        self.gate: Deferred[None] = Deferred()

    def tearDown(self) -> None:
        """Let go of the volume."""
        self.volume.abandon()

    def hold(self) -> None:
        """Have no GET answered before :meth:`release`."""
        get = self.store.get

        def late(*args: Any, **options: Any) -> Any:
            found = get(*args, **options)
            return self.gate.addCallback(lambda _: found)

        patch = mock.patch.object(self.store, "get", late)
        patch.start()
        self.addCleanup(patch.stop)

    def release(self) -> None:
        """Answer."""
        self.gate.callback(None)

    def begin(self, first: int, end: int) -> tuple[Deferred[Any], bytearray]:
        """Begin to read blocks; return the Deferred, and where they come."""
        buffer = bytearray((end - first) * BLOCK)
        return as_deferred(self.volume.read(first * BLOCK, [memoryview(buffer)])), buffer

    def blocks(self, first: int, end: int) -> bytes:
        """Return what the blocks are."""
        return b"".join(bytes([block]) * BLOCK for block in range(first, end))


class RequestTests(ReaderCase):
    def test_one_request(self) -> None:
        """Reads of slots that are being read already make no request of their own."""
        self.hold()
        reads = [self.begin(0, 12), self.begin(4, 8), self.begin(11, 12)]
        self.assertEqual(len(self.store.requests), 1)
        self.release()
        for (reading, buffer), place in zip(reads, [(0, 12), (4, 8), (11, 12)], strict=True):
            self.done(reading)
            self.assertEqual(bytes(buffer), self.blocks(*place))

    def test_rest(self) -> None:
        """Of a read that goes beyond, only the rest is asked for."""
        self.hold()
        (one, _), (two, buffer) = self.begin(0, 8), self.begin(4, 12)
        self.assertEqual(len(self.store.requests), 2)
        self.release()
        self.done(one)
        self.done(two)
        self.assertEqual(bytes(buffer), self.blocks(4, 12))

    def test_cancelled(self) -> None:
        """Who gives up a read takes nothing from others who wait for the same request, and later ones find it over."""
        self.hold()
        (one, _), (two, buffer) = self.begin(0, 8), self.begin(2, 6)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertNoResult(two)
        self.release()
        self.done(two)
        self.assertEqual(bytes(buffer), self.blocks(2, 6))
        reading, buffer = self.begin(0, 8)
        self.done(reading)
        self.assertEqual(bytes(buffer), self.blocks(0, 8))


class WhileWritingTests(ReaderCase):
    def test_moment(self) -> None:
        """What is written while a read waits for the store is not in it."""
        self.volume.write(1 * BLOCK, memoryview(b"old." * 1024))
        self.hold()
        reading, buffer = self.begin(0, 3)
        for block in range(3):
            self.volume.write(block * BLOCK, memoryview(b"new." * 1024))
        self.release()
        self.done(reading)
        self.assertEqual(bytes(buffer), self.blocks(0, 1) + b"old." * 1024 + self.blocks(2, 3))

    def test_base(self) -> None:
        """A block of which a sector was written is read with the rest of it, among blocks from everywhere."""
        self.hold()
        writing = as_deferred(self.volume.write(2 * BLOCK + 512, memoryview(b"w" * 512)))
        self.volume.write(3 * BLOCK, memoryview(b"open" * 1024))
        self.volume.discard(5 * BLOCK, BLOCK)
        reading, buffer = self.begin(1, 7)
        self.assertNoResult(reading)
        self.release()
        self.done(writing)
        self.done(reading)
        second = bytes([2]) * 512 + b"w" * 512 + bytes([2]) * 3072
        expected = [self.blocks(1, 2), second, b"open" * 1024, self.blocks(4, 5), bytes(BLOCK), self.blocks(6, 7)]
        self.assertEqual(bytes(buffer), b"".join(expected))


class LostTests(ReaderCase):
    def test_one_of_several_objects(self) -> None:
        """A read over several objects, of which one is lost, says at which block; the others are read."""
        before = set(self.store.objects)
        self.done(self.write(self.volume, 5))
        [key] = set(self.store.objects) - before
        self.volume.abandon()
        self.volume = self.open()
        self.done(self.store.delete(key))
        reading, _ = self.begin(3, 8)
        self.assertEqual(self.failureResultOf(reading, MediumError).value.offset, 5 * BLOCK)
        reading, buffer = self.begin(6, 8)
        self.done(reading)
        self.assertEqual(bytes(buffer), self.blocks(6, 8))


class ReadAheadTests(ReaderCase):
    tuning = Tuning(cache_blocks=256)

    def data(self) -> str:
        """Return the key of the object with the blocks."""
        [key] = [key for key, each in self.store.objects.items() if len(each.data) > 16 * BLOCK]
        return key

    def test_ahead(self) -> None:
        """A second read in order brings what follows; the third finds it in memory."""
        for block in (0, 1):
            self.done(self.begin(block, block + 1)[0])
        self.store.requests.clear()
        reading, buffer = self.begin(2, 16)
        self.done(reading)
        self.assertEqual(bytes(buffer), self.blocks(2, 16))
        self.assertEqual(self.store.requests, [])

    def test_nobody_wanted_it(self) -> None:
        """What was read ahead, and is lost, is nobody's trouble until somebody reads it."""
        self.done(self.begin(0, 1)[0])
        key = self.data()
        self.done(self.begin(40, 41)[0])
        self.done(self.store.delete(key))
        self.volume.write(20 * BLOCK, memoryview(bytes(BLOCK)))
        reading, _ = self.begin(1, 2)
        self.failureResultOf(reading, MediumError)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.done(self.begin(20, 21)[0])
