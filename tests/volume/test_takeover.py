"""Taking a volume over from a writer that goes on, however quick it is; and seals further ahead, which end nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from tests.volume.support import BLOCK, VolumeCase
from txtcmu.errors import FencedError
from txtcmu.results import as_deferred
from txtcmu.volume.fsck import Report, check_volume
from txtcmu.volume.head import Head
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.log import WINDOW
from txtcmu.volume.logobject import Kind, decode_header, encode_header, seal
from txtcmu.volume.names import Names, log_place
from txtcmu.volume.takeover import take_over
from txtcmu.volume.volume import Volume

#: Seconds, with which a Clock can count exactly.
TICK = 1 / 1024
#: The most seals that an opener may have to try for.
SEALS = 16


class Far:
    """A store that is some seconds away: half of them pass before a request is applied, half before it is answered."""

    def __init__(self, store: Any, clock: Any, seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self.requests: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Callable[..., Deferred[Any]]:
        async def request(*args: Any, **options: Any) -> Any:
            self.requests.append((name, args[0]))
            await deferLater(self._clock, self._seconds / 2)
            try:
                return await getattr(self._store, name)(*args, **options)
            finally:
                await deferLater(self._clock, self._seconds / 2)

        return lambda *args, **options: as_deferred(request(*args, **options))


class TakeoverCase(VolumeCase):
    def head(self) -> tuple[Head, Names]:
        """Return the head, and the names of what it is the head of."""
        head, _ = self.done(read_head(self.store, ""))
        return head, Names("", head.uuid)

    def put_seal(self, seq: int) -> None:
        """Put a seal into the present epoch, as an opener that died."""
        head, names = self.head()
        header = seal(head.uuid, head.epoch.number, seq, os.urandom(16))
        self.done(self.store.put(names.log(head.epoch.number, seq), encode_header(header), absent=True))

    def seals(self, epoch: int) -> list[int]:
        """Return where in an epoch there are seals."""
        head, found = self.head()[0], []
        for key, stored in sorted(self.store.objects.items()):
            place = log_place(key)
            if place is not None and place[0] == epoch:
                header = decode_header(stored.data, head.uuid, *place, len(stored.data))
                found += [header.seq] if header.kind is Kind.SEAL else []
        return found

    def checked(self) -> Report:
        """Return what a check finds."""
        report: Report = self.done(check_volume(self.store, "", self.clock, data=True, progress=lambda *_: None))
        return report


class BusyWriterTests(TakeoverCase):
    """One that flushes without pause."""

    def test_one_at_a_time(self) -> None:
        """It has to wait for each flush; the store is as far away from both."""
        self.depose(1, TICK * 8, TICK * 8)

    def test_many_at_a_time(self) -> None:
        """It has as many objects under way as it may."""
        self.depose(WINDOW, TICK * 8, TICK * 8)

    def test_much_nearer(self) -> None:
        """It is much nearer to the store than the opener."""
        self.depose(WINDOW, TICK * 8, TICK * 8 * 20)

    def depose(self, abreast: int, near: float, far: float) -> None:
        """Take over from a writer that flushes ``abreast`` blocks."""
        epoch = self.head()[0].epoch.number + 1
        taking = take_over(self.store, "", self.writer("here"), os.urandom, self.clock, forced=True)
        keeper, replay = self.done(taking)
        busy = Volume(Far(self.store, self.clock, near), keeper, replay, self.clock, self.tuning)
        acknowledged = [0] * abreast
        ends: list[Any] = []

        async def write(block: int) -> None:
            await deferLater(self.clock, near * block / abreast)
            while True:
                version = acknowledged[block] + 1
                busy.write(block * BLOCK, memoryview(version.to_bytes(8, "little") * (BLOCK // 8)))
                await busy.flush()
                acknowledged[block] = version

        for block in range(abreast):
            as_deferred(write(block)).addErrback(lambda failure: ends.append(failure.value))
        self.pass_time(10 * near)
        self.assertGreater(min(acknowledged), 3)

        distant = Far(self.store, self.clock, far)
        opening = as_deferred(take_over(distant, "", self.writer("elsewhere"), os.urandom, self.clock, forced=True))
        while not opening.called:
            self.assertLess(len([key for name, key in distant.requests if name == "put"]), SEALS)
            self.clock.advance(TICK)
        keeper, replay = self.successResultOf(opening)
        winner = Volume(self.store, keeper, replay, self.clock, self.tuning)
        self.pass_time(2.0)
        self.assertEqual(len(ends), abreast)
        for error in ends:
            self.assertIsInstance(error, FencedError)
            self.assertIn("on elsewhere", str(error))
        for block, version in enumerate(acknowledged):
            buffer = bytearray(BLOCK)
            self.done(winner.read(block * BLOCK, [memoryview(buffer)]))
            self.assertGreaterEqual(int.from_bytes(buffer[:8], "little"), version)
        self.assertLessEqual(len(self.seals(epoch)), 2)
        busy.abandon()
        closing = as_deferred(winner.close())
        self.pass_time(10 * far)
        self.successResultOf(closing)
        report = self.checked()
        self.assertEqual(report.problems, [])
        self.assertLess(len(report.orphans), WINDOW)  # which the writer had under way

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([TICK] * round(seconds / TICK))


class SealAheadTests(TakeoverCase):
    """Seals of openers that died."""

    def test_ordinary_opening(self) -> None:
        """Without a writer that goes on there is one seal."""
        self.open().abandon()
        self.store.requests.clear()
        epoch = self.head()[0].epoch.number
        self.open().abandon()
        self.assertEqual(len([key for name, key in self.store.requests if name == "put"]), 2)  # and the head
        self.assertEqual(len(self.seals(epoch)), 1)

    def test_ends_nothing(self) -> None:
        """What the writer puts before such a seal counts; at the seal the writer is stopped."""
        volume = self.open()
        head, _ = self.head()
        first = head.epoch.first
        self.put_seal(first + 1)
        self.done(self.write(volume, 1))
        self.assertEqual(self.checked().problems, [])
        lost = self.write(volume, 2)
        winner = self.open("elsewhere")
        self.clock.pump([0.5] * 20)
        self.assertIn("on elsewhere", str(self.failureResultOf(lost, FencedError).value))
        self.assertEqual(self.head()[0].epoch.first, first + 2)
        buffer = bytearray(BLOCK)
        self.done(winner.read(BLOCK, [memoryview(buffer)]))
        self.assertEqual(buffer, bytes([1]) * BLOCK)
        self.assertEqual(self.seals(head.epoch.number), [first + 1])
        volume.abandon()
        self.done(winner.close())

    def test_behind_a_gap(self) -> None:
        """Nothing behind the first gap counts: the epoch is sealed there, and the number goes on from there."""
        volume = self.open()
        self.done(self.write(volume, 1))
        volume.abandon()
        head, _ = self.head()
        ahead = range(head.epoch.first + 2, head.epoch.first + 3 + WINDOW)
        for seq in ahead:
            self.put_seal(seq)
        self.assertEqual((self.checked().problems, self.checked().orphans), ([], []))  # they are no lost objects
        winner = self.open("elsewhere")
        self.assertEqual(self.head()[0].epoch.first, head.epoch.first + 2)
        self.assertEqual(self.seals(head.epoch.number), [head.epoch.first + 1, *ahead])
        self.done(self.write(winner, 2))
        self.done(winner.close())
        self.assertEqual((self.checked().problems, self.checked().orphans), ([], []))
        last = self.open()
        for block in (1, 2):
            buffer = bytearray(BLOCK)
            self.done(last.read(block * BLOCK, [memoryview(buffer)]))
            self.assertEqual(buffer, bytes([block]) * BLOCK)
        self.done(last.close())

    def test_list_that_is_late(self) -> None:
        """What a list does not name yet is met, and replayed."""
        volume = self.open()
        for block in range(1, 6):
            self.done(self.write(volume, block))
        volume.abandon()
        with mock.patch.object(self.store, "list", return_value=succeed([])):
            winner = self.open()
        for block in range(1, 6):
            buffer = bytearray(BLOCK)
            self.done(winner.read(block * BLOCK, [memoryview(buffer)]))
            self.assertEqual(buffer, bytes([block]) * BLOCK)
        self.done(winner.close())
