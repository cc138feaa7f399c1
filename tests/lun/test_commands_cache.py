"""The write cache: what WCE says is what a power cut finds, and switching it loses nothing."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.lun.support import (
    GOOD,
    TASK_ABORTED,
    WRITE_ERROR,
    Disk,
    Held,
    Later,
    RigTestCase,
    ZeroingDisk,
)
from txtcmu.interfaces import IForceUnitAccess
from txtcmu.lun.commands import BlockCommands
from txtcmu.lun.target import Settings
from txtcmu.testing.rig import Rig

SIZE = 1 << 20
CACHING = 0x08


@implementer(IForceUnitAccess)
class Forced(Disk):
    """Has a durable write of its own."""

    def write_fua(self, offset: int, buffers: list[memoryview]) -> Any:
        data = b"".join(buffers)

        def write() -> None:
            self.put(offset, data)
            self.durable[offset : offset + len(data)] = data

        return self.perform(("write_fua", offset, len(data)), write)


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, "I/O error")


class CacheTestCase(RigTestCase):
    def wce(self, rig: Rig) -> bool:
        """Return what MODE SENSE tells."""
        command = rig.initiator.mode_sense(CACHING)
        rig.settle()
        return bool(command.data[6] & 0x04)

    def uncached(self, disk: Any) -> Rig:
        """Return a rig whose write cache has been switched off; nothing of that is in the disk's calls."""
        rig = self.rig(disk)
        command = rig.initiator.cache_writes(False)
        rig.settle()
        self.assertEqual(command.status, GOOD)
        disk.calls.clear()
        return rig


