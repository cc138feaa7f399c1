"""The contract of backstores, second part: many operations at a time, cancellation, unknown outcomes.

:class:`ConcurrencyContract` is part of :class:`~txtcmu.testing.contract.BackstoreContract`, which authors inherit.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from txtcmu.interfaces import IDiscard, IForceUnitAccess, IVectoredBackstore, IWriteZeroes
from txtcmu.results import all_of
from txtcmu.testing.backstorecase import BackstoreCase, needs
from txtcmu.testing.sectors import Sectors

__all__ = ["ConcurrencyContract"]

_WORKERS = 24
_MINE = b"\x99"  # what is in a window that the backstore has let go
_CHUNK = 2048  # sectors of one read when all is looked at


class ConcurrencyContract(BackstoreCase):
    """Tests with more than one operation in flight."""

    async def test_outstanding_together(self) -> None:
        """Operations on different places can be outstanding together, in any number, and do not mix."""
        backstore = await self.open_backstore()
        unit = 8 * self.block_size
        places = list(range(0, min(self.size, 96 * unit), unit))
        Random(self.seed).shuffle(places)
        writes = [Deferred.fromCoroutine(self.write(backstore, at, self.pattern(unit, at))) for at in places]
        writes.append(self.call(backstore.flush))
        for succeeded, result in await DeferredList(writes, consumeErrors=True):
            self.assertTrue(succeeded, result)
        reads = await DeferredList([self.call(backstore.read, at, unit) for at in places])
        for at, (succeeded, found) in zip(places, reads, strict=True):
            self.assertTrue(succeeded, found)
            self.assertEqual(bytes(found), self.pattern(unit, at), f"write at {at}")

    async def _cancelled(self, result: Deferred[Any]) -> None:
        """Cancel, and wait until the backstore has let go, with whatever result."""
        result.cancel()
        await DeferredList([result], consumeErrors=True)

    @needs(IVectoredBackstore)
    async def test_cancelled_read_lets_go(self) -> None:
        """When a cancelled read's Deferred has fired, the windows are touched no more."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(self.size))
        for length in (4096, self.part(2)):
            memory = bytearray(length)
            await self._cancelled(self.call(backstore.readv, 0, [memoryview(memory)]))
            memory[:] = b"\x99" * length
            await self.settle(backstore)
            self.assertEqual(memory.count(0x99), length, "a cancelled read wrote into the window after it had let go")

    async def test_cancelled_write_lets_go(self) -> None:
        """When a cancelled write's Deferred has fired, the window is read no more and the write lands no more."""
        backstore = await self.open_backstore()
        await self._cancel_writes(backstore, lambda whole: self.call(backstore.write, 0, whole))

    @needs(IVectoredBackstore)
    async def test_cancelled_writev_lets_go(self) -> None:
        """The same holds for a write of several windows."""
        backstore = await self.open_backstore()
        await self._cancel_writes(backstore, lambda whole: self.call(backstore.writev, 0, [whole[:512], whole[512:]]))

    async def _cancel_writes(self, backstore: Any, write: Callable[[memoryview], Deferred[Any]]) -> None:
        for length in (4096, self.part(2)):
            await self.write(backstore, 0, b"\x22" * length)
            memory = bytearray(b"\x11" * length)
            await self._cancelled(write(memoryview(memory)))
            memory[:] = b"\x99" * length
            found = await self.read(backstore, 0, length)
            self.assertLessEqual(set(found), {0x11, 0x22}, "a cancelled write took bytes from the window too late")
            newer = self.pattern(length, length)
            await self.write(backstore, 0, newer)
            await self.settle(backstore)
            await self.expect(backstore, 0, newer, "a cancelled write landed on top of a newer one")

    async def test_cancelled_flush_does_no_harm(self) -> None:
        """After a cancelled flush, writes and flushes work as before."""
        backstore = await self.open_backstore()
        data = self.pattern(4096)
        await self.write(backstore, 0, data)
        for first in (1, 0):
            flushes = [self.call(backstore.flush) for _ in range(3)]
            await DeferredList([Deferred.fromCoroutine(self._cancelled(flush)) for flush in flushes[first:]])
            await all_of(flushes[:first])
            await self.call(backstore.flush)
        await self.expect(backstore, 0, data, "after a cancelled flush")

    # Everything at once.

    async def test_overlapping_operations(self) -> None:
        """Reads that overlap writes in flight see, sector by sector, what was there before or what is being written."""
        backstore = await self.open_backstore()
        traffic = _Traffic(self, backstore, cancels=False)
        await traffic.run()
        await traffic.look_at_all()

    async def test_random_cancellation(self) -> None:
        """Whichever of many operations are cancelled: each sector holds old or new bytes, and keeps what it holds."""
        backstore = await self.open_backstore()
        traffic = _Traffic(self, backstore, cancels=True)
        await traffic.run()
        for _ in range(2):
            await traffic.look_at_all()
            await self.settle(backstore)
        await traffic.look_at_all()


