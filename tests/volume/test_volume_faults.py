"""What an open volume does when the store calls an object damaged, and when somebody else takes the volume over."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock
from uuid import UUID

from twisted.internet.defer import Deferred, fail

from tests.volume.support import BLOCK, VolumeCase
from txtcmu.errors import FencedError, MediumError
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.results import as_deferred
from txtcmu.volume.logobject import encode_header, seal
from txtcmu.volume.names import log_place
from txtcmu.volume.takeover import take_over


class FaultTests(VolumeCase):
    def damaged(self, middle: str) -> Any:
        """Let objects with ``middle`` in their key be damaged, as the store tells."""
        original = self.store.get

        def get(key: str, *args: Any, **options: Any) -> Any:
            return fail(ObjectDamaged(f"{key} is damaged")) if middle in key else original(key, *args, **options)

        return mock.patch.object(self.store, "get", get)

    def test_damaged_block(self) -> None:
        """What the store cannot read is a medium error at that block, at once."""
        volume = self.open()
        for block in (5, 6):
            self.done(self.write(volume, block))
        self.done(volume.close())
        volume = self.open()
        with self.damaged("/d/"):
            error = self.failureResultOf(self.read(volume, 5), MediumError).value
        self.assertEqual(error.offset, 5 * BLOCK)
        self.done(self.read(volume, 5))
        self.done(volume.close())

    def test_damaged_leaf(self) -> None:
        """So is a leaf of the map that it cannot read."""
        volume = self.open()
        self.done(self.write(volume, 70))
        self.done(volume.close())
        volume = self.open()
        with self.damaged("/c/"):
            error = self.failureResultOf(self.read(volume, 75), MediumError).value
        self.assertEqual(error.offset, 64 * BLOCK)
        self.done(self.read(volume, 75))
        self.done(volume.close())

    def object_of(self, block: int) -> str:
        """Return the key of the object that holds a block which :meth:`write` has written alone."""
        [key] = [key for key, found in self.store.objects.items() if bytes([block]) * BLOCK in found.data]
        return key

    def test_lost_object(self) -> None:
        """An object that is not there, though nobody else had the volume, is a medium error at the block."""
        volume = self.open()
        for block in (5, 6):
            self.done(self.write(volume, block))
        key = self.object_of(5)
        del self.store.objects[key]
        before = self.store.requests.count(("get", "head"))
        error = self.failureResultOf(self.read(volume, 5), MediumError).value
        self.assertEqual((str(error), error.offset), (f"object {key} is missing", 5 * BLOCK))
        self.assertEqual(self.store.requests.count(("get", "head")), before + 1)
        self.done(self.write(volume, 6))
        volume.abandon()

    def test_object_deleted_by_the_winner(self) -> None:
        """If another has taken the volume over, and deleted what he needs no more, that is what the error says."""
        loser = self.open()
        for block in (5, 6):
            self.done(self.write(loser, block))
        winner = self.open("elsewhere")
        key = self.object_of(5)
        self.assertIsNone(winner.discard(5 * BLOCK, BLOCK))
        self.done(winner.close())
        self.assertNotIn(key, self.store.objects)
        self.assertIn("on elsewhere", str(self.failureResultOf(self.read(loser, 5), FencedError).value))
        loser.abandon()

    def test_block_that_moved(self) -> None:
        """A block that is written elsewhere while it is read, whose object is deleted by that, is read from there."""
        self.moved(lambda key: None)

    def test_block_that_moved_from_under_a_seal(self) -> None:
        """So it is when an opener that knew of no object there has put its seal in the place."""

        def sealed(key: str) -> None:
            place = log_place(key)
            assert place is not None
            uuid = UUID(key.split("/")[0])
            self.done(self.store.put(key, encode_header(seal(uuid, *place, bytes(16))), absent=True))

        self.moved(sealed)

    def moved(self, instead: Callable[[str], None]) -> None:
        """Have a block written elsewhere while it is read, and something done with the place of the dead object."""
        volume = self.open()
        for block in (5, 6):
            self.done(self.write(volume, block))
        gate, get = Deferred[None](), self.store.get

        def late(key: str, *args: Any, **options: Any) -> Any:
            return gate.addCallback(lambda _: get(key, *args, **options))

        buffer = bytearray(BLOCK)
        with mock.patch.object(self.store, "get", late):
            reading = as_deferred(volume.read(5 * BLOCK, [memoryview(buffer)]))
        key = self.object_of(5)
        volume.write(5 * BLOCK, memoryview(b"new!" * 1024))
        self.done(volume.checkpoint())
        self.assertNotIn(key, self.store.objects)
        instead(key)
        gate.callback(None)
        self.done(reading)
        self.assertEqual(bytes(buffer), b"new!" * 1024)
        self.done(volume.close())

    def test_winner(self) -> None:
        """Whoever has taken the volume over is named at once."""
        loser = self.open()
        winner = self.open("elsewhere")
        error = self.failureResultOf(self.write(loser, 1), FencedError).value
        self.assertEqual(str(error), "process 1 on elsewhere, since today has taken the volume over")
        self.done(self.write(winner, 1))
        self.assertIs(self.failureResultOf(loser.flush(), FencedError).value, error)
        loser.abandon()
        self.done(winner.close())

    def test_winner_that_is_slow(self) -> None:
        """One that has put its seal there, and has yet to replace the head, is waited for; nothing is acknowledged."""
        loser = self.open()
        writing, original = Deferred[None](), self.store.put

        async def late(key: str, *args: Any, **options: Any) -> Any:
            if key == "head":
                await writing
            return await original(key, *args, **options)

        with mock.patch.object(self.store, "put", lambda *a, **o: as_deferred(late(*a, **o))):
            taking = as_deferred(
                take_over(self.store, "", self.writer("elsewhere"), os.urandom, self.clock, forced=True)
            )
        flushed = self.write(loser, 1)
        self.clock.pump([0.5] * 4)
        self.assertNoResult(flushed)
        writing.callback(None)
        self.done(taking)
        self.clock.advance(0.5)
        self.assertIn("on elsewhere", str(self.failureResultOf(flushed, FencedError).value))
        loser.abandon()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_winner_that_died(self) -> None:
        """One that dies before it replaces the head has deposed the writer all the same."""
        loser = self.open()
        with mock.patch.object(self.store, "put", self.dying_at_the_head(self.store.put)):
            taking = take_over(self.store, "", self.writer("elsewhere"), os.urandom, self.clock, forced=True)
            self.failureResultOf(as_deferred(taking), KeyboardInterrupt)
        flushed = self.write(loser, 1)
        self.clock.pump([0.5] * 20)
        self.assertIn("another is taking the volume over", str(self.failureResultOf(flushed, FencedError).value))
        loser.abandon()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def dying_at_the_head(self, put: Any) -> Any:
        """Return a ``put`` that ends the process that replaces the head."""

        def dying(key: str, *args: Any, **options: Any) -> Any:
            if key == "head":
                raise KeyboardInterrupt
            return put(key, *args, **options)

        return dying
