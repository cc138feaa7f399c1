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
reverse.  Tests of durability exist for a class that overrides ``reopen``, those of a loss of acknowledged writes for
one that overrides ``lose`` as well.  Nothing is ever skipped.  Where a backstore
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
    IBlockStatus,
    ICompareAndWrite,
    IDiscard,
    IForceUnitAccess,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.testing.backstorecase import needs
from txtcmu.testing.companioncontract import CompanionContract
from txtcmu.testing.concurrencycontract import ConcurrencyContract

__all__ = ["COMPANIONS", "BackstoreContract"]

#: Every companion interface that there are tests for.
COMPANIONS = frozenset(
    {IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes, ICompareAndWrite, IBlockStatus, IResizable}
)


class BackstoreContract(CompanionContract, ConcurrencyContract):
    """Tests of :class:`~txtcmu.interfaces.IBackstore` and its companions; mix it into a trial ``TestCase``.

    :class:`~txtcmu.testing.backstorecase.BackstoreCase` has what an author overrides: ``make_backstore`` always,
    ``companions`` unless there are none, ``reopen`` where something survives a close, ``crash`` where a test can cut
    the power, ``lose`` where one can take acknowledged writes away from under an open backstore.
    """

    # What it declares.

    async def test_interfaces(self) -> None:
        """What is in ``companions`` is what it provides, with methods that take what the daemon passes."""
        backstore = await self.open_backstore()
        provided = {companion for companion in COMPANIONS | self.companions if companion.providedBy(backstore)}
        found, declared = (sorted(each.__name__ for each in some) for some in (provided, self.companions))
        self.assertEqual(found, declared, "companions must name exactly what the backstore provides")
        for interface in (IBackstore, *provided):
            verifyObject(interface, backstore)

    async def test_attributes(self) -> None:
        """Size is what was asked for; the physical block is a power of two."""
        backstore = await self.open_backstore()
        self.assertEqual(backstore.size, self.size)
        self.assertFalse(backstore.read_only)
        self.power_of_two(backstore.physical_block_size)

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

    @needs(reopen=True, lose=True)
    async def test_flush_after_loss(self) -> None:
        """After acknowledged writes may be gone no flush succeeds until reopen, unless it has brought them back."""
        backstore = await self._lose(lambda: None)
        for turn in range(3):
            if await self._succeeds(backstore.flush):
                await self._nothing_was_lost(backstore)
                return
            # Whether this works or not: it does not make the loss forgotten.
            await self._succeeds(backstore.write, (4 + turn) << 16, memoryview(self.pattern(4096)))
        await self._works_again(backstore)

    @needs(reopen=True, lose=True)
    async def test_flush_during_loss(self) -> None:
        """A flush that is under way when acknowledged writes may get lost succeeds only if they are durable."""
        flushes: list[Deferred[Any]] = []
        backstore = await self._lose(lambda: flushes.append(self.call(self._backstore.flush)))
        ((flushed, _),) = await DeferredList(flushes, consumeErrors=True)
        if flushed or await self._succeeds(backstore.flush):
            await self._nothing_was_lost(backstore)
        else:
            await self._works_again(backstore)

    async def _lose(self, begin: Callable[[], object]) -> Any:
        """Return a backstore with one write that is durable, and one that was acknowledged and may be gone."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(4096, 1))
        await self.call(backstore.flush)
        await self.write(backstore, 65536, self.pattern(65536, 2))
        begin()
        await self.lose(backstore)
        return backstore

    async def _succeeds(self, method: Callable[..., object], *args: object) -> bool:
        ((succeeded, _),) = await DeferredList([self.call(method, *args)], consumeErrors=True)
        return bool(succeeded)

    async def _nothing_was_lost(self, backstore: Any) -> None:
        backstore = await self.again(self.crash, backstore)
        await self.expect(backstore, 0, self.pattern(4096, 1), "flushed, then a loss")
        await self.expect(backstore, 65536, self.pattern(65536, 2), "lost, but a flush has succeeded since")

    async def _works_again(self, backstore: Any) -> None:
        """Reopen after a loss that was admitted: old and new are there, and flushes mean what they say."""
        backstore = await self.again(self.reopen, backstore)
        await self.expect(backstore, 0, self.pattern(4096, 1), "flushed, then a loss and a reopen")
        found, data = await self.read(backstore, 65536, 65536), self.pattern(65536, 2)
        for at in range(0, 65536, self.block_size):
            block = slice(at, at + self.block_size)
            self.assertIn(found[block], (bytes(self.block_size), data[block]), f"a lost block at {at} became garbage")
        await self.write(backstore, 65536, data)
        await self.call(backstore.flush)
        await self._nothing_was_lost(backstore)

    async def test_close(self) -> None:
        """Closing succeeds after work of every kind, with nothing outstanding."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, self.pattern(4096))
        await self.read(backstore, 0, 4096)
        self._backstore = None
        self.assertIsNone(await self.call(backstore.close))
