"""A volume behind a LUN in trouble: a store that is away for ten minutes, and one that has damaged a bit."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.backstores.s3support import Bench
from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.errors import MediumError, StoreUnavailable
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.results import as_deferred
from txtcmu.scsi import constants as c
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import Rig
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

BLOCK = 4096
SECTORS = BLOCK // 512
SIZE = 2 << 20
PENDING = 4


class AwayStore(MemoryObjectStore):
    """A store that can be away: each request then fails when a client's patience is over, and never happens."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.reactor = reactor
        self.away = False

    def put(self, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        return self._unavailable() if self.away else super().put(*args, **options)

    def get(self, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        return self._unavailable() if self.away else super().get(*args, **options)

    def _unavailable(self) -> Deferred[Any]:
        def fail() -> None:
            raise StoreUnavailable("away")

        return deferLater(self.reactor, 30.0, fail)


def writer() -> Writer:
    """Return a writer of this host."""
    return Writer(os.urandom(16), "here", "here", 1, "today")


class OutageTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a LUN on a volume with batches of 16 blocks."""
        self.reactor = FakeReactor()
        self.store = AwayStore(self.reactor)
        making = create_volume(self.store, "", SIZE, writer(), os.urandom, Geometry(16, 64))
        self.successResultOf(as_deferred(making))
        self.volume = self.open()
        self.rig = Rig(VolumeDisk(self.volume, lambda: None), reactor=self.reactor, cmd_time_out=30)
        self.statuses: list[int] = []
        self.sent = 0

    def open(self) -> Volume:
        """Take the volume over."""
        taking = take_over(self.store, "", writer(), os.urandom, self.reactor, forced=False)
        keeper, replay = self.successResultOf(as_deferred(taking))
        return Volume(self.store, keeper, replay, self.reactor, Tuning(pending=PENDING, cache_blocks=16))

    def content(self, block: int) -> bytes:
        """Return what is written to a block: always the same, so that a repetition is no change."""
        return bytes([block % 251 + 1]) * BLOCK

    async def persist(self, send: Any) -> FakeCommand:
        """Send a command until it is not BUSY any more, as an initiator does."""
        while True:
            command: FakeCommand = await send().when_done()
            await deferLater(self.reactor, 0.1)
            self.statuses.append(command.status)
            if command.status not in (c.BUSY, c.TASK_SET_FULL):
                return command

    async def write_all(self, first: int) -> None:
        """Write every eighth block, one after the other."""
        for block in range(first, SIZE // BLOCK, 8):
            await self.persist(lambda block=block: self.rig.initiator.write(block * SECTORS, self.content(block)))
            self.sent += 1

    def sleep(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            self.reactor.advance(1)
            self.rig.settle()
            self.assertLessEqual(self.volume._log.pending, PENDING + 1)  # one more was open already

    def test_ten_minutes(self) -> None:
        """A store that is away for ten minutes under writes costs no data, no error, and no more memory than agreed.

        Commands are held, and then answered BUSY; a flush is not acknowledged before the store is back.
        """
        self.store.away = True
        loads = [as_deferred(self.write_all(first)) for first in range(8)]
        self.sleep(20)
        flush = as_deferred(self.persist(self.rig.initiator.sync))
        self.sleep(280)
        written = self.sent
        self.assertGreaterEqual(written, 16 * PENDING)
        self.assertIn(c.BUSY, self.statuses)
        self.assertEqual(set(self.statuses), {c.GOOD, c.BUSY})
        self.sleep(300)
        self.assertEqual(self.sent, written)
        self.assertNoResult(flush)
        self.store.away = False
        self.sleep(120)
        self.assertEqual(self.successResultOf(flush).status, c.GOOD)
        for load in loads:
            self.successResultOf(load)
        self.assertEqual(set(self.statuses), {c.GOOD, c.BUSY})
        last = self.rig.initiator.sync()
        self.sleep(5)
        self.assertEqual(last.status, c.GOOD)
        # The process is killed: what was flushed is there.
        self.volume.abandon()
        self.rig.kernel.verify()
        buffer = bytearray(SIZE)
        volume = self.open()
        self.successResultOf(as_deferred(volume.read(0, [memoryview(buffer)])))
        self.assertEqual(bytes(buffer), b"".join(map(self.content, range(SIZE // BLOCK))))
        volume.abandon()


class DamageTests(SynchronousTestCase):
    def test_one_bit(self) -> None:
        """A bit that flips in the bucket costs the one block that it is in, which the error names, and no neighbour."""
        bench = Bench()
        store = bench.fake.connect()
        bench.run(create_volume(store, "", SIZE, writer(), os.urandom, Geometry()))

        def open_volume() -> Volume:
            keeper, replay = bench.run(take_over(store, "", writer(), os.urandom, bench.clock, forced=False))
            return Volume(store, keeper, replay, bench.clock, Tuning())

        volume = open_volume()
        for block in range(200):
            volume.write(block * BLOCK, memoryview(bytes([block + 1]) * BLOCK))
        bench.run(volume.close())
        objects = bench.fake.objects.objects
        [key] = [key for key in objects if "/d/" in key and objects[key].size > 200 * BLOCK]
        data = bytearray(objects[key].data)
        data[data.index(bytes([78]) * BLOCK) + 1000] ^= 4
        objects[key] = evolve(objects[key], data=bytes(data))
        volume = open_volume()

        def read(block: int, count: int = 1) -> bytes:
            buffer = bytearray(count * BLOCK)
            bench.run(volume.read(block * BLOCK, [memoryview(buffer)]))
            return bytes(buffer)

        with self.assertRaisesRegex(MediumError, "is damaged") as caught:
            read(70, 20)
        self.assertEqual(caught.exception.offset, 77 * BLOCK)
        for block in range(200):
            if block != 77:
                self.assertEqual(read(block), bytes([block + 1]) * BLOCK)
        with self.assertRaises(MediumError):
            read(77)
        volume.abandon()
