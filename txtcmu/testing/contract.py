"""What every backstore must do, as tests that its author inherits.

A whole test module of a plugin can be::

    from twisted.trial.unittest import TestCase
    from txtcmu.interfaces import IDiscard
    from txtcmu.testing.contract import BackstoreContract

    class MyDiskTests(BackstoreContract, TestCase):
        companions = frozenset({IDiscard})

        async def make_backstore(self, size):
            self.path = self.mktemp()
            return await MyDisk.create(self.path, size)

        async def reopen(self, backstore):
            await as_deferred(backstore.close())
            return await MyDisk.open(self.path)

``companions`` names the interfaces that the backstore provides beside ``IBackstore``, and so decides which tests there
are: those of a companion that is not named do not exist, and one that is provided but not named is an error, as is the
reverse.  Tests of durability exist for a class that overrides ``reopen``.  Nothing is ever skipped.  Where a backstore
provides a companion only on some storage, each kind of storage is a class of its own.

Run it with pytest or trial.  The tests speak to the backstore as the daemon does: results may be values, Deferreds
or coroutines; buffers are windows that change owner as soon as a result has fired; overlapping writes never meet.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from zope.interface.verify import verifyObject

from txtcmu.interfaces import (
    IBackstore,
    IDiscard,
    IForceUnitAccess,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.testing.backstorecase import BackstoreCase, needs

__all__ = ["BackstoreContract"]

_COMPANIONS = frozenset({IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes})


class BackstoreContract(BackstoreCase):
    """Tests of :class:`~txtcmu.interfaces.IBackstore` and its companions; mix it into a trial ``TestCase``.

    :class:`~txtcmu.testing.backstorecase.BackstoreCase` has what an author overrides: ``make_backstore`` always,
    ``companions`` unless there are none, ``reopen`` where something survives a close, ``crash`` where a test can cut
    the power.
    """

    # What it declares.

    async def test_interfaces(self) -> None:
        """What is in ``companions`` is what it provides, with methods that take what the daemon passes."""
        backstore = await self.open_backstore()
        provided = {companion for companion in _COMPANIONS | self.companions if companion.providedBy(backstore)}
        found, declared = (sorted(each.__name__ for each in some) for some in (provided, self.companions))
        self.assertEqual(found, declared, "companions must name exactly what the backstore provides")
        for interface in (IBackstore, *provided):
            verifyObject(interface, backstore)

    async def test_attributes(self) -> None:
        """Size is what was asked for; the physical block is a power of two."""
        backstore = await self.open_backstore()
        self.assertEqual(backstore.size, self.size)
        self.assertFalse(backstore.read_only)
        self._power_of_two(backstore.physical_block_size)

    @needs(IDiscard)
    async def test_discard_attributes(self) -> None:
        """The discard granularity is a power of two; whether discarded blocks read as zeroes is a yes or a no."""
        backstore = await self.open_backstore()
        self._power_of_two(backstore.discard_granularity)
        self.assertIn(backstore.discard_zeroes, (True, False))

    def _power_of_two(self, unit: Any) -> None:
        self.assertTrue(type(unit) is int and unit > 0 and not unit & (unit - 1), f"{unit!r} is no power of two")

    # A flat array of bytes.

    async def test_new_disk_is_zeroes(self) -> None:
        """A disk that was never written reads as zeroes."""
        backstore = await self.open_backstore()
        await self.expect(backstore, 0, bytes(self.size), "new disk")

    async def test_read_after_write(self) -> None:
        """A read that starts after a write's result has fired sees the data, and its neighbours unchanged."""
        backstore = await self.open_backstore()
        data = self.pattern(3 * 4096)
        await self.write(backstore, 8192, data)
        await self.expect(backstore, 8192, data, "read after write")
        await self.expect(backstore, 0, bytes(8192) + data + bytes(4096), "neighbours of a write")

    async def test_overwrite(self) -> None:
        """The later of two writes to the same place wins."""
        backstore = await self.open_backstore()
        for turn in range(3):
            data = self.pattern(8192, turn)
            await self.write(backstore, 4096, data)
            await self.expect(backstore, 4096, data, "overwrite")

    async def test_first_and_last_block(self) -> None:
        """The first and the last block of the disk can be written and read, and are different places."""
        backstore = await self.open_backstore()
        first, last = self.pattern(self.block_size, 1), self.pattern(self.block_size, 2)
        await self.write(backstore, 0, first)
        await self.write(backstore, self.size - self.block_size, last)
        await self.expect(backstore, 0, first, "first block")
        await self.expect(backstore, self.size - self.block_size, last, "last block")
        self.assertEqual(backstore.size, self.size)

    async def test_whole_disk(self) -> None:
        """One write and one read can be as long as the disk."""
        backstore = await self.open_backstore()
        data = self.pattern(self.size)
        await self.write(backstore, 0, data)
        await self.expect(backstore, 0, data, "whole disk")

    async def test_smaller_than_a_physical_block(self) -> None:
        """A write of single logical blocks changes just these, however large the physical block is."""
        backstore = await self.open_backstore()
        expected = bytearray(self.pattern(4 * max(4096, min(backstore.physical_block_size, self.size // 4))))
        await self.write(backstore, 0, bytes(expected))
        for number in (1, 3, len(expected) // self.block_size - 1):
            data = self.pattern(self.block_size, number)
            at = number * self.block_size
            await self.write(backstore, at, data)
            expected[at : at + len(data)] = data
            await self.expect(backstore, 0, bytes(expected), "write below the physical block")

    async def test_random_operations(self) -> None:
        """Whatever the order of writes, reads, flushes, discards and zeroing: it behaves like an array of bytes."""
        backstore = await self.open_backstore()
        random, model = Random(self.seed), bytearray(self.size)
        operations = ["write", "write", "read", "flush"]
        for interface, names in (
            (IVectoredBackstore, ["writev", "readv"]),
            (IForceUnitAccess, ["write_fua"]),
            (IWriteZeroes, ["write_zeroes"]),
            (IDiscard, ["discard"]),
        ):
            operations += names if interface in self.companions else []
        blocks = self.size // self.block_size
        for _ in range(self.rounds):
            operation = random.choice(operations)
            first = random.randrange(blocks)
            count = min(random.choice((1, 2, 7, 8, 64, 300)), blocks - first)
            offset, length = first * self.block_size, count * self.block_size
            span, data = slice(offset, offset + length), random.randbytes(length)
            if operation == "flush":
                await self.call(backstore.flush)
            elif operation == "write":
                await self.write(backstore, offset, data)
                model[span] = data
            elif operation in ("writev", "write_fua"):
                await self.call(getattr(backstore, operation), offset, self.cut(length, random, data))
                model[span] = data
            elif operation == "write_zeroes":
                await self.call(backstore.write_zeroes, offset, length)
                model[span] = bytes(length)
            elif operation == "discard":
                await self.call(backstore.discard, offset, length)
                # Without the promise of zeroes, what is there now is what must stay there.
                model[span] = bytes(length) if backstore.discard_zeroes else await self.read(backstore, offset, length)
            elif operation == "readv":
                found = await self.readv(backstore, offset, self.cut(length, random))
                self.assertEqual(found, bytes(model[span]), f"readv of {length} at {offset} (seed {self.seed})")
            else:
                await self.expect(backstore, offset, bytes(model[span]), operation)
        await self.expect(backstore, 0, bytes(model), "at the end")

    # Durability.

    @needs(reopen=True)
    async def test_reopen(self) -> None:
        """What was written and flushed is there after closing and opening anew."""
        backstore = await self.open_backstore()
        data = self.pattern(20000 // self.block_size * self.block_size)
        await self.write(backstore, 4 * self.block_size, data)
        await self.call(backstore.flush)
        backstore = await self.again(self.reopen, backstore)
        self.assertEqual(backstore.size, self.size)
        await self.expect(backstore, 4 * self.block_size, data, "after reopen")

    @needs(reopen=True)
    async def test_flush_survives_a_crash(self) -> None:
        """Every write whose result had fired before a flush was called is there after a crash."""
        backstore = await self.open_backstore()
        pieces = [(n * 65536, self.pattern(4096, n)) for n in range(8)]
        await DeferredList([Deferred.fromCoroutine(self.write(backstore, *piece)) for piece in pieces])
        await self.call(backstore.flush)
        backstore = await self.again(self.crash, backstore)
        for offset, data in pieces:
            await self.expect(backstore, offset, data, "flushed, then a crash")

    @needs(IForceUnitAccess, reopen=True)
    async def test_fua_survives_a_crash(self) -> None:
        """A FUA write is there after a crash that follows its result at once."""
        backstore = await self.open_backstore()
        data = self.pattern(12 * self.block_size)
        await self.call(backstore.write_fua, 4096, self.cut(len(data), Random(self.seed), data))
        await self.expect(backstore, 4096, data, "FUA write")
        backstore = await self.again(self.crash, backstore)
        await self.expect(backstore, 4096, data, "FUA write, then a crash")

    # Companions.

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

    # Many at a time.

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

    # Cancellation.

    async def _cancelled(self, result: Deferred[Any]) -> None:
        """Cancel, and wait until the backstore has let go, with whatever result."""
        result.cancel()
        await DeferredList([result], consumeErrors=True)

    @needs(IVectoredBackstore)
    async def test_cancelled_read_lets_go(self) -> None:
        """When a cancelled read's Deferred has fired, the windows are touched no more."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(self.size))
        for length in (4096, self.size // 2):
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
        for length in (4096, self.size // 2):
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
            await DeferredList(flushes[:first], fireOnOneErrback=True)
            await self.call(backstore.flush)
        await self.expect(backstore, 0, data, "after a cancelled flush")

    async def test_close(self) -> None:
        """Closing succeeds after work of every kind, with nothing outstanding."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(4096))
        await self.read(backstore, 0, 4096)
        self._backstore = None
        self.assertIsNone(await self.call(backstore.close))