class ModeSelectTests(CacheTestCase):
    def test_off(self) -> None:
        """Switched off, what was acknowledged before is durable, and so is each write when it ends."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        rig.initiator.write(0, b"a" * 512)
        rig.settle()
        self.assertEqual((disk.durable[0], self.wce(rig)), (0, True))
        off = rig.initiator.cache_writes(False)
        rig.settle()
        self.assertEqual((off.status, bytes(disk.durable[:512]), self.wce(rig)), (GOOD, b"a" * 512, False))
        write = rig.initiator.write(1, b"b" * 512)
        rig.settle()
        self.assertEqual((write.status, bytes(disk.durable[512:1024])), (GOOD, b"b" * 512))

    def test_on(self) -> None:
        """Switched on again, writes are cached; that needs no flush."""
        disk = Disk(SIZE)
        rig = self.uncached(disk)
        on = rig.initiator.cache_writes(True)
        rig.initiator.write(0, b"a" * 512)
        rig.settle()
        self.assertEqual((on.status, disk.names, self.wce(rig)), (GOOD, ["write"], True))

    def test_as_it_is(self) -> None:
        """Told what is, it does nothing, and what comes with the command does not go back."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        rig.kernel.poison_free_pages()
        nothing = rig.kernel.submit(bytes([0x15, 0x10, 0, 0, 0, 0]), data_in_length=64)
        same = rig.initiator.cache_writes(True)
        rig.settle()
        self.assertEqual((same.status, disk.calls), (GOOD, []))
        self.assertEqual((nothing.status, nothing.data), (GOOD, bytes(64)))

    def test_mode_select_10(self) -> None:
        """The longer form does the same."""
        rig = self.rig(Disk(SIZE))
        data = bytes(8) + bytes((CACHING, 0x12)) + bytes(18)
        command = rig.kernel.submit(bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, len(data), 0]), data)
        rig.settle()
        self.assertEqual((command.status, self.wce(rig)), (GOOD, False))

    def test_refused(self) -> None:
        """A list with a mistake changes nothing, though its caching page is good; nor does one that is cut short."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        caching = bytes((CACHING, 0x12)) + bytes(18)
        bad = bytes(4) + caching + bytes((0x1C, 0))
        commands = [
            rig.kernel.submit(bytes([0x15, 0x10, 0, 0, len(bad), 0]), bad),
            rig.kernel.submit(bytes([0x15, 0x10, 0, 0, 24, 0]), (bytes(4) + caching)[:20]),
            rig.kernel.submit(bytes([0x15, 0x11, 0, 0, 24, 0]), bytes(4) + caching),
        ]
        rig.settle()
        self.assertEqual([each.sense_code for each in commands], [(5, 0x26, 0), (5, 0x1A, 0), (5, 0x24, 0)])
        self.assertEqual((disk.calls, self.wce(rig)), ([], True))

    def test_flush_fails(self) -> None:
        """When the flush fails, at once or later, the command fails and the cache is still on."""
        for later in (False, True):
            flush = Later()
            disk = Disk(SIZE, flush=flush if later else fail)
            rig = self.rig(disk)
            off = rig.initiator.cache_writes(False)
            rig.settle()
            if later:
                self.assertEqual((off.done, self.wce(rig)), (False, True))
                flush.made[0].errback(OSError(errno.EIO, "I/O error"))
                rig.settle()
            self.assertEqual((off.sense_code, self.wce(rig)), (WRITE_ERROR, True))
            disk.script.clear()
            disk.calls.clear()
            write = rig.initiator.write(0, bytes(512))
            rig.settle()
            self.assertEqual((write.status, disk.names), (GOOD, ["write"]))

    def test_aborted(self) -> None:
        """Aborted while it flushes, the cache is still on, unless the flush succeeds all the same; writes go on."""
        for kind in (None, Held):
            flush = Later() if kind is None else Later(kind)
            disk = Disk(SIZE, flush=flush)
            rig = self.rig(disk)
            off = rig.initiator.cache_writes(False)
            rig.settle()
            rig.kernel.abort(off)
            rig.settle()
            self.assertEqual((off.status, self.wce(rig)), (TASK_ABORTED, True))
            if kind is not None:
                flush.made[0].callback(None)
                rig.settle()
                self.assertFalse(self.wce(rig))
            disk.script.clear()
            write = rig.initiator.write(0, b"a" * 512)
            rig.settle()
            self.assertEqual((write.status, disk.durable[0] == 0), (GOOD, self.wce(rig)))

    def test_writes_under_way(self) -> None:
        """It waits for writes that were begun with the cache, and writes that come meanwhile are durable."""
        write = Later()
        disk = Disk(SIZE, write=write)
        rig = self.rig(disk)
        before = rig.initiator.write(0, b"a" * 512)
        off = rig.initiator.cache_writes(False)
        after = rig.initiator.write(1, b"b" * 512)
        rig.settle()
        self.assertEqual((disk.names, off.done, self.wce(rig)), (["write"], False, True))
        disk.script.clear()
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual([command.status for command in (before, off, after)], [GOOD] * 3)
        self.assertEqual(disk.names, ["write", "flush", "write", "flush"])
        self.assertEqual(disk.durable[:1024], b"a" * 512 + b"b" * 512)


class UncachedTests(CacheTestCase):
    """Every command that changes the medium, without a write cache."""

    def test_every_change(self) -> None:
        """Each of them ends when it is durable, and fails when the flush does."""
        for send in (
            lambda rig: rig.initiator.write(0, b"w" * 512),
            lambda rig: rig.kernel.submit(bytes([0x0A, 0, 0, 0, 1, 0]), b"w" * 512),
            lambda rig: rig.kernel.submit(bytes([0xAA, *bytes(8), 1, 0, 0]), b"w" * 512),
            lambda rig: rig.initiator.unmap((0, 8), (16, 8)),
            lambda rig: rig.initiator.write_same(0, 8, b"w" * 512),
            lambda rig: rig.initiator.write_same(0, 8, bytes(512)),
            lambda rig: rig.initiator.write_same(0, 8, bytes(512), unmap=True),
            lambda rig: rig.initiator.compare_and_write(0, b"?" * 512, b"w" * 512),
        ):
            disk = ZeroingDisk(SIZE)
            disk.put(0, b"?" * 16384)
            rig = self.uncached(disk)
            good = send(rig)
            rig.settle()
            self.assertEqual((good.status, disk.names.count("flush"), disk.names[-1]), (GOOD, 1, "flush"))
            self.assertEqual(disk.durable, disk.content)
            disk.put(0, b"?" * 512)
            disk.script["flush"] = fail
            bad = send(rig)
            rig.settle()
            self.assertEqual(bad.sense_code, WRITE_ERROR)
            disk.script.clear()

    def test_forced(self) -> None:
        """A backstore with a durable write of its own is not flushed."""
        disk = Forced(SIZE)
        rig = self.uncached(disk)
        write = rig.initiator.write(0, b"w" * 512)
        rig.settle()
        self.assertEqual((write.status, disk.names, disk.durable[0]), (GOOD, ["write_fua"], ord("w")))

    def test_switched_from_outside(self) -> None:
        """A change that began with the cache and ends without it is durable at its end, too."""
        for name in ("write", "discard", "write_zeroes"):
            held = Later()
            disk = ZeroingDisk(SIZE, **{name: held})
            disk.put(0, b"?" * 4096)
            rig = self.rig(disk)
            command = {
                "write": lambda rig=rig: rig.initiator.write(0, b"w" * 512),
                "discard": lambda rig=rig: rig.initiator.unmap((0, 8)),
                "write_zeroes": lambda rig=rig: rig.initiator.write_same(0, 8, bytes(512)),
            }[name]()
            rig.settle()
            rig.device.unit.write_cache = False
            held.made[0].callback(None)
            rig.settle()
            self.assertEqual((command.status, disk.names), (GOOD, [name, "flush"]))
            self.assertEqual(disk.durable, disk.content)

    def test_initial_value(self) -> None:
        """A device can begin without a write cache."""
        geometry = Settings(SIZE, 512, 2048, 30, True)
        for write_cache in (True, False):
            commands = BlockCommands(None, Disk(SIZE), geometry, lambda: Later()(), lambda _: Later()(), write_cache)
            self.assertEqual(commands.unit.write_cache, write_cache)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.booleans()),
        st.tuples(st.just("zero"), st.booleans()),
        st.tuples(st.just("cache"), st.booleans()),
        st.tuples(st.just("sync"), st.booleans()),
        st.tuples(st.just("step"), st.booleans()),
        st.tuples(st.just("step"), st.booleans()),
    ),
    max_size=40,
)


class ModelTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=80)
    @given(steps=STEPS, forced=st.booleans())
    def test_honest(self, steps: list[Any], forced: bool) -> None:
        """Whatever ends when: while MODE SENSE would say "no cache", every change that has ended is durable."""
        pending: list[Any] = []
        later = Later()

        def held(*_: Any) -> Any:
            pending.append(later())
            return pending[-1]

        @implementer(IForceUnitAccess)
        class Both(ZeroingDisk):
            write_fua = Forced.write_fua

        kind = Both if forced else ZeroingDisk
        disk = kind(SIZE, **dict.fromkeys(("write", "write_fua", "write_zeroes", "flush"), held))
        disk.put(0, b"?" * SIZE)
        rig = Rig(disk)
        changes: list[tuple[Any, int, int]] = []
        commands = []

        def check() -> None:
            rig.settle()
            if rig.device.unit.write_cache:
                return
            for command, lba, byte in changes:
                if command.done:
                    self.assertEqual(disk.durable[lba * 512], byte)

        for number, (name, flag) in enumerate(steps):
            if name == "step":
                if pending:
                    pending.pop(0 if flag else -1).callback(None)
            elif name == "write":
                changes.append((rig.initiator.write(number, bytes([number]) * 512, fua=flag), number, number))
            elif name == "zero":
                changes.append((rig.initiator.write_same(number, 1, bytes(512)), number, 0))
            else:
                commands.append(rig.initiator.cache_writes(flag) if name == "cache" else rig.initiator.sync())
            check()
        while pending:
            pending.pop(0).callback(None)
            check()
        self.assertEqual(
            {command.status for command in [*commands, *(change[0] for change in changes)]} - {GOOD}, set()
        )
        disk.script.clear()
        rig.close()
