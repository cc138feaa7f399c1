"""What an open volume does by itself, and what it does not: sweeping, looking at the head, resting."""

from __future__ import annotations

from typing import Any
from unittest import mock
from uuid import UUID

from twisted.internet.defer import Deferred, fail

from tests.volume.support import BLOCK, SIZE, VolumeCase
from txtcmu.errors import FencedError, StoreUnavailable
from txtcmu.results import Promise, as_deferred
from txtcmu.volume.names import Names


class SweepTests(VolumeCase):
    def late_object(self) -> str:
        """Have an object that came too late to be replayed; return its key."""
        volume = self.open()
        names: Names = volume._state.names
        volume.abandon()
        late = names.log(volume._keeper.head.epoch.number, volume._log.next + 5)
        self.done(self.store.put(late, b"late" * 100))
        return late

    def sweeps(self) -> int:
        """Return how often all objects were listed."""
        return sum(request == ("list", self.names.root) for request in self.store.requests)

    @property
    def names(self) -> Names:
        """Return the keys of the volume."""
        [key] = {key.partition("/")[0] for key in self.store.objects if "/" in key}
        return Names("", UUID(key))

    def test_once(self) -> None:
        """After the first checkpoint what dead writers left is deleted; not while it opens, and not again."""
        late = self.late_object()
        volume = self.open()
        self.assertEqual(self.sweeps(), 0)
        self.done(self.write(volume, 1))
        self.assertIn(late, self.store.objects)
        self.sleep(601)
        self.assertNotIn(late, self.store.objects)
        self.assertEqual(self.sweeps(), 2)  # one page, and the end
        self.done(self.write(volume, 2))
        self.sleep(601)
        self.assertEqual(self.sweeps(), 2)
        volume.abandon()

    def test_store_is_away(self) -> None:
        """A store that does not answer costs nothing but the sweep, which follows the next checkpoint."""
        late = self.late_object()
        volume = self.open()
        self.done(self.write(volume, 1))
        with mock.patch.object(self.store, "list", return_value=fail(StoreUnavailable("away"))):
            self.sleep(601)
        self.done(self.write(volume, 2))
        self.assertIn(late, self.store.objects)
        self.sleep(601)
        self.assertNotIn(late, self.store.objects)
        self.done(volume.close())

    def test_any_failure(self) -> None:
        """Whatever else goes wrong with it is logged, and the disk works on."""
        volume = self.open()
        self.done(self.write(volume, 1))
        with mock.patch.object(self.store, "list", return_value=fail(RuntimeError("unforeseen"))):
            self.sleep(601)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.done(self.write(volume, 2))
        self.done(volume.close())

    def test_end(self) -> None:
        """One that is under way ends with the volume; closing begins none."""
        late = self.late_object()
        volume = self.open()
        self.done(self.write(volume, 1))
        cancelled: list[Any] = []
        with mock.patch.object(self.store, "list", return_value=Deferred[Any](cancelled.append)):
            self.sleep(601)
            self.done(volume.close())
        self.assertEqual(len(cancelled), 1)
        volume = self.open()
        self.done(self.write(volume, 2))
        swept = self.sweeps()
        self.done(volume.close())
        self.assertEqual(self.sweeps(), swept)
        self.assertIn(late, self.store.objects)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class IdleTests(VolumeCase):
    def test_idle_hour(self) -> None:
        """When what was written is in a checkpoint, and the sweep is done, a volume makes no request."""
        volume = self.open()
        self.done(self.write(volume, 1))
        self.sleep(700)
        before = len(self.store.requests)
        self.sleep(3600)
        self.assertEqual(self.store.requests[before:], [])
        volume.abandon()

    def test_idle_from_the_start(self) -> None:
        """Nor does one that was opened, and left alone."""
        self.done(self.open().close())
        volume = self.open()
        before = len(self.store.requests)
        self.sleep(3600)
        self.assertEqual(self.store.requests[before:], [])
        volume.abandon()


