"""SCSI commands of a disk, from the initiator through ring and commands to the backstore and back."""

from __future__ import annotations

import errno
from random import Random
from struct import pack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.lun.support import (
    CHECK_CONDITION,
    GOOD,
    INVALID_FIELD,
    INVALID_OPCODE,
    Later,
    RigTestCase,
    ScriptedBackstore,
)
from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.interfaces import IBackstore, IDiscard, IForceUnitAccess, IVectoredBackstore
from txtcmu.lun.commands import UNREAD, BlockCommands
from txtcmu.lun.target import Settings
from txtcmu.scsi.opcodes import ROWS
from txtcmu.testing.rig import Rig

SIZE = 1 << 20


def read_10(rig: Rig, lba: int, blocks: int, flags: int = 0, length: int | None = None) -> Any:
    length = blocks * 512 if length is None else length
    return rig.kernel.submit(pack(">BBIBHB", 0x28, flags, lba, 0, blocks, 0), data_in_length=length)


def write_10(rig: Rig, lba: int, blocks: int, data: bytes, flags: int = 0) -> Any:
    return rig.kernel.submit(pack(">BBIBHB", 0x2A, flags, lba, 0, blocks, 0), data)


@implementer(IForceUnitAccess)
class Forced(ScriptedBackstore):
    def write_fua(self, offset: int, buffers: list[memoryview]) -> None:
        self.calls.append(("write_fua", offset, sum(map(len, buffers))))


@implementer(IVectoredBackstore)
class Vectored(ScriptedBackstore):
    def readv(self, offset: int, buffers: list[memoryview]) -> Any:
        return self.script["readv"](offset, buffers)

    def writev(self, offset: int, buffers: list[memoryview]) -> Any:
        self.calls.append(("writev", offset, sum(map(len, buffers))))


@implementer(IDiscard)
class Discarding(ScriptedBackstore):
    discard_granularity = 4096
    discard_zeroes = True

    def discard(self, offset: int, length: int) -> Any:
        self.calls.append(("discard", offset, length))
        return self.script["discard"](offset, length) if "discard" in self.script else None


class NoDataTests(RigTestCase):
    """Commands whose CDB speaks of no data, from initiators that ask for data all the same."""

    def test_nothing_leaks(self) -> None:
        """The buffer such a command comes with goes back as zeroes, not as what other commands left in it."""
        rig = self.rig(MemoryBackstore(SIZE))
        test_unit_ready, synchronize, start = bytes(6), b"\x35" + bytes(9), bytes([0x1B, 0, 0, 0, 1, 0])
        unmap_nothing, write_nothing = b"\x42" + bytes(9), b"\x2a" + bytes(9)
        for cdb in (test_unit_ready, synchronize, start, unmap_nothing, write_nothing):
            written = rig.initiator.write(0, b"S" * 4096)
            rig.settle()
            self.assertEqual(written.status, GOOD)
            command = rig.kernel.submit(cdb, data_in_length=4096)
            rig.settle()
            self.assertEqual((command.status, command.data), (GOOD, bytes(4096)), cdb.hex())


