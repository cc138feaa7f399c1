"""What every backstore must do, as tests that its author inherits.

A whole test module of a plugin can be::

    from twisted.trial.unittest import TestCase
    from txtcmu.testing.contract import BackstoreContract

    class MyDiskTests(BackstoreContract, TestCase):
        async def make_backstore(self, size):
            self.path = self.mktemp()
            return await MyDisk.create(self.path, size)

        async def reopen(self, backstore):
            await as_deferred(backstore.close())
            return await MyDisk.open(self.path)

Run it with pytest or trial.  The tests speak to the backstore as the daemon does: results may be values, Deferreds
or coroutines; buffers are windows that change owner as soon as a result has fired; overlapping writes never meet.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from txtcmu.interfaces import (
    IBackstore,
    IDiscard,
    IForceUnitAccess,
    IVectoredBackstore,
    IWriteZeroes,
)

__all__ = ["BackstoreContract"]

_COMPANIONS = (IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes)

if TYPE_CHECKING:
    from unittest import TestCase as _Base  # trial's has no annotations
else:
    _Base = object


class BackstoreContract(_Base):
    """Tests of :class:`~txtcmu.interfaces.IBackstore` and its companions; mix it into a trial ``TestCase``.

    :cvar size: bytes of the disk that the tests ask for.
    :cvar block_size: smallest unit that the tests read and write.
    :cvar seed: of the random operations; a failure names it.
    :cvar rounds: how many random operations there are.
    """

    size = 4 << 20
    block_size = 512
    seed = 1
    rounds = 150

    async def make_backstore(self, size: int) -> Any:
        """Return a new, open backstore of ``size`` bytes; every author overrides this."""
        raise NotImplementedError("make_backstore")

    async def reopen(self, backstore: Any) -> Any:
        """Close ``backstore`` and open the same storage anew; override it unless nothing survives a close."""
        raise SkipTest("this backstore has no reopen: nothing of it survives a close")

    async def crash(self, backstore: Any) -> Any:
        """Lose what is not durable, as a power cut does, and open the storage anew.

        Override it where a test can do that.  By default it is :meth:`reopen`, which proves less.
        """
        return await self.reopen(backstore)

    async def settle(self, backstore: Any) -> None:
        """Give work that was not really over the time to do its damage: reactor turns and other reads."""
        from twisted.internet import reactor

        for _ in range(3):
            await DeferredList([self._call(backstore.read, 0, self.size // 4) for _ in range(12)])
            await self._call(backstore.flush)
            for _ in range(8):
                await deferLater(reactor, 0)

    # How the tests work.

    def _call(self, method: Callable[..., object], *args: object) -> Deferred[Any]:
        """Return a Deferred of what ``method`` returns, whichever of the three forms it takes."""
        return maybeDeferred(method, *args)

    async def _open(self) -> Any:
        backstore = await self.make_backstore(self.size)
        self._backstore = backstore
        self.addCleanup(self._close_last)
        return backstore

    async def _again(self, how: Callable[[Any], Any], backstore: Any) -> Any:
        self._backstore = None
        self._backstore = await how(backstore)
        return self._backstore

    def _close_last(self) -> Deferred[Any] | None:
        backstore, self._backstore = self._backstore, None
        return self._call(backstore.close) if backstore is not None else None

    def _companion(self, backstore: Any, interface: Any) -> None:
        if not interface.providedBy(backstore):
            raise SkipTest(f"this backstore does not provide {interface.__name__}")

    def _pattern(self, length: int, seed: int = 0) -> bytes:
        return Random(f"{self.seed}/{seed}").randbytes(length)

    async def _write(self, backstore: Any, offset: int, data: bytes) -> None:
        """Write from a window that is somebody else's as soon as the result fires."""
        window = bytearray(data)
        await self._call(backstore.write, offset, memoryview(window))
        window[:] = bytes(byte ^ 0xFF for byte in data[:1]) * len(window)

    async def _read(self, backstore: Any, offset: int, length: int) -> bytes:
        """Read; what is missing from a short answer is zeroes."""
        data = bytes(memoryview(await self._call(backstore.read, offset, length)).cast("B"))
        self.assertLessEqual(len(data), length, "read returned more than it was asked for")
        return data.ljust(length, b"\0")

    async def _readv(self, backstore: Any, offset: int, windows: list[memoryview]) -> bytes:
        """Read into ``windows``; what is behind the filled bytes is zeroes."""
        filled = await self._call(backstore.readv, offset, list(windows))
        whole = b"".join(windows)
        self.assertTrue(type(filled) is int and 0 <= filled <= len(whole), f"readv returned {filled!r}")
        return whole[:filled].ljust(len(whole), b"\0")

    async def _expect(self, backstore: Any, offset: int, data: bytes, why: str) -> None:
        found = await self._read(backstore, offset, len(data))
        if found != data:
            at = next(i for i, (one, other) in enumerate(zip(found, data, strict=True)) if one != other)
            self.fail(f"{why}: byte {offset + at} is {found[at]:#04x}, not {data[at]:#04x} (seed {self.seed})")

    def _cut(self, length: int, random: Random, fill: bytes | None = None) -> list[memoryview]:
        """Return windows of odd lengths, ``length`` bytes together, with foreign bytes between them."""
        data, at, windows = fill if fill is not None else b"\xa5" * length, 0, []
        while at < length:
            step = min(length - at, random.choice((1, 3, 511, 512, 513, 4095, 4096, 10000)))
            memory = bytearray(b"\x5a" + data[at : at + step] + b"\x5a")
            windows.append(memoryview(memory)[1:-1])
            at += step
        return windows

    def _neighbours_kept(self, windows: list[memoryview]) -> None:
        for window in windows:
            memory = window.obj
            assert isinstance(memory, bytearray)
            self.assertEqual((memory[0], memory[-1]), (0x5A, 0x5A), "a byte outside of the window was changed")

    # What it declares.

    async def test_interfaces(self) -> None:
        """Each declared interface is really there, with methods that take what the daemon passes."""
        backstore = await self._open()
        verifyObject(IBackstore, backstore)
        for companion in _COMPANIONS:
            if companion.providedBy(backstore):
                verifyObject(companion, backstore)

    async def test_attributes(self) -> None:
        """Size is what was asked for; the physical block and the discard granularity are powers of two."""
        backstore = await self._open()
        self.assertEqual(backstore.size, self.size)
        self.assertFalse(backstore.read_only)
        units = [backstore.physical_block_size]
        if IDiscard.providedBy(backstore):
            units.append(backstore.discard_granularity)
            self.assertIn(backstore.discard_zeroes, (True, False))
        for unit in units:
            self.assertTrue(type(unit) is int and unit > 0 and not unit & (unit - 1), f"{unit!r} is no power of two")

    # A flat array of bytes.

    async def test_new_disk_is_zeroes(self) -> None:
        """A disk that was never written reads as zeroes."""
        backstore = await self._open()
        await self._expect(backstore, 0, bytes(self.size), "new disk")

    async def test_read_after_write(self) -> None:
        """A read that starts after a write's result has fired sees the data, and its neighbours unchanged."""
        backstore = await self._open()
        data = self._pattern(3 * 4096)
        await self._write(backstore, 8192, data)
        await self._expect(backstore, 8192, data, "read after write")
        await self._expect(backstore, 0, bytes(8192) + data + bytes(4096), "neighbours of a write")

    async def test_overwrite(self) -> None:
        """The later of two writes to the same place wins."""
        backstore = await self._open()
        for turn in range(3):
            data = self._pattern(8192, turn)
            await self._write(backstore, 4096, data)
            await self._expect(backstore, 4096, data, "overwrite")

    async def test_first_and_last_block(self) -> None:
        """The first and the last block of the disk can be written and read, and are different places."""
        backstore = await self._open()
        first, last = self._pattern(self.block_size, 1), self._pattern(self.block_size, 2)
        await self._write(backstore, 0, first)
        await self._write(backstore, self.size - self.block_size, last)
        await self._expect(backstore, 0, first, "first block")
        await self._expect(backstore, self.size - self.block_size, last, "last block")
        self.assertEqual(backstore.size, self.size)

    async def test_whole_disk(self) -> None:
        """One write and one read can be as long as the disk."""
        backstore = await self._open()
        data = self._pattern(self.size)
        await self._write(backstore, 0, data)
        await self._expect(backstore, 0, data, "whole disk")

    async def test_smaller_than_a_physical_block(self) -> None:
        """A write of single logical blocks changes just these, however large the physical block is."""
        backstore = await self._open()
        expected = bytearray(self._pattern(4 * max(4096, min(backstore.physical_block_size, self.size // 4))))
        await self._write(backstore, 0, bytes(expected))
        for number in (1, 3, len(expected) // self.block_size - 1):
            data = self._pattern(self.block_size, number)
            at = number * self.block_size
            await self._write(backstore, at, data)
            expected[at : at + len(data)] = data
            await self._expect(backstore, 0, bytes(expected), "write below the physical block")

    async def test_random_operations(self) -> None:
        """Whatever the order of writes, reads, flushes, discards and zeroing: it behaves like an array of bytes."""
        backstore = await self._open()
        random, model = Random(self.seed), bytearray(self.size)
        operations = ["write", "write", "read", "flush"]
        for interface, names in (
            (IVectoredBackstore, ["writev", "readv"]),
            (IForceUnitAccess, ["write_fua"]),
            (IWriteZeroes, ["write_zeroes"]),
            (IDiscard, ["discard"]),
        ):
            operations += names if interface.providedBy(backstore) else []
        blocks = self.size // self.block_size
        for _ in range(self.rounds):
            operation = random.choice(operations)
            first = random.randrange(blocks)
            count = min(random.choice((1, 2, 7, 8, 64, 300)), blocks - first)
            offset, length = first * self.block_size, count * self.block_size
            span, data = slice(offset, offset + length), random.randbytes(length)
            if operation == "flush":
                await self._call(backstore.flush)
            elif operation == "write":
                await self._write(backstore, offset, data)
                model[span] = data
            elif operation in ("writev", "write_fua"):
                await self._call(getattr(backstore, operation), offset, self._cut(length, random, data))
                model[span] = data
            elif operation == "write_zeroes":
                await self._call(backstore.write_zeroes, offset, length)
                model[span] = bytes(length)
            elif operation == "discard":
                await self._call(backstore.discard, offset, length)
                # Without the promise of zeroes, what is there now is what must stay there.
                model[span] = bytes(length) if backstore.discard_zeroes else await self._read(backstore, offset, length)
            elif operation == "readv":
                found = await self._readv(backstore, offset, self._cut(length, random))
                self.assertEqual(found, bytes(model[span]), f"readv of {length} at {offset} (seed {self.seed})")
            else:
                await self._expect(backstore, offset, bytes(model[span]), operation)
        await self._expect(backstore, 0, bytes(model), "at the end")

    # Durability.

    async def test_reopen(self) -> None:
        """What was written and flushed is there after closing and opening anew."""
        backstore = await self._open()
        data = self._pattern(20000 // self.block_size * self.block_size)
        await self._write(backstore, 4 * self.block_size, data)
        await self._call(backstore.flush)
        backstore = await self._again(self.reopen, backstore)
        self.assertEqual(backstore.size, self.size)
        await self._expect(backstore, 4 * self.block_size, data, "after reopen")

    async def test_flush_survives_a_crash(self) -> None:
        """Every write whose result had fired before a flush was called is there after a crash."""
        backstore = await self._open()
        pieces = [(n * 65536, self._pattern(4096, n)) for n in range(8)]
        await DeferredList([Deferred.fromCoroutine(self._write(backstore, *piece)) for piece in pieces])
        await self._call(backstore.flush)
        backstore = await self._again(self.crash, backstore)
        for offset, data in pieces:
            await self._expect(backstore, offset, data, "flushed, then a crash")

    async def test_fua_survives_a_crash(self) -> None:
        """A FUA write is there after a crash that follows its result at once."""
        backstore = await self._open()
        self._companion(backstore, IForceUnitAccess)
        data = self._pattern(12 * self.block_size)
        await self._call(backstore.write_fua, 4096, self._cut(len(data), Random(self.seed), data))
        await self._expect(backstore, 4096, data, "FUA write")
        backstore = await self._again(self.crash, backstore)
        await self._expect(backstore, 4096, data, "FUA write, then a crash")

    # Companions.

    async def test_odd_windows(self) -> None:
        """Windows whose borders fall anywhere hold the same bytes as one buffer; nothing around them changes."""
        backstore = await self._open()
        self._companion(backstore, IVectoredBackstore)
        random, length = Random(self.seed), 100 * self.block_size
        data = self._pattern(length)
        windows = self._cut(length, random, data)
        await self._call(backstore.writev, 4096, list(windows))
        self._neighbours_kept(windows)
        self.assertEqual(b"".join(windows), data, "writev changed the caller's data")
        await self._expect(backstore, 4096, data, "writev")
        windows = self._cut(length, random)
        self.assertEqual(await self._readv(backstore, 4096, windows), data)
        self._neighbours_kept(windows)

    async def test_very_many_windows(self) -> None:
        """A command may have more windows than one system call takes."""
        backstore = await self._open()
        self._companion(backstore, IVectoredBackstore)
        data = self._pattern(2100 * self.block_size)
        memory = memoryview(bytearray(data))
        windows = [memory[at : at + self.block_size] for at in range(0, len(data), self.block_size)]
        await self._call(backstore.writev, 0, list(windows))
        memory[:] = bytes(len(data))
        self.assertEqual(await self._readv(backstore, 0, windows), data)

    async def test_discard(self) -> None:
        """Discarding touches nothing outside of its range; with discard_zeroes all of the range reads as zeroes."""
        backstore = await self._open()
        self._companion(backstore, IDiscard)
        await self._punch(backstore, backstore.discard, backstore.discard_zeroes)

    async def test_write_zeroes(self) -> None:
        """Zeroing makes exactly its range read as zeroes, aligned or not."""
        backstore = await self._open()
        self._companion(backstore, IWriteZeroes)
        await self._punch(backstore, backstore.write_zeroes, True)

    async def _punch(self, backstore: Any, operation: Callable[..., object], zeroes: bool) -> None:
        expected = bytearray(self._pattern(self.size))
        await self._write(backstore, 0, bytes(expected))
        block = self.block_size
        for offset, length in (
            (0, block),
            (3 * block, 9 * block),
            (65536, 1 << 20),
            (self.size - 5 * block, 5 * block),
        ):
            await self._call(operation, offset, length)
            span = slice(offset, offset + length)
            expected[span] = bytes(length) if zeroes else await self._read(backstore, offset, length)
            await self._expect(backstore, 0, bytes(expected), f"{length} bytes at {offset} gone")
        data = self._pattern(16 * block, 1)
        await self._write(backstore, 65536 + block, data)
        await self._expect(backstore, 65536 + block, data, "written after it was gone")

    # Many at a time.

    async def test_outstanding_together(self) -> None:
        """Operations on different places can be outstanding together, in any number, and do not mix."""
        backstore = await self._open()
        unit = 8 * self.block_size
        places = list(range(0, min(self.size, 96 * unit), unit))
        Random(self.seed).shuffle(places)
        writes = [Deferred.fromCoroutine(self._write(backstore, at, self._pattern(unit, at))) for at in places]
        writes.append(self._call(backstore.flush))
        for succeeded, result in await DeferredList(writes, consumeErrors=True):
            self.assertTrue(succeeded, result)
        reads = await DeferredList([self._call(backstore.read, at, unit) for at in places])
        for at, (succeeded, found) in zip(places, reads, strict=True):
            self.assertTrue(succeeded, found)
            self.assertEqual(bytes(found), self._pattern(unit, at), f"write at {at}")

    # Cancellation.

    async def _cancelled(self, result: Deferred[Any]) -> None:
        """Cancel, and wait until the backstore has let go, with whatever result."""
        result.cancel()
        await DeferredList([result], consumeErrors=True)

    async def test_cancelled_read_lets_go(self) -> None:
        """When a cancelled read's Deferred has fired, the windows are touched no more."""
        backstore = await self._open()
        self._companion(backstore, IVectoredBackstore)
        await self._write(backstore, 0, self._pattern(self.size))
        for length in (4096, self.size // 2):
            memory = bytearray(length)
            await self._cancelled(self._call(backstore.readv, 0, [memoryview(memory)]))
            memory[:] = b"\x99" * length
            await self.settle(backstore)
            self.assertEqual(memory.count(0x99), length, "a cancelled read wrote into the window after it had let go")

    async def test_cancelled_write_lets_go(self) -> None:
        """When a cancelled write's Deferred has fired, the window is read no more and the write lands no more."""
        backstore = await self._open()
        for vectored in (False, True):
            if vectored and not IVectoredBackstore.providedBy(backstore):
                continue
            for length in (4096, self.size // 2):
                memory = bytearray(b"\x11" * length)
                view = memoryview(memory)
                if vectored:
                    result = self._call(backstore.writev, 0, [view[:512], view[512:]])
                else:
                    result = self._call(backstore.write, 0, view)
                await self._cancelled(result)
                memory[:] = b"\x99" * length
                found = await self._read(backstore, 0, length)
                self.assertEqual(found.count(0x99), 0, "a cancelled write took bytes from the window too late")
                newer = self._pattern(length, length)
                await self._write(backstore, 0, newer)
                await self.settle(backstore)
                await self._expect(backstore, 0, newer, "a cancelled write landed on top of a newer one")

    async def test_cancelled_flush_does_no_harm(self) -> None:
        """After a cancelled flush, writes and flushes work as before."""
        backstore = await self._open()
        data = self._pattern(4096)
        await self._write(backstore, 0, data)
        flushes = [self._call(backstore.flush) for _ in range(3)]
        await DeferredList([Deferred.fromCoroutine(self._cancelled(flush)) for flush in flushes[1:]])
        await flushes[0]
        await self._call(backstore.flush)
        await self._expect(backstore, 0, data, "after a cancelled flush")

    async def test_close(self) -> None:
        """Closing succeeds after work of every kind, with nothing outstanding."""
        backstore = await self._open()
        await self._write(backstore, 0, self._pattern(4096))
        await self._read(backstore, 0, 4096)
        self._backstore = None
        self.assertIsNone(await self._call(backstore.close))
