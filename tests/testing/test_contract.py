"""The contract itself: sound backstores of every style pass, and each kind of lie is caught."""

from __future__ import annotations

import unittest
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial import runner
from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from txtcmu.errors import BackstoreError, MiscompareError
from txtcmu.interfaces import (
    IBackstore,
    IBlockStatus,
    ICommandHandler,
    ICompareAndWrite,
    IDiscard,
    IForceUnitAccess,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.testing.contract import BackstoreContract

ALL = frozenset(
    {IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes, ICompareAndWrite, IBlockStatus, IResizable}
)


def later(function: Any = lambda: None) -> Deferred[Any]:
    """Call ``function`` in a later turn of the reactor."""
    from twisted.internet import reactor

    return deferLater(reactor, 0, function)


@implementer(IBackstore, *ALL)
class Sound:
    """A disk of two layers: what is cached dies in a crash, what is durable does not."""

    lost = False

    read_only = False
    physical_block_size = 512
    discard_granularity = 512
    discard_zeroes = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.cache = bytearray(size)
        self.durable = bytearray(size)

    def read(self, offset: int, length: int) -> object:
        return bytes(self.cache[offset : offset + length])

    def write(self, offset: int, data: memoryview) -> object:
        self.cache[offset : offset + len(data)] = data
        return None

    def readv(self, offset: int, buffers: list[memoryview]) -> object:
        start = offset
        for buffer in buffers:
            buffer[:] = self.cache[offset : offset + len(buffer)]
            offset += len(buffer)
        return offset - start

    def writev(self, offset: int, buffers: list[memoryview]) -> object:
        for buffer in buffers:
            self.cache[offset : offset + len(buffer)] = buffer
            offset += len(buffer)
        return None

    def write_fua(self, offset: int, buffers: list[memoryview]) -> object:
        data = b"".join(buffers)
        self.cache[offset : offset + len(data)] = self.durable[offset : offset + len(data)] = data
        return None

    def flush(self) -> object:
        if self.lost:
            raise BackstoreError("acknowledged writes are lost: open it anew")
        self.durable[:] = self.cache
        return None

    def lose(self) -> None:
        """Be what the cache was written to, and has lost it."""
        self.cache[:] = self.durable
        self.lost = True

    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        found = self.cache[offset : offset + len(expected)]
        if found != expected:
            raise MiscompareError(next(at for at, byte in enumerate(found) if byte != expected[at]))
        self.cache[offset : offset + len(data)] = data
        return None

    def extents(self, offset: int, length: int) -> object:
        """Tell of single blocks, as long as there is patience."""
        starts = range(offset, offset + min(length, 1 << 20), 512)
        return [(512, any(self.cache[start : start + 512])) for start in starts]

    def resize(self, size: int) -> object:
        for layer in (self.cache, self.durable):
            del layer[size:]
            layer.extend(bytes(size - len(layer)))
        self.size = size
        return None

    def discard(self, offset: int, length: int) -> object:
        self.cache[offset : offset + length] = bytes(length)
        return None

    def write_zeroes(self, offset: int, length: int) -> object:
        self.cache[offset : offset + length] = bytes(length)
        return None

    def close(self) -> object:
        return None


class Contract(BackstoreContract):
    """The contract on any of the classes of this module."""

    backstore_class: type[Sound]
    size = 2 << 20
    rounds = 80

    async def make_backstore(self, size: int) -> Sound:
        return self.backstore_class(size)

    async def reopen(self, backstore: Sound) -> Sound:
        return self._from(backstore, backstore.cache)

    async def crash(self, backstore: Sound) -> Sound:
        return self._from(backstore, backstore.durable)

    async def lose(self, backstore: Sound) -> None:
        backstore.lose()

    def _from(self, backstore: Sound, content: bytearray) -> Sound:
        again = self.backstore_class(len(content))
        again.cache[:] = again.durable[:] = content
        return again


class SoundTests(Contract, TestCase):
    """What each broken class is a variant of passes."""

    companions = ALL
    backstore_class = Sound


class Coroutines(Sound):
    """Every result is a coroutine."""

    async def read(self, offset: int, length: int) -> object:
        await succeed(None)
        return Sound.read(self, offset, length)

    async def write(self, offset: int, data: memoryview) -> object:
        await succeed(None)
        return Sound.write(self, offset, data)

    async def flush(self) -> object:
        await later()
        return Sound.flush(self)


class CoroutineTests(SoundTests):
    """Coroutines are as good as values."""

    backstore_class = Coroutines


class Slow(Sound):
    """Every result is a Deferred of a later turn; cancelling one recalls its work."""

    def read(self, offset: int, length: int) -> object:
        return later(lambda: Sound.read(self, offset, length))

    def readv(self, offset: int, buffers: list[memoryview]) -> object:
        return later(lambda: Sound.readv(self, offset, buffers))

    def write(self, offset: int, data: memoryview) -> object:
        return later(lambda: Sound.write(self, offset, data))

    def writev(self, offset: int, buffers: list[memoryview]) -> object:
        return later(lambda: Sound.writev(self, offset, buffers))


class SlowTests(SoundTests):
    """Deferreds that let go when they are cancelled are as good as values."""

    backstore_class = Slow


class Replays(Sound):
    def lose(self) -> None:
        """Have, as ever, a copy of all that is not durable yet, which the next flush sends again."""


class ReplayTests(SoundTests):
    """A loss that the next flush mends by itself needs no reopen."""

    backstore_class = Replays


class IgnoresOffset(Sound):
    def write(self, offset: int, data: memoryview) -> object:
        return Sound.write(self, 0, data)


class OffByOne(Sound):
    def read(self, offset: int, length: int) -> object:
        return Sound.read(self, offset + 1, length)


class ForgetsTheLastBlock(Sound):
    def write(self, offset: int, data: memoryview) -> object:
        return Sound.write(self, offset, data[: self.size - 512 - offset])


class RoundsDown(Sound):
    physical_block_size = 4096

    def write(self, offset: int, data: memoryview) -> object:
        """Replace whole physical blocks, without reading them first."""
        start = offset // 4096 * 4096
        whole = bytes(offset - start) + bytes(data)
        return Sound.write(self, start, memoryview(whole + bytes(-len(whole) % 4096)))


class FlushLies(Sound):
    def flush(self) -> object:
        return None


class FlushOfTheFirstPart(Sound):
    def flush(self) -> object:
        self.durable[: 1 << 18] = self.cache[: 1 << 18]
        return None


class FUALies(Sound):
    def write_fua(self, offset: int, buffers: list[memoryview]) -> object:
        return self.writev(offset, buffers)


class KeepsTheWindow(Sound):
    """Says *done*, and copies the window in a later turn."""

    def write(self, offset: int, data: memoryview) -> object:
        later(lambda: Sound.write(self, offset, data))
        return None


class WritesAfterCancellation(Sound):
    """Its Deferred fires when it is cancelled, its write lands some turns later."""

    def write(self, offset: int, data: memoryview) -> object:
        copy = memoryview(bytes(data))

        def land(_: object) -> object:
            return Sound.write(self, offset, copy)

        def finish(_: object) -> None:
            if not result.called:
                result.callback(land(None))

        def canceller(_: object) -> None:
            later(later).addCallback(lambda _: later()).addCallback(land)

        result: Deferred[object] = Deferred(canceller)
        later().addCallback(finish)
        return result


class ReadsAfterCancellation(Sound):
    """Its Deferred fires when it is cancelled, its window is filled later."""

    def readv(self, offset: int, buffers: list[memoryview]) -> object:
        result: Deferred[object] = Deferred()

        def fill(_: object) -> None:
            filled = Sound.readv(self, offset, buffers)
            if not result.called:
                result.callback(filled)

        later().addCallback(fill)
        return result


class SkipsASecondWindow(Sound):
    def writev(self, offset: int, buffers: list[memoryview]) -> object:
        return Sound.writev(self, offset, buffers[:1])


class OverrunsTheWindow(Sound):
    def readv(self, offset: int, buffers: list[memoryview]) -> object:
        filled = Sound.readv(self, offset, buffers)
        cast(bytearray, buffers[0].obj)[0] = 0
        return filled


class DiscardRoundsUp(Sound):
    def discard(self, offset: int, length: int) -> object:
        end = min(self.size, -(-(offset + length) // 4096) * 4096)
        return Sound.discard(self, offset, end - offset)


class DiscardKeepsTheEdges(Sound):
    def discard(self, offset: int, length: int) -> object:
        start = -(-offset // 4096) * 4096
        return Sound.discard(self, start, max(0, (offset + length) // 4096 * 4096 - start))


class ZeroesNothing(Sound):
    def write_zeroes(self, offset: int, length: int) -> object:
        return None


class FillsNoWindow(Sound):
    def readv(self, offset: int, buffers: list[memoryview]) -> object:
        Sound.readv(self, offset, buffers)
        return None


class OneAtATime(Sound):
    """Mixes up operations that are outstanding together."""

    at = 0

    def write(self, offset: int, data: memoryview) -> object:
        self.at = offset
        copy = memoryview(bytes(data))
        return later(lambda: Sound.write(self, self.at, copy))


class OddGranularity(Sound):
    discard_granularity = 3000


class WrongSize(Sound):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size - 512


class Dirty(Sound):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.cache[4096] = 1


class HangsOnAFlush(Sound):
    """A cancelled flush takes the lock with it."""

    locked = False

    def flush(self) -> object:
        if self.locked:
            raise RuntimeError("locked for ever")
        self.locked = True
        result: Deferred[None] = Deferred()

        def unlock(_: object) -> None:
            if not result.called:
                self.locked = False
                Sound.flush(self)
                result.callback(None)

        later().addCallback(unlock)
        return result


class CannotClose(Sound):
    def close(self) -> object:
        raise CancelledError("no")


class LosesUpdates(Sound):
    """Reads a physical block, and in a later turn writes it back whole."""

    physical_block_size = 4096

    def write(self, offset: int, data: memoryview) -> object:
        start, stop = offset // 4096 * 4096, -(-(offset + len(data)) // 4096) * 4096
        whole = self.cache[start:stop]
        whole[offset - start : offset - start + len(data)] = data
        return later(lambda: Sound.write(self, start, memoryview(whole)))


class ZeroesFirst(Sound):
    """While it writes there are neither old nor new bytes."""

    def write(self, offset: int, data: memoryview) -> object:
        self.cache[offset : offset + len(data)] = bytes(len(data))
        return later(lambda: Sound.write(self, offset, data))


class TearsOnCancel(Sound):
    """A cancelled write leaves half a sector."""

    def write(self, offset: int, data: memoryview) -> object:
        def canceller(_: object) -> None:
            self.cache[offset : offset + 100] = data[:100]

        def finish(_: object) -> None:
            if not result.called:
                result.callback(Sound.write(self, offset, data))

        result: Deferred[object] = Deferred(canceller)
        later().addCallback(finish)
        return result


class Flips(Sound):
    """Two copies, of which a cancelled write reaches one; which of them is read depends."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.other = bytearray(size)
        self.turn = 0

    def read(self, offset: int, length: int) -> object:
        self.turn += 1
        return bytes((self.cache, self.other)[self.turn // 5 % 2][offset : offset + length])

    def write(self, offset: int, data: memoryview) -> object:
        def canceller(_: object) -> None:
            Sound.write(self, offset, data)

        def finish(_: object) -> None:
            if not result.called:
                self.other[offset : offset + len(data)] = data
                result.callback(Sound.write(self, offset, data))

        result: Deferred[object] = Deferred(canceller)
        later().addCallback(finish)
        return result


class ForgetsTheLoss(Sound):
    def lose(self) -> None:
        self.cache[:] = self.durable


class FailsOneFlush(Sound):
    """As fdatasync on Linux: an error is reported once."""

    def flush(self) -> object:
        if self.lost:
            self.lost = False
            raise BackstoreError("write-back failed")
        return Sound.flush(self)


class WritesMendIt(Sound):
    """Takes the next write that works for the end of the trouble."""

    def write(self, offset: int, data: memoryview) -> object:
        self.lost = False
        return Sound.write(self, offset, data)


class LosesWhatWasFlushed(Sound):
    def lose(self) -> None:
        self.cache[:] = self.durable[:] = bytes(self.size)
        self.lost = True


class LeavesGarbage(Sound):
    def lose(self) -> None:
        super().lose()
        self.cache[65536:65636] = b"\x77" * 100


class FlushOutlivesALoss(Sound):
    """A flush that was under way succeeds, whatever happened to what it was to flush."""

    def flush(self) -> object:
        if self.lost:
            return Sound.flush(self)
        return later(lambda: self.durable.__setitem__(slice(None), self.cache))


class ComparesLater(Sound):
    """Compares now, writes in a later turn."""

    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        if self.cache[offset : offset + len(expected)] != expected:
            return Sound.compare_and_write(self, offset, expected, data)
        return later(lambda: Sound.write(self, offset, data))


class ComparesTheFirstSector(Sound):
    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        Sound.compare_and_write(self, offset, expected[:512], data[:512])
        return Sound.write(self, offset, data)


class CountsFromTheDisk(Sound):
    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        try:
            return Sound.compare_and_write(self, offset, expected, data)
        except MiscompareError as error:
            raise MiscompareError(offset + error.offset) from None


class WritesAnyway(Sound):
    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        try:
            return Sound.compare_and_write(self, offset, expected, data)
        finally:
            Sound.write(self, offset, data)


class ComparesOnly(Sound):
    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> object:
        Sound.compare_and_write(self, offset, expected, expected)
        return None


class NothingIsMapped(Sound):
    def extents(self, offset: int, length: int) -> object:
        return [(length, False)]


class NoExtents(Sound):
    def extents(self, offset: int, length: int) -> object:
        return []


class TooLongExtents(Sound):
    def extents(self, offset: int, length: int) -> object:
        return [(self.size, True)]


class ExtentsOfTheStart(Sound):
    def extents(self, offset: int, length: int) -> object:
        return Sound.extents(self, 0, length)


class ResizesTheFace(Sound):
    """What is cut off is only hidden."""

    def resize(self, size: int) -> object:
        self.size = size
        return Sound.resize(self, size) if size > len(self.cache) else None


class ResizesACopy(Sound):
    """What is written meanwhile is lost."""

    def write(self, offset: int, data: memoryview) -> object:
        return later(lambda: Sound.write(self, offset, data))

    def resize(self, size: int) -> object:
        copy = self.cache[:]

        def take() -> object:
            self.cache = copy
            return Sound.resize(self, size)

        return later(later).addCallback(lambda _: take())


class ForgetsItsNewSize(Sound):
    def resize(self, size: int) -> object:
        Sound.resize(self, size)
        self.size = 2 << 20
        return None


class PromisesTooMuch(Sound):
    """Declares a companion whose method it lacks."""

    write_zeroes: Any = None


@implementer(IBackstore)
class Bare:
    """A disk with no companion at all."""

    read_only = False
    physical_block_size = 512

    def __init__(self, size: int) -> None:
        self.size = size
        self.cache = self.durable = bytearray(size)

    def read(self, offset: int, length: int) -> object:
        return memoryview(self.cache)[offset : offset + length].toreadonly().cast("B")

    def write(self, offset: int, data: memoryview) -> object:
        self.cache[offset : offset + len(data)] = data
        return None

    def flush(self) -> object:
        return None

    def lose(self) -> None:
        """Have nothing to lose."""

    def close(self) -> object:
        return None


class ShortReads(Bare):
    """Sparse: what was never written is missing from what a read returns."""

    def read(self, offset: int, length: int) -> object:
        return bytes(self.cache[offset : offset + length]).rstrip(b"\0")


class BareTests(Contract, TestCase):
    """A backstore without companions passes, with fewer tests."""

    backstore_class = cast(Any, Bare)


class ShortReadTests(Contract, TestCase):
    """Missing bytes of a short read are zeroes."""

    backstore_class = cast(Any, ShortReads)


CAUGHT = {
    IgnoresOffset: "test_read_after_write",
    OffByOne: "test_read_after_write",
    ForgetsTheLastBlock: "test_first_and_last_block",
    RoundsDown: "test_smaller_than_a_physical_block",
    FlushLies: "test_flush_survives_a_crash",
    FlushOfTheFirstPart: "test_flush_survives_a_crash",
    FUALies: "test_fua_survives_a_crash",
    KeepsTheWindow: "test_read_after_write",
    WritesAfterCancellation: "test_cancelled_write_lets_go",
    ReadsAfterCancellation: "test_cancelled_read_lets_go",
    SkipsASecondWindow: "test_odd_windows",
    OverrunsTheWindow: "test_odd_windows",
    DiscardRoundsUp: "test_discard",
    DiscardKeepsTheEdges: "test_discard",
    ZeroesNothing: "test_write_zeroes",
    FillsNoWindow: "test_odd_windows",
    OneAtATime: "test_outstanding_together",
    OddGranularity: "test_discard_attributes",
    WrongSize: "test_attributes",
    Dirty: "test_new_disk_is_zeroes",
    HangsOnAFlush: "test_cancelled_flush_does_no_harm",
    CannotClose: "test_close",
    PromisesTooMuch: "test_interfaces",
    LosesUpdates: "test_overlapping_operations",
    ZeroesFirst: "test_overlapping_operations",
    TearsOnCancel: "test_random_cancellation",
    Flips: "test_random_cancellation",
    ForgetsTheLoss: "test_flush_after_loss",
    FailsOneFlush: "test_flush_after_loss",
    WritesMendIt: "test_flush_after_loss",
    LosesWhatWasFlushed: "test_flush_after_loss",
    LeavesGarbage: "test_flush_after_loss",
    FlushOutlivesALoss: "test_flush_during_loss",
    ComparesLater: "test_compare_and_write_is_one_step",
    ComparesTheFirstSector: "test_miscompare",
    CountsFromTheDisk: "test_miscompare",
    WritesAnyway: "test_miscompare",
    ComparesOnly: "test_compare_and_write",
    NothingIsMapped: "test_extents",
    NoExtents: "test_extents",
    TooLongExtents: "test_extents",
    ExtentsOfTheStart: "test_extents",
    ResizesTheFace: "test_resize",
    ResizesACopy: "test_resize_under_load",
    ForgetsItsNewSize: "test_resize",
}


def _problems(case: type[BackstoreContract], name: str) -> list[str]:
    """Run one test of ``case``; return how it failed."""
    result = TestResult()
    case(name).run(result)
    assert result.testsRun == 1
    assert not result.skips
    return [str(problem) for _, problem in [*result.failures, *result.errors]]


def _variant(backstore_class: Any, base: type[Contract] = SoundTests, **attributes: Any) -> type[BackstoreContract]:
    return type("Case", (base,), {"backstore_class": backstore_class, **attributes})


def _caught(backstore_class: Any, name: str) -> Any:
    def test(self: SynchronousTestCase) -> None:
        self.assertEqual(len(_problems(_variant(backstore_class), name)), 1, f"{name} did not catch it")

    test.__doc__ = f"{name} catches a backstore of the kind {backstore_class.__name__}."
    return test


class CatchTests(SynchronousTestCase):
    """Each lie is caught by the test that is about it."""

    for _class, _name in CAUGHT.items():
        locals()[f"test_{_class.__name__}"] = _caught(_class, _name)
    del _class, _name

    def test_random_operations_catch(self) -> None:
        """The random operations alone catch every lie about content."""
        for backstore_class in (IgnoresOffset, OffByOne, RoundsDown, SkipsASecondWindow, DiscardRoundsUp):
            self.assertEqual(len(_problems(_variant(backstore_class), "test_random_operations")), 1, backstore_class)

    def test_random_cancellation_catches(self) -> None:
        """Random cancellation alone catches writes that land, and windows that are used, too late."""
        for backstore_class in (WritesAfterCancellation, ReadsAfterCancellation, LosesUpdates):
            self.assertEqual(len(_problems(_variant(backstore_class), "test_random_cancellation")), 1, backstore_class)

    def test_a_size_that_is_not_kept(self) -> None:
        """A disk that is as long as ever after a reopen is caught, although it looked resized before."""
        self.assertEqual(len(_problems(_variant(ResizesTheFace), "test_resize_is_kept")), 1)

    def test_must_be_made(self) -> None:
        """An author who forgot make_backstore is told so."""
        case: Any = type("Case", (BackstoreContract, TestCase), {})
        self.assertIn("make_backstore", _problems(case, "test_close")[0])

    def test_undeclared(self) -> None:
        """A companion that is provided and not declared, and so not tested, is named."""
        (problem,) = _problems(_variant(Sound, BareTests, companions=ALL - {IDiscard}), "test_interfaces")
        self.assertIn("exactly what the backstore provides", problem)
        self.assertIn("IDiscard", problem)

    def test_not_provided(self) -> None:
        """So is one that is declared and not provided."""
        (problem,) = _problems(_variant(Bare, companions=ALL | {ICommandHandler}), "test_interfaces")
        self.assertIn("ICommandHandler", problem)


class ExistenceTests(SynchronousTestCase):
    """Which tests there are, for both kinds of loaders: pytest's is unittest's."""

    def names(self, case: type[BackstoreContract]) -> set[str]:
        """Return the tests that loaders find in a class."""
        found = set(unittest.TestLoader().getTestCaseNames(cast(Any, case)))
        trial = runner.TestLoader().getTestCaseNames(case)
        self.assertEqual(found, {f"test{name}" for name in trial})
        return found

    def case(self, *bases: type, **attributes: Any) -> type[BackstoreContract]:
        """Return a class of tests."""
        case: type[BackstoreContract] = type("Case", bases or (BackstoreContract, TestCase), attributes)
        return case

    def test_each_companion_has_its_own(self) -> None:
        """A companion that is declared adds its tests, and no others; so does reopen."""
        least = self.names(self.case())
        vectored = {"test_odd_windows", "test_very_many_windows"}
        vectored |= {"test_cancelled_read_lets_go", "test_cancelled_writev_lets_go"}
        for companion, expected in (
            (IVectoredBackstore, vectored),
            (IDiscard, {"test_discard", "test_discard_attributes"}),
            (IWriteZeroes, {"test_write_zeroes"}),
            (IForceUnitAccess, set()),
            (
                ICompareAndWrite,
                {"test_compare_and_write", "test_miscompare", "test_compare_and_write_is_one_step"},
            ),
            (IBlockStatus, {"test_extents"}),
            (IResizable, {"test_resize", "test_resize_under_load"}),
        ):
            self.assertEqual(self.names(self.case(companions=frozenset({companion}))) - least, expected)
        durable = {"test_reopen", "test_flush_survives_a_crash"}
        reopen = Contract.reopen
        self.assertEqual(self.names(self.case(reopen=reopen)) - least, durable)
        lossy = self.names(self.case(reopen=reopen, lose=Contract.lose))
        self.assertEqual(lossy - least, durable | {"test_flush_after_loss", "test_flush_during_loss"})
        self.assertEqual(self.names(self.case(lose=Contract.lose)), least)
        resizable = self.names(self.case(reopen=reopen, companions=frozenset({IResizable})))
        self.assertIn("test_resize_is_kept", resizable)
        fua = self.names(self.case(reopen=reopen, companions=frozenset({IForceUnitAccess})))
        self.assertEqual(fua - least, durable | {"test_fua_survives_a_crash"})

    def test_later_classes_declare_more(self) -> None:
        """What a class lacks, classes below it can have."""
        first = self.case()
        second = self.case(first, companions=frozenset({IDiscard}))
        third = self.case(second, companions=ALL, reopen=Contract.reopen, lose=Contract.lose)
        self.assertLess(self.names(first), self.names(second))
        self.assertLess(self.names(second), self.names(third))
        self.assertEqual(self.names(third), self.names(SoundTests))

    def test_mixins_declare_anything(self) -> None:
        """A mixin's declaration is a default: the class below may have less or more."""
        mixin = self.case(BackstoreContract, companions=frozenset({IDiscard}))
        self.assertIn("test_discard", self.names(self.case(mixin, TestCase)))
        self.assertNotIn("test_discard", self.names(self.case(mixin, TestCase, companions=frozenset())))
        self.assertIn("test_write_zeroes", self.names(self.case(mixin, TestCase, companions=ALL)))

    def test_less_than_inherited(self) -> None:
        """Loaders would find what a TestCase hands down, so a class below it cannot declare less."""
        error = self.assertRaises(TypeError, self.case, SoundTests, companions=ALL - {IDiscard})
        self.assertIn("declares less than SoundTests", str(error))

    def test_own_versions_stay(self) -> None:
        """A test that the author replaced is left as it is."""

        def test_discard(self: Any) -> None:
            """Do nothing."""

        case: Any = self.case(companions=ALL, test_discard=test_discard)
        self.assertIs(case.test_discard, test_discard)
        below: Any = self.case(case)
        self.assertIs(below.test_discard, test_discard)