class ReadWriteTests(RigTestCase):
    def test_data(self) -> None:
        """What is written is read back by any form of READ, wherever the pages of the buffers lie."""
        data = Random(1).randbytes(40 * 512)
        for fragment in (False, True):
            for backstore in (MemoryBackstore(SIZE), _Plain(SIZE)):
                rig = self.rig(backstore, fragment=fragment)
                rig.kernel.poison_free_pages()
                rig.initiator.write(3, data[: 20 * 512])
                write_10(rig, 23, 20, data[20 * 512 :])
                rig.settle()
                long, short = rig.initiator.read(2, 42), read_10(rig, 10, 17)
                rig.settle()
                self.assertEqual(long.data, bytes(512) + data + bytes(512))
                self.assertEqual(short.data, data[7 * 512 : 24 * 512])

    def test_short_forms(self) -> None:
        """READ and WRITE of 6 and 12 bytes move the same data; no blocks are 256 of the one and none of the other."""
        data = Random(3).randbytes(256 * 512)
        rig = self.rig(MemoryBackstore(SIZE), fragment=True)
        written = rig.kernel.submit(bytes([0x0A, 0, 1, 0, 0, 0]), data)
        nothing = rig.kernel.submit(pack(">BBIIBB", 0xAA, 0, 0x100, 0, 0, 0))
        rig.settle()
        self.assertEqual((written.status, nothing.status), (GOOD, GOOD))
        long = rig.kernel.submit(pack(">BBIIBB", 0xA8, 0, 0x100, 256, 0, 0), data_in_length=256 * 512)
        short = rig.kernel.submit(bytes([0x08, 0, 1, 2, 3, 0]), data_in_length=3 * 512)
        less = rig.kernel.submit(bytes([0x08, 0, 1, 0, 0, 0]), data_in_length=255 * 512)
        rig.settle()
        self.assertEqual((long.data, short.data), (data, data[2 * 512 : 5 * 512]))
        self.assertEqual(less.sense_code, INVALID_FIELD)

    def test_block_size(self) -> None:
        """Addresses count blocks of the device's size."""
        rig = self.rig(MemoryBackstore(SIZE), block_size=4096)
        rig.initiator.write(5, b"y" * 4096)
        read = rig.initiator.read(4, 2)
        rig.settle()
        self.assertEqual(read.data, bytes(4096) + b"y" * 4096)

    def test_short_read(self) -> None:
        """What a backstore leaves out reads as zeroes, not as what was in the buffer before."""
        later = Later()

        def readv(offset: int, buffers: list[memoryview]) -> int:
            buffers[0][:100] = b"z" * 100
            return 100

        def readv_later(offset: int, buffers: list[memoryview]) -> Deferred[Any]:
            readv(offset, buffers)
            return later()

        cases: list[tuple[Any, Any]] = [
            (ScriptedBackstore(SIZE, read=lambda *_: b"z" * 100), None),
            (ScriptedBackstore(SIZE, read=later), b"z" * 100),
            (Vectored(SIZE, readv=readv), None),
            (Vectored(SIZE, readv=readv_later), 100),
        ]
        for backstore, result in cases:
            rig = self.rig(backstore, fragment=True)
            rig.kernel.poison_free_pages()
            read = rig.initiator.read(0, 32)
            rig.settle()
            if result is not None:
                later.made.pop().callback(result)
                rig.settle()
            self.assertEqual(read.data, b"z" * 100 + bytes(32 * 512 - 100))

    def test_long_read(self) -> None:
        """What a backstore returns beyond what it was asked for is dropped."""
        rig = self.rig(ScriptedBackstore(SIZE, read=lambda *_: b"z" * 10000))
        read = rig.initiator.read(0, 1)
        rig.settle()
        self.assertEqual(read.data, b"z" * 512)

    def test_no_blocks(self) -> None:
        """A transfer of no blocks is no error, and none of the backstore's business."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)
        commands = [read_10(rig, 0, 0), write_10(rig, 0, 0, b""), rig.initiator.read(SIZE // 512, 0)]
        rig.settle()
        self.assertEqual(([command.status for command in commands], backstore.calls), ([GOOD] * 3, []))

    def test_buffer_longer(self) -> None:
        """Of a buffer longer than the CDB says only so much is used; the rest of Data-In is a residual."""
        backstore = MemoryBackstore(SIZE)
        rig = self.rig(backstore, fragment=True)
        rig.kernel.poison_free_pages()
        write_10(rig, 0, 9, b"w" * 8192)
        read = read_10(rig, 0, 10, length=9000)
        rig.settle()
        self.assertEqual((read.data, read.residual), (b"w" * 9 * 512 + bytes(512), 9000 - 10 * 512))

    def test_buffer_shorter(self) -> None:
        """A buffer shorter than the CDB says is refused before the backstore hears of it."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)
        commands = [read_10(rig, 0, 2, length=512), read_10(rig, 0, 2, length=1023), write_10(rig, 0, 2, b"w" * 512)]
        rig.settle()
        self.assertEqual([command.sense_code for command in commands], [INVALID_FIELD] * 3)
        self.assertEqual(backstore.calls, [])

    def test_out_of_range(self) -> None:
        """The last block can be read and written, the one behind it cannot."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)
        last = SIZE // 512 - 1
        good = [rig.initiator.read(last, 1), rig.initiator.write(last, bytes(512))]
        bad = [rig.initiator.read(last, 2), rig.initiator.write(last + 1, bytes(512)), rig.initiator.sync(last, 2)]
        rig.settle()
        self.assertEqual([command.status for command in good], [GOOD] * 2)
        self.assertEqual([command.sense_code for command in bad], [(5, 0x21, 0)] * 3)
        self.assertEqual(backstore.calls, [("read", last * 512, 512), ("write", last * 512, 512)])

    def test_too_long(self) -> None:
        """More blocks than the advertised maximum are refused."""
        rig = self.rig(ScriptedBackstore(SIZE), max_blocks=8)
        good, bad = rig.initiator.read(0, 8), rig.initiator.read(0, 9)
        rig.settle()
        self.assertEqual((good.status, bad.sense_code), (GOOD, INVALID_FIELD))

    def test_read_only(self) -> None:
        """A read-only backstore is written to by nobody, and said to be write protected; it is read and not flushed."""
        backstore = Discarding(SIZE)
        backstore.read_only = True
        rig = self.rig(backstore)
        write, unmap = rig.initiator.write(0, bytes(512)), rig.initiator.unmap((0, 8))
        read, fua, sync = rig.initiator.read(0, 1), rig.initiator.read(0, 1, fua=True), rig.initiator.sync()
        mode = rig.kernel.submit(bytes([0x1A, 0, 0x3F, 0, 255, 0]), data_in_length=255)
        rig.settle()
        self.assertEqual(write.sense_code, (7, 0x27, 0))
        self.assertEqual(unmap.sense_code, INVALID_OPCODE)
        self.assertEqual([command.status for command in (read, fua, sync)], [GOOD] * 3)
        self.assertEqual(mode.data[2] & 0x80, 0x80)
        self.assertEqual(backstore.names, ["read", "read"])


@implementer(IBackstore)
class _Plain:
    """The least that is a disk."""

    read_only = False
    physical_block_size = 512

    def __init__(self, size: int) -> None:
        self.size = size
        self._content = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._content[offset : offset + length])

    def write(self, offset: int, data: memoryview) -> None:
        self._content[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class DurabilityTests(RigTestCase):
    def test_force_unit_access(self) -> None:
        """A write with FUA ends when write and flush have, in this order."""
        write, flush = Later(), Later()
        backstore = ScriptedBackstore(SIZE, write=write, flush=flush)
        rig = self.rig(backstore)
        command = rig.initiator.write(0, bytes(512), fua=True)
        rig.settle()
        self.assertEqual(backstore.names, ["write"])
        write.made[0].callback(None)
        self.assertEqual(backstore.names, ["write", "flush"])
        rig.settle()
        self.assertFalse(command.done)
        flush.made[0].callback(None)
        rig.settle()
        self.assertEqual(command.status, GOOD)
        backstore.script.clear()

    def test_force_unit_access_at_once(self) -> None:
        """A backstore that is done at once writes and flushes at once; one that can force is not flushed."""
        for backstore, names in ((ScriptedBackstore(SIZE), ["write", "flush"]), (Forced(SIZE), ["write_fua"])):
            rig = self.rig(backstore)
            command = write_10(rig, 0, 1, bytes(512), flags=0x08)
            rig.settle()
            self.assertEqual((command.status, backstore.names), (GOOD, names))

    def test_force_unit_access_fails(self) -> None:
        """A flush that fails fails the write; so does the write itself, without a flush."""

        def fail(*_: Any) -> None:
            raise OSError(errno.EIO, "I/O error")

        for script, names in (({"flush": fail}, ["write", "flush"]), ({"write": fail}, ["write"])):
            backstore = ScriptedBackstore(SIZE, **script)
            rig = self.rig(backstore)
            command = rig.initiator.write(0, bytes(512), fua=True)
            rig.settle()
            self.assertEqual((command.sense_code, backstore.names), ((3, 0x0C, 0), names))
            backstore.script.clear()

    def test_range_stays_busy_for_the_flush(self) -> None:
        """A write to the same blocks waits until a write with FUA is durable."""
        flush = Later()
        backstore = ScriptedBackstore(SIZE, flush=flush)
        rig = self.rig(backstore)
        rig.initiator.write(0, bytes(512), fua=True)
        rig.initiator.write(0, bytes(512))
        rig.settle()
        self.assertEqual(backstore.names, ["write", "flush"])
        flush.made[0].callback(None)
        rig.settle()
        self.assertEqual(backstore.names, ["write", "flush", "write"])
        backstore.script.clear()

    def test_read_with_fua(self) -> None:
        """A read with FUA reads when what was written before is durable; a flush that fails fails it."""
        flush = Later()
        backstore = ScriptedBackstore(SIZE, flush=flush)
        rig = self.rig(backstore)
        good, bad = rig.initiator.read(0, 1, fua=True), rig.initiator.read(1, 1, fua=True)
        rig.settle()
        flush.made[0].callback(None)
        flush.made[1].errback(OSError(errno.EIO, "I/O error"))
        rig.settle()
        self.assertEqual((good.status, bad.sense_code), (GOOD, (3, 0x11, 0)))
        self.assertEqual(backstore.names, ["flush", "flush", "read"])
        backstore.script.clear()

    def test_synchronize_cache(self) -> None:
        """SYNCHRONIZE CACHE waits for the flush, even with IMMED, and reports its failure as a write error."""
        for cdb in (bytes([0x35, 0] + [0] * 8), bytes([0x35, 2] + [0] * 8), bytes([0x91, 2] + [0] * 14)):
            flush = Later()
            backstore = ScriptedBackstore(SIZE, flush=flush)
            rig = self.rig(backstore)
            good, bad = rig.kernel.submit(cdb), rig.kernel.submit(cdb)
            rig.settle()
            self.assertFalse(good.done or bad.done)
            flush.made[0].callback(None)
            flush.made[1].errback(OSError(errno.EIO, "I/O error"))
            rig.settle()
            self.assertEqual((good.status, bad.sense_code), (GOOD, (3, 0x0C, 0)))
            backstore.script.clear()

    def test_start_stop(self) -> None:
        """A stopped unit has flushed, says 04/02 and moves no data until it is started; NO_FLUSH is heeded."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)

        def start_stop(byte: int) -> None:
            command = rig.kernel.submit(bytes([0x1B, 0, 0, 0, byte, 0]))
            rig.settle()
            self.assertEqual(command.status, GOOD)

        start_stop(0)
        self.assertEqual(backstore.names, ["flush"])
        refused = [rig.initiator.test_unit_ready(), rig.initiator.read(0, 1), rig.initiator.sync()]
        sense = rig.kernel.submit(bytes([0x03, 0, 0, 0, 252, 0]), data_in_length=252)
        inquiry = rig.initiator.inquiry()
        rig.settle()
        self.assertEqual([command.sense_code for command in refused], [(2, 4, 2)] * 3)
        self.assertEqual((sense.data[2], sense.data[12:14], inquiry.status), (2, b"\x04\x02", GOOD))
        start_stop(1)
        ready = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertEqual(ready.status, GOOD)
        start_stop(4)
        self.assertEqual(backstore.names, ["flush"])