class _Traffic:
    """Random operations on a backstore, as many at a time as the daemon may have.

    :param cancels: whether some of them are cancelled, at once or a few turns of the reactor later.
    """

    def __init__(self, case: ConcurrencyContract, backstore: Any, cancels: bool) -> None:
        self._case = case
        self._backstore = backstore
        self._cancels = cancels
        self._random = Random(f"{case.seed}/{cancels}")
        self._sectors = Sectors(case.size // case.block_size, case.block_size)
        self._writing: set[int] = set()
        self._given_back: list[memoryview] = []
        self._left = 2 * case.rounds
        companions = case.companions
        self._operations = ["read"] * 4 + ["write"] * 3 + ["flush"]
        self._operations += ["readv", "writev"] * 2 if IVectoredBackstore in companions else []
        self._operations += ["write_fua"] if IForceUnitAccess in companions else []
        self._operations += ["write_zeroes"] if IWriteZeroes in companions else []
        self._operations += ["discard"] if IDiscard in companions and backstore.discard_zeroes else []

    async def run(self) -> None:
        """Do them all."""
        workers = [Deferred.fromCoroutine(self._work()) for _ in range(_WORKERS)]
        await all_of(workers)

    async def look_at_all(self) -> None:
        """Read every sector: what it holds now, it keeps.  No window of a read that has ended was touched since."""
        touched = sum(bytes(window) != _MINE * len(window) for window in self._given_back)
        self._case.assertEqual(touched, 0, "a read wrote into its window after it had let go")
        for first in range(0, self._sectors.count, _CHUNK):
            count = min(_CHUNK, self._sectors.count - first)
            look = self._sectors.begin_read(first, count)
            offset, length = self._place(first, count)
            data = await self._case.read(self._backstore, offset, length)
            self._judge(self._sectors.end_read(look, data, settles=True))

    def _place(self, first: int, count: int) -> tuple[int, int]:
        return first * self._case.block_size, count * self._case.block_size

    def _judge(self, problem: str | None) -> None:
        if problem is not None:
            self._case.fail(f"{problem} (seed {self._case.seed})")

    async def _work(self) -> None:
        while self._left > 0:
            self._left -= 1
            operation = self._random.choice(self._operations)
            # A small part of the disk is used much, so that they meet.
            area = self._sectors.count if self._random.random() < 0.3 else min(512, self._sectors.count)
            first = self._random.randrange(area)
            count = min(self._random.choice((1, 2, 7, 8, 64, 300)), self._sectors.count - first)
            if operation == "flush":
                await self._ends(self._case.call(self._backstore.flush))
            elif operation.startswith("read"):
                await self._read(operation, first, count)
            elif self._writing.isdisjoint(range(first, first + count)):  # as the daemon: such writes never meet
                await self._write(operation, first, count)

    async def _read(self, operation: str, first: int, count: int) -> None:
        offset, length = self._place(first, count)
        look = self._sectors.begin_read(first, count)
        window = memoryview(bytearray(length))
        if operation == "read":
            done, found = await self._ends(self._case.call(self._backstore.read, offset, length))
            data = bytes(memoryview(found).cast("B")).ljust(length, b"\0") if done else None
        else:
            windows = [window[: length // 3], window[length // 3 :]]
            done, filled = await self._ends(self._case.call(self._backstore.readv, offset, windows))
            data = bytes(window[:filled]).ljust(length, b"\0") if done else None
            window[:] = _MINE * length
            self._given_back.append(window)
        self._judge(self._sectors.end_read(look, data))

    async def _write(self, operation: str, first: int, count: int) -> None:
        zeroes = operation in ("write_zeroes", "discard")
        offset, length = self._place(first, count)
        busy = range(first, first + count)
        self._writing.update(busy)
        change = self._sectors.begin_write(first, count, zeroes=zeroes)
        window = memoryview(bytearray(change.data))
        arguments = [length] if zeroes else [window] if operation == "write" else [[window[:1000], window[1000:]]]
        done, _ = await self._ends(self._case.call(getattr(self._backstore, operation), offset, *arguments))
        window[:] = _MINE * len(window)
        self._sectors.end_write(change, done)
        self._writing.difference_update(busy)

    async def _ends(self, result: Deferred[Any]) -> tuple[bool, Any]:
        """Return whether it succeeded, and its result; what fails without having been cancelled fails the test."""
        from twisted.internet import reactor

        cancelled = self._cancels and self._random.random() < 0.4
        if cancelled:
            for _ in range(self._random.choice((0, 0, 1, 3))):
                await deferLater(reactor, 0)
            result.cancel()
        ((succeeded, value),) = await DeferredList([result], consumeErrors=True)
        if not succeeded and not cancelled:
            value.raiseException()
        return succeeded, value
