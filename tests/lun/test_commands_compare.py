"""VERIFY and COMPARE AND WRITE, from the initiator to the backstore and back."""

from __future__ import annotations

import errno
from random import Random
from struct import pack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.lun.support import (
    BUSY,
    GOOD,
    INVALID_FIELD,
    MISCOMPARE,
    TASK_ABORTED,
    WRITE_ERROR,
    Disk,
    Held,
    Later,
    RigTestCase,
    ThinDisk,
    information,
)
from txtcmu.errors import MediumError, MiscompareError
from txtcmu.interfaces import ICompareAndWrite
from txtcmu.testing.rig import Rig

SIZE = 8 << 20
PIECE = 1 << 20
EACH, ONE = 0b01, 0b11


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, "I/O error")


class VerifyMediumTests(RigTestCase):
    """BYTCHK 00: the blocks can be read."""

    def test_reads_all_of_it(self) -> None:
        """Every block is read once, at most a mebibyte at a time, and nothing is sent."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        command = rig.initiator.verify(3, 5000)
        rig.settle()
        self.assertEqual(command.status, GOOD)
        starts = [3 * 512 + at for at in range(0, 5000 * 512, PIECE)]
        self.assertEqual([offset for _, offset, _ in disk.calls], starts)
        self.assertEqual(sum(length for *_, length in disk.calls), 5000 * 512)
        self.assertLessEqual(max(length for *_, length in disk.calls), PIECE)

    def test_forms(self) -> None:
        """The short forms do the same; no blocks are no error, and a read-only medium can be verified."""
        disk = Disk(SIZE)
        disk.read_only = True
        rig = self.rig(disk)
        commands = [
            rig.kernel.submit(pack(">BBIBHB", 0x2F, 0, 8, 0, 4, 0)),
            rig.kernel.submit(pack(">BBIIBB", 0xAF, 0, 16, 4, 0, 0)),
            rig.kernel.submit(pack(">BBIBHB", 0x2F, 0, 8, 0, 0, 0)),
        ]
        rig.settle()
        self.assertEqual([command.status for command in commands], [GOOD] * 3)
        self.assertEqual(disk.calls, [("read", 4096, 2048), ("read", 8192, 2048)])

    def test_large_blocks(self) -> None:
        """A piece is whole blocks, one at least."""
        disk = Disk(SIZE)
        rig = self.rig(disk, block_size=2 << 20)
        rig.initiator.verify(1, 2)
        rig.settle()
        self.assertEqual(disk.calls, [("read", 2 << 20, 2 << 20), ("read", 4 << 20, 2 << 20)])

    def test_reactor_has_its_turn(self) -> None:
        """Other commands are carried out between two pieces of a disk that is done at once."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        verify = rig.initiator.verify(0, SIZE // 512)
        rig.reactor.turn()
        self.assertEqual(len(disk.calls), 1)
        write = rig.initiator.write(0, bytes(512))
        rig.reactor.turn()
        self.assertIn("write", disk.names)
        self.assertFalse(verify.done)
        rig.settle()
        self.assertEqual((verify.status, write.status), (GOOD, GOOD))

    def test_bad_block(self) -> None:
        """A block that cannot be read is told by its LBA, and the rest is not read."""

        def read(offset: int, length: int) -> None:
            if offset >= PIECE:
                raise MediumError("scratched", offset + 1024)

        disk = Disk(SIZE, read=read)
        rig = self.rig(disk)
        command = rig.initiator.verify(0, SIZE // 512)
        rig.settle()
        self.assertEqual((command.sense_code, information(command)), ((3, 0x11, 0), PIECE // 512 + 2))
        self.assertEqual(disk.names, ["read", "read"])

    def test_nothing_leaks(self) -> None:
        """An initiator that asks for data gets zeroes."""
        rig = self.rig(Disk(SIZE))
        rig.kernel.poison_free_pages()
        command = rig.kernel.submit(pack(">BBQIBB", 0x8F, 0, 0, 1, 0, 0), data_in_length=4096)
        rig.settle()
        self.assertEqual((command.status, command.data), (GOOD, bytes(4096)))

    def test_abort(self) -> None:
        """Aborted, it ends at once when the piece under way lets go, and reads no more."""
        read = Later()
        disk = Disk(SIZE, read=read)
        rig = self.rig(disk)
        command = rig.initiator.verify(0, SIZE // 512)
        rig.settle()
        read.made[0].callback(None)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((command.status, disk.names), (TASK_ABORTED, ["read", "read"]))

    def test_abort_between_pieces(self) -> None:
        """Aborted while it gives others their turn, it reads no more either."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        command = rig.initiator.verify(0, SIZE // 512)
        rig.reactor.turn()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((command.status, len(disk.calls) < 8), (TASK_ABORTED, True))

    def test_abort_of_what_cannot_be_recalled(self) -> None:
        """A piece that succeeds although it was aborted is the last."""
        read = Later(Held)
        disk = Disk(SIZE, read=read)
        rig = self.rig(disk)
        command = rig.initiator.verify(0, SIZE // 512)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((command.done, command.kept), (True, True))
        read.made[0].callback(None)
        rig.settle()
        self.assertEqual(disk.names, ["read"])
        self.assertFalse(command.kept)


class VerifyCompareTests(RigTestCase):
    """BYTCHK 01 and 11: the blocks are what is sent."""

    def setUp(self) -> None:
        self.disk = Disk(SIZE)
        self.data = Random(1).randbytes(3 << 20)
        self.disk.put(512, self.data)

    def test_each(self) -> None:
        """Blocks that are what was sent are good, whatever pieces they are compared in."""
        for fragment in (False, True):
            rig = self.rig(self.disk, max_blocks=8192, data_size=4 << 20, fragment=fragment)
            command = rig.initiator.verify(1, len(self.data) // 512, self.data, byte_check=EACH)
            rig.settle()
            self.assertEqual(command.status, GOOD)

    def test_differs(self) -> None:
        """The first byte that differs is told by its offset in what was sent."""
        for at in (0, 511, PIECE - 1, PIECE, len(self.data) - 1):
            wrong = bytearray(self.data)
            wrong[at] ^= 1
            wrong[-1] ^= 1 if at != len(self.data) - 1 else 0
            rig = self.rig(self.disk, max_blocks=8192, data_size=4 << 20)
            command = rig.initiator.verify(1, len(self.data) // 512, bytes(wrong), byte_check=EACH)
            rig.settle()
            self.assertEqual((command.sense_code, information(command)), (MISCOMPARE, at))

    def test_one_with_all(self) -> None:
        """One block is compared with each; an offset counts from the first of these."""
        block = self.data[:512]
        self.disk.put(0, block * 5000)
        rig = self.rig(self.disk)
        good = rig.initiator.verify(0, 5000, block, byte_check=ONE)
        bad = rig.initiator.verify(4990, 20, block, byte_check=ONE)
        single = rig.initiator.verify(7, 1, block, byte_check=ONE)
        rig.settle()
        self.assertEqual((good.status, single.status), (GOOD, GOOD))
        self.assertEqual(bad.sense_code, MISCOMPARE)
        at = information(bad)
        assert at is not None
        self.assertEqual(self.disk.content[4990 * 512 : 4990 * 512 + at], (block * 20)[:at])
        self.assertNotEqual(self.disk.content[4990 * 512 + at], (block * 20)[at])

    def test_length_of_data(self) -> None:
        """Less data than the CDB says is refused before anything is read; of more, only so much is compared."""
        rig = self.rig(self.disk)
        short = rig.initiator.verify(1, 2, self.data[:512], byte_check=EACH)
        none = rig.initiator.verify(1, 2, self.data[:511], byte_check=ONE)
        rig.settle()
        self.assertEqual((short.sense_code, none.sense_code, self.disk.calls), (INVALID_FIELD, INVALID_FIELD, []))
        more = rig.initiator.verify(1, 2, self.data[:1024] + b"m" * 512, byte_check=EACH)
        rig.settle()
        self.assertEqual(more.status, GOOD)

    def test_nothing_is_logged(self) -> None:
        """A miscompare is the initiator's business: no log speaks of it."""
        for disk in (self.disk, Swapping(SIZE)):
            rig = self.rig(disk)
            with capturedLogs() as events:
                commands = [
                    rig.initiator.verify(0, 1, b"x" * 512, byte_check=EACH),
                    rig.initiator.compare_and_write(0, b"x" * 512, b"y" * 512),
                ]
                rig.settle()
            self.assertEqual([command.sense_code for command in commands], [MISCOMPARE] * 2)
            self.assertEqual(events, [])


OLD, NEW, OTHER = b"o" * 1024, b"n" * 1024, b"x" * 1024


@implementer(ICompareAndWrite)
class Swapping(Disk):
    """Compares and writes in one step."""

    def compare_and_write(self, offset: int, expected: memoryview, data: memoryview) -> Any:
        def swap() -> None:
            found = self.content[offset : offset + len(expected)]
            if found != expected:
                raise MiscompareError(next(at for at in range(len(found)) if found[at] != expected[at]))
            self.put(offset, bytes(data))

        return self.perform(("compare_and_write", offset, len(data)), swap)


class CompareAndWriteTests(RigTestCase):
    def disk(self, kind: type[Disk] = Disk, **script: Any) -> Disk:
        disk = kind(SIZE, **script)
        disk.put(2048, OLD)
        return disk

    def test_swap(self) -> None:
        """What is there and expected is replaced; in one step where the backstore can, else by read and write."""
        for kind, names in ((Disk, ["read", "write"]), (Swapping, ["compare_and_write"])):
            for fragment in (False, True):
                disk = self.disk(kind)
                rig = self.rig(disk, fragment=fragment)
                command = rig.initiator.compare_and_write(4, OLD, NEW)
                rig.settle()
                self.assertEqual((command.status, disk.names), (GOOD, names))
                self.assertEqual(disk.content[2048:3072], NEW)

    def test_miscompare(self) -> None:
        """Where something else is nothing changes, and the offset of the first difference is told."""
        expected = OLD[:600] + b"?" + OLD[601:]
        for kind in (Disk, Swapping):
            disk = self.disk(kind)
            rig = self.rig(disk)
            command = rig.initiator.compare_and_write(4, expected, NEW, fua=True)
            rig.settle()
            self.assertEqual((command.sense_code, information(command)), (MISCOMPARE, 600))
            self.assertEqual(disk.content[2048:3072], OLD)
            self.assertEqual(len(disk.calls), 1)

    def test_durability(self) -> None:
        """With FUA, or without a write cache, it ends when it is durable; a flush that fails fails it."""
        for kind in (Disk, Swapping):
            for fua, cache in ((True, True), (False, False)):
                disk = self.disk(kind)
                rig = self.rig(disk)
                rig.initiator.cache_writes(cache)
                rig.settle()
                command = rig.initiator.compare_and_write(4, OLD, NEW, fua=fua)
                rig.settle()
                self.assertEqual((command.status, disk.durable[2048:3072]), (GOOD, NEW))
                disk.script["flush"] = fail
                command = rig.initiator.compare_and_write(4, NEW, OLD, fua=fua)
                rig.settle()
                self.assertEqual(command.sense_code, WRITE_ERROR)
                disk.script.clear()

    def test_refused(self) -> None:
        """No blocks are no error; half the data is one, and so is a read-only medium."""
        disk = self.disk()
        rig = self.rig(disk)
        none = rig.initiator.compare_and_write(4, b"", b"")
        half = rig.kernel.submit(pack(">BBQ3xBBB", 0x89, 0, 4, 2, 0, 0), OLD)
        rig.settle()
        self.assertEqual((none.status, half.sense_code, disk.calls), (GOOD, INVALID_FIELD, []))
        disk = self.disk()
        disk.read_only = True
        rig = self.rig(disk)
        protected = rig.initiator.compare_and_write(4, OLD, NEW)
        rig.settle()
        self.assertEqual((protected.sense_code, disk.calls), ((7, 0x27, 0), []))

    def test_failures(self) -> None:
        """A read or write that fails fails it, at once or later, and a failed read is not followed by a write."""
        for name, names in (("read", ["read"]), ("write", ["read", "write"])):
            disk = self.disk(Disk, **{name: fail})
            rig = self.rig(disk)
            at_once = rig.initiator.compare_and_write(4, OLD, NEW)
            rig.settle()
            later = Later()
            disk.script[name] = later
            delayed = rig.initiator.compare_and_write(4, OLD, NEW)
            rig.settle()
            later.made[0].errback(OSError(errno.EIO, "I/O error"))
            rig.settle()
            self.assertEqual((at_once.sense_code, delayed.sense_code), (WRITE_ERROR, WRITE_ERROR))
            self.assertEqual((disk.names, disk.content[2048:3072]), (names * 2, OLD))

    def test_writes_wait(self) -> None:
        """Writes and discards of these blocks that come between read and write wait; what they change is last."""
        for change in ("write", "unmap"):
            read = Later()
            disk = self.disk(ThinDisk, read=read)
            rig = self.rig(disk)
            swap = rig.initiator.compare_and_write(4, OLD, NEW)
            rig.settle()
            other = rig.initiator.write(5, OTHER[:512]) if change == "write" else rig.initiator.unmap((5, 1))
            rig.settle()
            self.assertEqual(disk.names, ["read"])
            read.made[0].callback(None)
            rig.settle()
            self.assertEqual((swap.status, other.status), (GOOD, GOOD))
            self.assertEqual(disk.content[2048:3072], NEW[:512] + (OTHER[:512] if change == "write" else bytes(512)))

    def test_it_waits(self) -> None:
        """It compares with what a write that came before leaves, and not with what was there before that."""
        for kind in (Disk, Swapping):
            write = Later()
            disk = self.disk(kind, write=write)
            rig = self.rig(disk)
            rig.initiator.write(4, OTHER)
            stale, fresh = rig.initiator.compare_and_write(4, OLD, NEW), rig.initiator.compare_and_write(4, OTHER, NEW)
            rig.settle()
            self.assertEqual(disk.names, ["write"])
            del disk.script["write"]
            write.made[0].callback(None)
            rig.settle()
            self.assertEqual((stale.sense_code, fresh.status), (MISCOMPARE, GOOD))

    def test_reads_wait(self) -> None:
        """A read of these blocks that comes meanwhile sees all of it or nothing; one of others does not wait."""
        write = Later()
        disk = self.disk(write=write)
        rig = self.rig(disk)
        swap = rig.initiator.compare_and_write(4, OLD, NEW)
        rig.settle()
        disk.put(2048, NEW[:512])  # half way
        overlapping, apart = rig.initiator.read(3, 4), rig.initiator.read(7, 1)
        rig.settle()
        self.assertEqual((overlapping.done, apart.done), (False, True))
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((swap.status, overlapping.data[512:1536]), (GOOD, NEW))
        after = rig.initiator.read(4, 2)
        rig.settle()
        self.assertEqual(after.data, NEW)

    def test_aborted_while_it_waits(self) -> None:
        """Aborted while another write is under way it is never begun."""
        write = Later()
        disk = self.disk(write=write)
        rig = self.rig(disk)
        rig.initiator.write(4, OTHER)
        swap = rig.initiator.compare_and_write(4, OTHER, NEW)
        rig.settle()
        rig.kernel.abort(swap)
        rig.settle()
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((swap.status, disk.names), (TASK_ABORTED, ["write"]))
        self.assert_usable(rig, OTHER)

    def test_aborted_while_it_reads(self) -> None:
        """Aborted while it reads it does not write, even if the read ends well."""
        for kind in (Deferred, Held):
            read = Later(kind)
            disk = self.disk(read=read)
            rig = self.rig(disk)
            swap = rig.initiator.compare_and_write(4, OLD, NEW)
            rig.settle()
            rig.kernel.abort(swap)
            rig.settle()
            self.assertEqual(swap.status, TASK_ABORTED)
            if kind is Held:
                read.made[0].callback(None)
                rig.settle()
            self.assertEqual(disk.names, ["read"])
            self.assert_usable(rig, OLD)

    def test_aborted_while_it_writes(self) -> None:
        """Aborted while it writes its blocks stay busy until that is over."""
        for kind in (Deferred, Held):
            write = Later(kind)
            disk = self.disk(write=write)
            rig = self.rig(disk)
            swap = rig.initiator.compare_and_write(4, OLD, NEW, fua=True)
            rig.settle()
            rig.kernel.abort(swap)
            rig.settle()
            self.assertEqual(swap.status, TASK_ABORTED)
            del disk.script["write"]
            newer = rig.initiator.write(4, OTHER)
            rig.settle()
            if kind is Held:
                self.assertFalse(newer.done)
                write.made[0].callback(None)
                rig.settle()
            self.assertEqual((newer.status, "flush" in disk.names), (GOOD, False))
            self.assert_usable(rig, OTHER)

    def test_aborted_while_it_flushes(self) -> None:
        """Aborted while it becomes durable it has been written."""
        disk = self.disk(flush=Later())
        rig = self.rig(disk)
        swap = rig.initiator.compare_and_write(4, OLD, NEW, fua=True)
        rig.settle()
        rig.kernel.abort(swap)
        rig.settle()
        self.assertEqual((swap.status, disk.names), (TASK_ABORTED, ["read", "write", "flush"]))
        self.assert_usable(rig, NEW)

    def test_deadline(self) -> None:
        """One that takes too long is aborted as any other command."""
        disk = self.disk(read=Later())
        rig = self.rig(disk, cmd_time_out=10)
        swap = rig.initiator.compare_and_write(4, OLD, NEW)
        rig.settle()
        rig.reactor.advance(9)
        rig.settle()
        self.assertEqual((swap.status, disk.names), (BUSY, ["read"]))
        self.assert_usable(rig, OLD)

    def assert_usable(self, rig: Rig, there: bytes) -> None:
        """Fail unless the blocks hold ``there``, and can be read and compared and written again."""
        rig.factory.backstore.script.clear()
        read, again = rig.initiator.read(4, 2), rig.initiator.compare_and_write(4, there, OLD)
        rig.settle()
        self.assertEqual((read.data, again.status), (there, GOOD))
        # Nobody who has gone is waited for: reads go straight to the backstore again.
        rig.factory.backstore.script["read"] = held = Later()
        reads = [rig.initiator.read(4, 2), rig.initiator.read(4, 2)]
        rig.settle()
        self.assertEqual(len(held.made), 2)
        for each in held.made:
            each.callback(None)
        rig.settle()
        self.assertEqual([each.data for each in reads], [OLD, OLD])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("swap"), st.integers(0, 5), st.integers(1, 3), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("write"), st.integers(0, 5), st.integers(1, 3), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("unmap"), st.integers(0, 5), st.integers(1, 3), st.just(0), st.booleans()),
        st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 3), st.just(0), st.booleans()),
        st.tuples(st.just("step")),
    ),
    max_size=40,
)


class ModelTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=80)
    @given(steps=STEPS, seed=st.integers(0, 1000), in_one_step=st.booleans())
    def test_any_order(self, steps: list[Any], seed: int, in_one_step: bool) -> None:
        """Compares, writes and discards of the same blocks take effect in the order they were sent, in any mixture.

        So what each compare finds is known beforehand, whatever order the backstore ends its operations in.
        """
        random = Random(seed)
        pending: list[Deferred[None]] = []

        def sometimes(*_: Any) -> Any:
            if random.random() < 0.4:
                return None
            pending.append(Deferred())
            return pending[-1]

        names = ("read", "write", "flush", "discard", "compare_and_write")

        @implementer(ICompareAndWrite)
        class Both(ThinDisk):
            compare_and_write = Swapping.compare_and_write

        disk = (Both if in_one_step else ThinDisk)(8 * 512, **dict.fromkeys(names, sometimes))
        rig = Rig(disk)
        model = bytearray(8)  # a byte for each block
        expected: list[tuple[Any, int]] = []
        reads = []
        for name, *arguments in steps:
            if name == "step":
                if pending:
                    pending.pop(random.randrange(len(pending))).callback(None)
                rig.settle()
                continue
            lba, count, byte, flag = arguments
            new = bytes([byte]) * count
            if name == "read":
                reads.append(rig.initiator.read(lba, count, fua=flag))
            elif name == "write":
                expected.append((rig.initiator.write(lba, bytes([byte]) * 512 * count, fua=flag), GOOD))
                model[lba : lba + count] = new
            elif name == "unmap":
                expected.append((rig.initiator.unmap((lba, count)), GOOD))
                model[lba : lba + count] = bytes(count)
            else:
                guess = bytes(model[lba : lba + count]) if flag else bytes([random.randrange(3)]) * count
                command = rig.initiator.compare_and_write(
                    lba, b"".join(bytes([each]) * 512 for each in guess), bytes([byte]) * 512 * count, fua=not flag
                )
                matches = model[lba : lba + count] == guess
                expected.append((command, GOOD if matches else 0x02))
                if matches:
                    model[lba : lba + count] = new
            rig.settle()
        while pending:
            pending.pop(random.randrange(len(pending))).callback(None)
            rig.settle()
        self.assertEqual([command.status for command, _ in expected], [status for _, status in expected])
        self.assertEqual([command.status for command in reads], [GOOD] * len(reads))
        self.assertEqual(bytes(disk.content), b"".join(bytes([byte]) * 512 for byte in model))
        disk.script.clear()
        rig.close()