class UnmapTests(RigTestCase):
    def test_extents(self) -> None:
        """UNMAP gives each extent back, and ends with the last of them."""
        discard = Later()
        backstore = Discarding(SIZE, discard=discard)
        rig = self.rig(backstore)
        command = rig.initiator.unmap((8, 8), (64, 16), (1, 0))
        rig.settle()
        self.assertEqual(backstore.calls, [("discard", 4096, 4096), ("discard", 32768, 8192)])
        discard.made[1].callback(None)
        rig.settle()
        self.assertFalse(command.done)
        discard.made[0].callback(None)
        rig.settle()
        self.assertEqual(command.status, GOOD)

    def test_failure(self) -> None:
        """When one extent fails, at once or later, the command fails, but not before all the others have ended."""
        for failure in (0, 1):
            later = Later()

            def discard(offset: int, length: int, later: Later = later, failure: int = failure) -> Any:
                if offset == 4096 * failure:
                    raise OSError(errno.EIO, "I/O error")
                return later()

            backstore = Discarding(SIZE, discard=discard)
            rig = self.rig(backstore)
            command = rig.initiator.unmap((0, 8), (8, 8), (16, 8))
            rig.settle()
            self.assertEqual(len(later.made), 2)
            later.made[0].callback(None)
            rig.settle()
            self.assertFalse(command.done)
            later.made[1].errback(OSError(errno.EIO, "I/O error"))
            rig.settle()
            self.assertEqual(command.sense_code, (3, 0x0C, 0))

    def test_order_with_writes(self) -> None:
        """A discard waits for a write to the same blocks, and a later write for the discard."""
        write = Later()
        backstore = Discarding(SIZE, write=write)
        rig = self.rig(backstore)
        rig.initiator.write(9, bytes(512))
        rig.initiator.unmap((8, 8))
        rig.initiator.write(10, bytes(512))
        rig.settle()
        self.assertEqual(backstore.names, ["write"])
        write.made[0].callback(None)
        self.assertEqual(backstore.names, ["write", "discard", "write"])
        write.made[1].callback(None)
        rig.settle()

    def test_without_discard(self) -> None:
        """A backstore that cannot discard has no UNMAP."""
        rig = self.rig(ScriptedBackstore(SIZE))
        command = rig.initiator.unmap((0, 8))
        rig.settle()
        self.assertEqual(command.sense_code, INVALID_OPCODE)