class AsleepTests(VolumeCase):
    def head_reads(self) -> int:
        """Return how often the head was read."""
        return self.store.requests.count(("get", "head"))

    def test_awake_again(self) -> None:
        """A process that did not run for a while looks at the head once, and goes on."""
        volume = self.open()
        self.done(self.write(volume, 1))
        before = self.head_reads()
        self.sleep(100)
        self.assertEqual(self.head_reads(), before)
        self.clock.advance(100)
        self.assertEqual(self.head_reads(), before + 1)
        self.sleep(100)
        self.done(self.write(volume, 2))
        self.assertEqual(self.head_reads(), before + 1)
        self.done(volume.close())

    def test_deposed_meanwhile(self) -> None:
        """If the volume is another's by then, whatever is asked next fails, though nothing has met the seal."""
        volume = self.open()
        winner = self.open("elsewhere")
        self.clock.advance(100)
        self.assertIn("on elsewhere", str(self.failureResultOf(self.read(volume, 1), FencedError).value))
        self.failureResultOf(volume.write(0, memoryview(bytes(BLOCK))), FencedError)
        volume.abandon()
        winner.abandon()

    def test_before_sending(self) -> None:
        """The head comes before an object is sent that was closed before the sleep, in the very turn that ends it."""
        volume = self.open()
        volume.write(0, memoryview(bytes(BLOCK)))
        self.clock.rightNow += 100  # no timer has had its turn
        before = len(self.store.requests)
        self.done(volume.flush())
        kinds = [(kind, "head" if key == "head" else "log") for kind, key in self.store.requests[before:]]
        self.assertEqual(kinds, [("get", "head"), ("put", "log")])
        volume.abandon()

    def test_before_acknowledging(self) -> None:
        """An object whose answer comes after the sleep counts when the head was read, and not before."""
        volume = self.open()
        sent, looked = Deferred[Any](), Deferred[Any]()
        put, get = self.store.put, self.store.get
        with mock.patch.object(self.store, "put", lambda *a, **o: sent.addCallback(lambda _: put(*a, **o))):
            flushed = self.write(volume, 1)
        self.clock.rightNow += 100
        with mock.patch.object(self.store, "get", lambda *a, **o: looked.addCallback(lambda _: get(*a, **o))):
            sent.callback(None)
            self.assertNoResult(flushed)
        looked.callback(None)
        self.done(flushed)
        volume.abandon()

    def test_head_cannot_be_read(self) -> None:
        """A store that does not tell is no reason to stop: the seal is what counts."""
        volume = self.open()
        with mock.patch.object(self.store, "get", return_value=fail(StoreUnavailable("away"))):
            self.clock.advance(100)
            self.done(self.write(volume, 1))
        self.done(volume.close())


class ResizeTests(VolumeCase):
    def held_head(self, gate: Promise) -> Any:
        """Let replacements of the head wait for ``gate``."""
        put = self.store.put

        def late(key: str, *args: Any, **options: Any) -> Any:
            if key != "head":
                return put(key, *args, **options)
            return gate.wait().addCallback(lambda _: put(key, *args, **options))

        return mock.patch.object(self.store, "put", late)

    def test_two_at_once(self) -> None:
        """Two resizes at once happen one after the other; what is written meanwhile waits for the first."""
        volume = self.open()
        gate = Promise()
        with self.held_head(gate):
            first, second = as_deferred(volume.resize(2 * SIZE)), as_deferred(volume.resize(3 * SIZE))
            flushed = self.write(volume, 1)
            self.assertNoResult(flushed)
            gate.resolve(None)
            self.done(first)
            self.done(second)
        self.done(flushed)
        self.assertEqual(volume.size, 3 * SIZE)
        self.done(volume.close())
        reopened = self.open()
        self.assertEqual(reopened.size, 3 * SIZE)
        self.done(reopened.close())

    def test_larger_and_smaller(self) -> None:
        """A smaller size that is asked for while a larger one is under way cuts the larger disk."""
        volume = self.open()
        gate = Promise()
        with self.held_head(gate):
            larger, smaller = as_deferred(volume.resize(2 * SIZE)), as_deferred(volume.resize(SIZE // 2))
            self.assertEqual(volume.size, SIZE)
            gate.resolve(None)
            self.done(larger)
            self.done(smaller)
        self.assertEqual(volume.size, SIZE // 2)
        self.done(volume.close())
