"""The contract of backstores, third part: the companion interfaces.

:class:`CompanionContract` is part of :class:`~txtcmu.testing.contract.BackstoreContract`, which authors inherit.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from txtcmu.errors import MiscompareError
from txtcmu.interfaces import (
    IBlockStatus,
    ICompareAndWrite,
    IDiscard,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.results import all_of
from txtcmu.testing.backstorecase import BackstoreCase, needs

__all__ = ["CompanionContract"]


class CompanionContract(BackstoreCase):
    """Tests of what a backstore provides beside :class:`~txtcmu.interfaces.IBackstore`."""

    @needs(IVectoredBackstore)
    async def test_odd_windows(self) -> None:
        """Windows whose borders fall anywhere hold the same bytes as one buffer; nothing around them changes."""
        backstore = await self.open_backstore()
        random, length = Random(self.seed), 100 * self.block_size
        data = self.pattern(length)
        windows = self.cut(length, random, data)
        await self.call(backstore.writev, 4096, list(windows))
        self._neighbours_kept(windows)
        self.assertEqual(b"".join(windows), data, "writev changed the caller's data")
        await self.expect(backstore, 4096, data, "writev")
        windows = self.cut(length, random)
        self.assertEqual(await self.readv(backstore, 4096, windows), data)
        self._neighbours_kept(windows)

    @needs(IVectoredBackstore)
    async def test_very_many_windows(self) -> None:
        """A command may have more windows than one system call takes."""
        backstore = await self.open_backstore()
        data = self.pattern(2100 * self.block_size)
        memory = memoryview(bytearray(data))
        windows = [memory[at : at + self.block_size] for at in range(0, len(data), self.block_size)]
        await self.call(backstore.writev, 0, list(windows))
        memory[:] = bytes(len(data))
        self.assertEqual(await self.readv(backstore, 0, windows), data)

    @needs(IDiscard)
    async def test_discard(self) -> None:
        """Discarding touches nothing outside of its range; with discard_zeroes all of the range reads as zeroes."""
        backstore = await self.open_backstore()
        await self._punch(backstore, backstore.discard, backstore.discard_zeroes)

    @needs(IWriteZeroes)
    async def test_write_zeroes(self) -> None:
        """Zeroing makes exactly its range read as zeroes, aligned or not."""
        backstore = await self.open_backstore()
        await self._punch(backstore, backstore.write_zeroes, True)

    async def _punch(self, backstore: Any, operation: Callable[..., object], zeroes: bool) -> None:
        expected = bytearray(self.pattern(self.size))
        await self.write(backstore, 0, bytes(expected))
        block = self.block_size
        for offset, length in (
            (0, block),
            (3 * block, 9 * block),
            (65536, 1 << 20),
            (self.size - 5 * block, 5 * block),
        ):
            await self.call(operation, offset, length)
            span = slice(offset, offset + length)
            expected[span] = bytes(length) if zeroes else await self.read(backstore, offset, length)
            await self.expect(backstore, 0, bytes(expected), f"{length} bytes at {offset} gone")
        data = self.pattern(16 * block, 1)
        await self.write(backstore, 65536 + block, data)
        await self.expect(backstore, 65536 + block, data, "written after it was gone")

    @needs(IDiscard)
    async def test_discard_attributes(self) -> None:
        """The discard granularity is a power of two; whether discarded blocks read as zeroes is a yes or a no."""
        backstore = await self.open_backstore()
        self.power_of_two(backstore.discard_granularity)
        self.assertIn(backstore.discard_zeroes, (True, False))

    # ICompareAndWrite

    @needs(ICompareAndWrite)
    async def test_compare_and_write(self) -> None:
        """What is there is replaced if it is what was expected, and nothing else changes."""
        backstore = await self.open_backstore()
        expected = bytearray(self.pattern(64 * self.block_size))
        await self.write(backstore, 0, bytes(expected))
        for first, count in ((0, 1), (5, 1), (8, 16), (63, 1)):
            span = slice(first * self.block_size, (first + count) * self.block_size)
            data = self.pattern(count * self.block_size, first + 1)
            await self._compare_and_write(backstore, span.start, bytes(expected[span]), data)
            expected[span] = data
            await self.expect(backstore, 0, bytes(expected), "compare and write")

    @needs(ICompareAndWrite)
    async def test_miscompare(self) -> None:
        """The first byte that differs is named, counted from the first compared, and nothing is changed."""
        backstore = await self.open_backstore()
        before = self.pattern(16 * self.block_size)
        await self.write(backstore, 0, before)
        length = 4 * self.block_size
        for at in (0, 1, self.block_size, length - 1):
            wrong = bytearray(before[self.block_size : self.block_size + length])
            wrong[at] ^= 0x01
            wrong[-1] ^= 0x80  # only the first one counts
            try:
                await self._compare_and_write(backstore, self.block_size, bytes(wrong), bytes(length))
            except MiscompareError as error:
                self.assertEqual(error.offset, at, "MiscompareError names the wrong byte")
            else:
                self.fail("compare_and_write has taken what differs")
            await self.expect(backstore, 0, before, "after a miscompare")

    @needs(ICompareAndWrite)
    async def test_compare_and_write_is_one_step(self) -> None:
        """Of many that expect the same at the same time exactly one succeeds, and what it wrote is there."""
        backstore = await self.open_backstore()
        before = bytes(8 * self.block_size)
        for turn in range(4):
            written = [self.pattern(len(before), 100 * turn + number) for number in range(12)]
            attempts = [Deferred.fromCoroutine(self._compare_and_write(backstore, 0, before, data)) for data in written]
            outcomes: list[tuple[bool, Any]] = await DeferredList(attempts, consumeErrors=True)
            for succeeded, result in outcomes:
                if not succeeded:
                    result.trap(MiscompareError)
            winners = [data for data, (succeeded, _) in zip(written, outcomes, strict=True) if succeeded]
            self.assertEqual(len(winners), 1, "each of several found what only one can have found")
            (before,) = winners
            await self.expect(backstore, 0, before, "what the winner wrote")

    async def _compare_and_write(self, backstore: Any, offset: int, expected: bytes, data: bytes) -> None:
        """Call it with windows that are somebody else's as soon as the result fires."""
        windows = bytearray(expected), bytearray(data)
        try:
            await self.call(backstore.compare_and_write, offset, *(memoryview(window) for window in windows))
        finally:
            for window in windows:
                window[:] = b"\x99" * len(window)

    # IBlockStatus

    @needs(IBlockStatus)
    async def test_extents(self) -> None:
        """Extents follow one another without gaps, and what is not mapped reads as zeroes."""
        backstore = await self.open_backstore()
        await self._extents_agree(backstore)
        for first, count in ((0, 1), (9, 3), (self.size // self.block_size - 1, 1), (200, 900)):
            await self.write(backstore, first * self.block_size, self.pattern(count * self.block_size, first))
        await self._extents_agree(backstore)
        if IDiscard in self.companions:
            await self.call(backstore.discard, 0, self.part(2))
            await self._extents_agree(backstore)

    async def _extents_agree(self, backstore: Any) -> None:
        for offset, stop in ((0, self.size), (5 * self.block_size, 400 * self.block_size)):
            while offset < stop:
                extents = await self.call(backstore.extents, offset, stop - offset)
                self.assertTrue(extents, f"extents at {offset} tell nothing")
                for length, mapped in extents:
                    self.assertTrue(0 < length <= stop - offset, f"an extent of {length} bytes at {offset} of {stop}")
                    if not mapped:
                        await self.expect(backstore, offset, bytes(length), "said not to be mapped")
                    offset += length

    # IResizable

    @needs(IResizable)
    async def test_resize(self) -> None:
        """What a disk grows by reads as zeroes, also where it was cut off before; the rest stays."""
        backstore = await self.open_backstore()
        unit = max(self.block_size, backstore.physical_block_size)
        data = self.pattern(self.size)
        await self.write(backstore, 0, data)
        for size in (self.size + 3 * unit, self.part(2), self.size, unit, self.size):
            await self.call(backstore.resize, size)
            self.assertEqual(backstore.size, size)
            data = data[:size].ljust(size, b"\0")
            await self.expect(backstore, 0, data, f"resized to {size}")
        await self.write(backstore, self.size - unit, data[:unit])
        await self.expect(backstore, self.size - unit, data[:unit], "the end of a resized disk")

    @needs(IResizable)
    async def test_resize_under_load(self) -> None:
        """Operations in front of the smaller size may be outstanding while the size changes."""
        backstore = await self.open_backstore()
        pieces = [(at, self.pattern(4096, at)) for at in range(0, self.part(2) - 4095, self.part(32))]
        for size in (self.part(2), self.size):
            work = [Deferred.fromCoroutine(self.write(backstore, *piece)) for piece in pieces]
            await self.call(backstore.resize, size)
            await all_of(work)
            for offset, data in pieces:
                await self.expect(backstore, offset, data, "written while the size changed")

    @needs(IResizable, reopen=True)
    async def test_resize_is_kept(self) -> None:
        """The size is there after closing and opening anew, and what was cut off is not."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(self.size))
        kept = self.part(2)
        await self.call(backstore.resize, kept)
        await self.call(backstore.flush)
        backstore = await self.again(self.reopen, backstore)
        self.assertEqual(backstore.size, kept)
        await self.call(backstore.resize, self.size)
        await self.expect(backstore, kept, bytes(self.size - kept), "cut off before the reopen")