class OpcodeTests(RigTestCase):
    def test_every_row(self) -> None:
        """Every command of the table that comes here has a method."""
        commands = BlockCommands(
            None, Discarding(SIZE), Settings(SIZE, 512, 2048, 30, True), Deferred, lambda _: Deferred()
        )
        rows = {row for row in ROWS if not row.by_kernel}
        self.assertEqual(rows - commands._methods.keys(), set())
        self.assertIs(commands.unit.identity, UNREAD)

    def test_unknown(self) -> None:
        """Unknown and vendor-specific commands are ILLEGAL REQUEST 20/00, whatever their length and data."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)
        known = {row.operation_code for row in ROWS}
        for opcode in sorted(set(range(256)) - known):
            command = rig.kernel.submit(bytes([opcode]), data_in_length=512 * (opcode % 3))
            rig.settle()
            self.assertEqual((command.status, command.sense_code), (CHECK_CONDITION, INVALID_OPCODE), hex(opcode))
        self.assertEqual(backstore.calls, [])

    def test_identity_is_read_once(self) -> None:
        """The names are read, in a thread, when INQUIRY asks first; a failure is not remembered."""
        rig = self.rig(ScriptedBackstore(SIZE))
        identity = rig.target.identity

        def refuse() -> Any:
            raise OSError(errno.EIO, "I/O error")

        rig.target.identity = refuse  # type: ignore[method-assign]
        bad = rig.initiator.inquiry()
        rig.settle()
        self.assertEqual(bad.status, CHECK_CONDITION)
        rig.target.identity = identity  # type: ignore[method-assign]
        rig.reactor.hold_threads()
        first = rig.initiator.inquiry(0x80)
        rig.settle()
        self.assertFalse(first.done)
        rig.reactor.release_threads()
        second = rig.initiator.inquiry(0x80)
        rig.settle()
        self.assertEqual((first.data, first.status), (second.data, GOOD))
        self.assertEqual(rig.target.calls.count("identity"), 1)


@implementer(IBackstore, IDiscard)
class _Slow(_Plain):
    """A disk whose operations happen at some time between call and end, in any order."""

    discard_granularity = 512
    discard_zeroes = True

    def __init__(self, size: int, random: Random) -> None:
        super().__init__(size)
        self.random = random
        self.pending: list[Any] = []

    def _later(self, function: Any, *args: Any) -> Any:
        if self.random.random() < 0.3:
            return function(*args)
        now = self.random.random() < 0.5
        result = function(*args) if now else None
        deferred: Deferred[Any] = Deferred()
        self.pending.append(lambda: deferred.callback(result if now else function(*args)))
        return deferred

    def step(self) -> None:
        if self.pending:
            self.pending.pop(self.random.randrange(len(self.pending)))()

    def read(self, offset: int, length: int) -> Any:
        return self._later(super().read, offset, length)

    def write(self, offset: int, data: memoryview) -> Any:
        return self._later(super().write, offset, data)

    def discard(self, offset: int, length: int) -> Any:
        return self._later(super().write, offset, memoryview(bytes(length)))

    def flush(self) -> Any:
        return self._later(super().flush)


BLOCKS = 48
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, BLOCKS - 1), st.integers(1, 12), st.booleans()),
        st.tuples(st.just("write"), st.integers(0, BLOCKS - 1), st.integers(1, 12), st.booleans()),
        st.tuples(st.just("unmap"), st.integers(0, BLOCKS - 1), st.integers(1, 12), st.integers(0, BLOCKS - 4)),
        st.tuples(st.just("sync")),
        st.tuples(st.just("settle")),
        st.tuples(st.just("step")),
    ),
    max_size=40,
)


class ModelTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(steps=STEPS, seed=st.integers(0, 1000), fragment=st.booleans())
    def test_any_order(self, steps: list[Any], seed: int, fragment: bool) -> None:
        """A disk is a flat array of bytes: commands in any mixture, ended in any order, leave what they should.

        Writes and discards that overlap take effect in the order in which they were sent; a read sees what ended
        before it was sent, and nothing that was never written.
        """
        backstore = _Slow(BLOCKS * 512, Random(seed))
        rig = Rig(backstore, fragment=fragment, data_size=64 * 4096)
        rig.kernel.poison_free_pages()
        model = bytearray(BLOCKS)  # one byte stands for each block
        sent = 0
        changes: list[tuple[Any, int, int, int]] = []
        reads: list[tuple[Any, int, int, list[set[int]]]] = []

        def change(command: Any, lba: int, count: int, byte: int) -> None:
            changes.append((command, lba, count, byte))
            model[lba : lba + count] = bytes([byte]) * count
            for reading, *_, allowed in reads:
                if not reading.done:
                    for block in range(lba, lba + count):
                        allowed[block].add(byte)

        def possible() -> list[set[int]]:
            """Return what each block may read as now: the last ended change, and those under way."""
            allowed: list[set[int]] = [{0} for _ in range(BLOCKS)]
            for command, lba, count, byte in changes:
                for block in range(lba, lba + count):
                    allowed[block] = {byte} if command.done else allowed[block] | {byte}
            return allowed

        for name, *arguments in steps:
            if name in ("read", "write", "unmap"):
                lba, count = arguments[0], min(arguments[1], BLOCKS - arguments[0])
            if name == "read":
                reads.append((rig.initiator.read(lba, count, fua=arguments[2]), lba, count, possible()))
            elif name == "write":
                sent = sent % 255 + 1
                change(rig.initiator.write(lba, bytes([sent]) * 512 * count, fua=arguments[2]), lba, count, sent)
            elif name == "unmap":
                command = rig.initiator.unmap((lba, count), (arguments[2], 2))
                change(command, lba, count, 0)
                change(command, arguments[2], 2, 0)
            elif name == "sync":
                rig.initiator.sync()
            elif name == "settle":
                rig.settle()
            else:
                backstore.step()
        rig.settle()
        while backstore.pending:
            backstore.step()
            rig.settle()
        for command, *_ in changes:
            self.assertEqual(command.status, GOOD)
        for command, lba, count, allowed in reads:
            self.assertEqual(command.status, GOOD)
            for block in range(count):
                (byte, *others) = set(command.data[block * 512 : block * 512 + 512])
                self.assertEqual(others, [])
                self.assertIn(byte, allowed[lba + block])
        self.assertEqual(bytes(backstore._content), b"".join(bytes([byte]) * 512 for byte in model))
        backstore.random.random = lambda: 0.0  # type: ignore[method-assign]
        rig.close()
