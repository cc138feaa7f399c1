"""The mark of a volume: while its byte is 0, a daemon that is killed takes nothing with it that was acknowledged."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.volume.support import BLOCK, SIZE, CountingStore, VolumeCase
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.results import as_deferred
from txtcmu.volume import unstored
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.unstored import Left, Mark
from txtcmu.volume.volume import Volume

BLOCKS = 8
SECTOR = 512
FIRST, SECOND = (bytes([n]) * 16 for n in (1, 2))


class SlowStore(CountingStore):
    """A store whose objects of the log, and reads of them, wait for the test.

    :ivar waiting: calls that were made and not answered, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def put(self, key: str, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        return self.later(key, super().put, key, *args, **options)

    def get(self, key: str, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        return self.later(key, super().get, key, *args, **options)

    def later(self, key: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call now, or when the test says so."""
        if "/d/" not in key:
            return method(*args, **options)
        answer: Deferred[Any] = Deferred()

        def call() -> None:
            if not answer.called:  # else nobody waits for it any more
                method(*args, **options).chainDeferred(answer)

        self.waiting.append(call)
        return answer


class Disk:
    """A volume, its mark, and what its initiator has been told.

    :ivar lost: something was, at the time of an acknowledgement, although the mark said that it was not.
    """

    def __init__(self, case: VolumeCase) -> None:
        self.case = case
        self.store, self.clock = SlowStore(), Clock()
        case.done(create_volume(self.store, "", SIZE, case.writer("maker"), os.urandom, Geometry(4, 64)))
        taking = take_over(self.store, "", case.writer("here"), os.urandom, self.clock, forced=True)
        keeper, replay = self.finish(taking)
        self.mark = bytearray(1)
        tuning = Tuning(cache_blocks=1, pending=3)
        self.volume = Volume(self.store, keeper, replay, self.clock, tuning, self.mark)
        self.cached = True
        self.lost = False
        # Taken, in order, and of these how many had been when the last one of those that were acknowledged was taken.
        self.taken: list[tuple[int, bytes]] = []
        self.acknowledged = 0

    def finish(self, coroutine: Any) -> Any:
        """Return a result, for which the store answers all it is asked."""
        result = as_deferred(coroutine)
        while not result.called:
            self.store.waiting.pop(0)()
        return self.case.successResultOf(result)

    def change(self, offset: int, data: bytes, submit: Callable[[], Any]) -> None:
        """Change the disk, and check whenever the initiator hears of something."""
        self.taken.append((offset, data))
        number, cached, result = len(self.taken), self.cached, submit()

        def acknowledged(_: Any) -> None:
            self.acknowledged = max(self.acknowledged, number)
            self.look()

        def flushed(_: Any) -> Any:
            return None if self.cached else self.volume.flush()

        result = as_deferred(result)
        if not cached:
            result.addCallback(lambda _: self.volume.flush())
        result.addCallback(flushed).addCallback(acknowledged)

    def look(self) -> None:
        """See whether the daemon may be killed now, if that is what the mark says."""
        if self.mark[0]:
            return
        store = MemoryObjectStore()
        store.objects = dict(self.store.objects)
        taking = take_over(store, "", self.case.writer("next"), os.urandom, self.clock, forced=True)
        keeper, replay = self.case.done(taking)
        volume = Volume(store, keeper, replay, self.clock, Tuning())
        image = bytearray(BLOCKS * BLOCK)
        self.case.done(as_deferred(volume.read(0, [memoryview(image)])))
        volume.abandon()
        expected = bytearray(BLOCKS * BLOCK)
        images = []
        for offset, data in self.taken:
            images.append(bytes(expected))
            expected[offset : offset + len(data)] = data
        images.append(bytes(expected))
        self.lost |= bytes(image) not in images[self.acknowledged :]


_RANGES = st.tuples(st.integers(0, BLOCKS * 8 - 1), st.sampled_from([1, 3, 8, 8, 24])).map(
    lambda each: (each[0] * SECTOR, min(each[1], BLOCKS * 8 - each[0]) * SECTOR)
)
_STEPS = st.one_of(
    st.tuples(st.just("write"), _RANGES),
    st.tuples(st.just("write"), _RANGES),
    st.tuples(st.just("discard"), _RANGES),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("answer"), st.integers(0, 5)),
    st.tuples(st.just("rest"), st.none()),
    st.tuples(st.just("cache"), st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([0.25, 2.0])),
)


class OrderTests(VolumeCase):
    @settings(deadline=None, max_examples=60)
    @given(st.lists(_STEPS, min_size=15, max_size=40))
    def test_order(self, steps: list[tuple[str, Any]]) -> None:
        """Whenever the byte is 0, and a command is acknowledged, all that were are durable; and at rest it is 0."""
        disk = Disk(self)
        volume, store = disk.volume, disk.store
        for number, (step, what) in enumerate(steps, 1):
            if step == "write":
                offset, length = what
                data = bytes([number]) * length
                disk.change(offset, data, partial(volume.write, offset, memoryview(data)))
            elif step == "discard":
                offset, length = what
                disk.change(offset, bytes(length), partial(volume.discard, offset, length))
            elif step == "flush":
                volume.flush()
            elif step == "rest":
                disk.finish(volume.flush())
            elif step == "answer":
                if what < len(store.waiting):
                    store.waiting.pop(what)()
            elif step == "time":
                disk.clock.advance(what)
            elif disk.cached != what:
                if not what:
                    disk.finish(volume.flush())
                disk.cached = what
                volume.cache_writes(what)
            disk.look()
            self.assertFalse(disk.lost)
        while disk.acknowledged < len(disk.taken):
            disk.finish(volume.flush())  # of what was taken; some was held back
        disk.finish(volume.flush())
        self.assertEqual(disk.mark[0], 0)
        disk.look()
        self.assertFalse(disk.lost)
        volume.abandon()

    def test_first_write(self) -> None:
        """The byte is 1 as soon as a write was taken, until the store has answered; without a cache it stays 0."""
        disk = Disk(self)
        for cached in (True, False):
            disk.volume.cache_writes(cached)
            self.assertEqual(disk.mark[0], 0)
            self.assertIsNone(disk.volume.write(0, memoryview(bytes(BLOCK))))
            self.assertEqual(disk.mark[0], cached)
            flushed = disk.volume.flush()
            self.assertEqual(disk.mark[0], cached)
            disk.finish(flushed)
            self.assertEqual(disk.mark[0], 0)
        disk.volume.abandon()

    def test_switched_on(self) -> None:
        """What is under way as a cache is switched on may be acknowledged before it is durable."""
        disk = Disk(self)
        volume = disk.volume
        volume.cache_writes(False)
        for block in (0, 1):
            volume.write(block * BLOCK, memoryview(b"w" * BLOCK))
            disk.finish(volume.flush())
        under_way = volume.discard(SECTOR, BLOCK)
        self.assertNoResult(under_way)
        self.assertEqual(disk.mark[0], 0)
        volume.cache_writes(True)
        self.assertEqual(disk.mark[0], 1)
        disk.finish(volume.flush())
        self.assertEqual(disk.mark[0], 0)
        volume.cache_writes(False)
        volume.cache_writes(True)
        self.assertEqual(disk.mark[0], 0)
        volume.abandon()


class MarkTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a place."""
        self.folder = Path(self.mktemp()).absolute() / "deeper"
        self.mark = Mark(self.folder, UUID(int=1), "disk")

    def test_life(self) -> None:
        """What is written into the memory is read, by whoever comes next, until the mark is removed."""
        self.assertIsNone(self.mark.read())
        memory = self.mark.begin([FIRST, SECOND, FIRST])
        self.assertEqual(self.mark.read(), Left(False, (FIRST, SECOND)))
        memory[0] = 1
        self.assertEqual(self.mark.read(), Left(True, (FIRST, SECOND)))
        self.assertIsNone(Mark(self.folder, UUID(int=1), "another").read())
        self.assertIsNone(Mark(self.folder, UUID(int=2), "disk").read())
        self.mark.remove()
        self.assertIsNone(self.mark.read())
        self.mark.remove()

    def test_replaced(self) -> None:
        """Whoever was deposed writes into a file that nobody reads any more; nothing else is left lying about."""
        old = self.mark.begin([FIRST])
        self.mark.begin([SECOND])
        old[0] = 1
        self.assertEqual(self.mark.read(), Left(False, (SECOND,)))
        self.assertEqual(len(list(self.folder.iterdir())), 1)

    def test_the_newest_count(self) -> None:
        """A mark speaks for a few openings, the newest, and so does not grow for ever."""
        nonces = tuple(bytes([n]) * 16 for n in range(20))
        self.mark.begin(nonces)
        self.assertEqual(self.mark.read(), Left(False, nonces[-8:]))

    def test_any_name(self) -> None:
        """The kernel takes names that no file can have."""
        for name in ("x" * 300, "\udcff", "ü"):
            mark = Mark(self.folder, UUID(int=1), name)
            mark.begin([FIRST])
            self.assertEqual(mark.read(), Left(False, (FIRST,)))

    def test_nothing_is_known(self) -> None:
        """A mark of another boot, one that was cut off, and one that cannot be read tell nothing."""
        self.mark.begin([FIRST])
        with mock.patch.object(unstored, "_boot", return_value=b"b" * 36):
            self.assertIsNone(self.mark.read())
        with mock.patch.object(unstored, "_boot", side_effect=FileNotFoundError("no /proc")):
            self.assertIsNone(self.mark.read())
            with self.assertRaises(FileNotFoundError):
                self.mark.begin([SECOND])
        [path] = self.folder.iterdir()
        for length in (52, 36, 0):
            os.truncate(path, length)
            self.assertIsNone(self.mark.read())
        path.unlink()
        path.mkdir()
        self.assertIsNone(self.mark.read())
        with self.assertRaises(OSError):
            self.mark.begin([SECOND])
        self.assertEqual(list(self.folder.iterdir()), [path])
        self.mark.remove()
