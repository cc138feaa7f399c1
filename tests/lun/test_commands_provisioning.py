"""WRITE SAME and GET LBA STATUS, from the initiator to the backstore and back."""

from __future__ import annotations

import errno
from random import Random
from struct import pack, unpack_from
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.lun.support import (
    GOOD,
    HARDWARE_ERROR,
    INVALID_FIELD,
    TASK_ABORTED,
    WRITE_ERROR,
    Disk,
    Held,
    Later,
    RigTestCase,
    ScriptedBackstore,
    ThinDisk,
    ZeroingDisk,
)
from txtcmu.interfaces import IBlockStatus
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig

SIZE = 8 << 20
PIECE = 1 << 20
NDOB, UNMAP = 0x01, 0x08
PATTERN = Random(1).randbytes(512)


def write_same_10(rig: Rig, lba: int, blocks: int, data: bytes, flags: int = 0) -> FakeCommand:
    return rig.kernel.submit(pack(">BBIBHB", 0x41, flags, lba, 0, blocks, 0), data)


def write_same_16(rig: Rig, lba: int, blocks: int, data: bytes = b"", flags: int = 0) -> FakeCommand:
    return rig.kernel.submit(pack(">BBQIBB", 0x93, flags, lba, blocks, 0, 0), data)


class WriteSameTests(RigTestCase):
    def test_pattern(self) -> None:
        """Every block of the range becomes the one that was sent, and no other; by pieces of a mebibyte at most."""
        for kind in (Disk, ThinDisk, ZeroingDisk):
            disk = kind(SIZE)
            rig = self.rig(disk, fragment=True)
            command = write_same_16(rig, 3, 5000, PATTERN)
            short = write_same_10(rig, 6000, 2, PATTERN)
            rig.settle()
            self.assertEqual((command.status, short.status), (GOOD, GOOD))
            there = bytes(3 * 512) + PATTERN * 5000 + bytes(997 * 512) + PATTERN * 2
            self.assertEqual(disk.content, there + bytes(SIZE - len(there)))
            self.assertLessEqual(max(length for name, *_, length in disk.calls if name == "write"), PIECE)

    def test_block_size(self) -> None:
        """A block is one of the device's, and a piece a whole number of them."""
        for block_size in (4096, 2 << 20):
            disk = Disk(SIZE)
            rig = self.rig(disk, block_size=block_size, data_size=4 << 20)
            block = Random(2).randbytes(block_size)
            command = write_same_16(rig, 1, 3, block)
            rig.settle()
            self.assertEqual(command.status, GOOD)
            self.assertEqual(disk.content[block_size : 4 * block_size], block * 3)

    def test_zeroes(self) -> None:
        """Zeroes, sent or implied, are left to a backstore that can write them, and are else written."""
        for kind, names in ((ZeroingDisk, ["write_zeroes"]), (ThinDisk, ["write"]), (Disk, ["write"])):
            for data, flags in ((bytes(512), 0), (b"", NDOB)):
                disk = kind(SIZE)
                disk.put(0, b"?" * 8192)
                rig = self.rig(disk)
                command = write_same_16(rig, 1, 8, data, flags)
                rig.settle()
                self.assertEqual((command.status, disk.names), (GOOD, names))
                self.assertEqual(disk.content[:8192], b"?" * 512 + bytes(4096) + b"?" * (8192 - 4608))

    def test_unmap(self) -> None:
        """With UNMAP zeroes are given back, and anything else is written."""
        for data, flags, names in (
            (bytes(512), UNMAP, ["discard"]),
            (b"", UNMAP | NDOB, ["discard"]),
            (PATTERN, UNMAP, ["write"]),
        ):
            disk = ZeroingDisk(SIZE)
            disk.put(0, b"?" * 8192)
            rig = self.rig(disk)
            command = write_same_16(rig, 8, 8, data, flags)
            rig.settle()
            self.assertEqual((command.status, disk.names), (GOOD, names))
            self.assertEqual(disk.content[4096:8192], (data or bytes(512)) * 8)

    def test_unmap_of_what_may_not_read_as_zeroes(self) -> None:
        """A backstore that gives back without certain zeroes gives nothing back here: UNMAP is refused."""
        disk = ZeroingDisk(SIZE)
        disk.discard_zeroes = False
        rig = self.rig(disk)
        commands = [
            write_same_10(rig, 0, 8, bytes(512), UNMAP),
            write_same_16(rig, 0, 8, b"", UNMAP | NDOB),
        ]
        inquiry = rig.initiator.inquiry(0xB2)
        rig.settle()
        self.assertEqual([command.sense_code for command in commands], [INVALID_FIELD] * 2)
        self.assertEqual((inquiry.data[5] & 0xE0, disk.calls), (0x80, []))

    def test_to_the_end(self) -> None:
        """No blocks means all that are left; right behind the last there are none, and that is no error."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        command = write_same_16(rig, SIZE // 512 - 3, 0, PATTERN)
        nothing = write_same_10(rig, SIZE // 512, 0, PATTERN)
        rig.settle()
        self.assertEqual((command.status, nothing.status), (GOOD, GOOD))
        self.assertEqual(disk.calls, [("write", SIZE - 1536, 1536)])

    def test_limit(self) -> None:
        """What VPD page B0h says is the most is done, and one block more is not."""
        for kind in (Disk, ZeroingDisk):
            disk = kind(64 << 20)
            rig = self.rig(disk)
            limits = rig.initiator.inquiry(0xB0)
            rig.settle()
            [most] = unpack_from(">Q", limits.data, 36)
            good, bad = write_same_16(rig, 0, most, bytes(512)), write_same_16(rig, 0, most + 1, bytes(512))
            all_of_it = write_same_16(rig, 0, 0, bytes(512))
            rig.settle()
            self.assertEqual((good.status, bad.sense_code, all_of_it.sense_code), (GOOD, INVALID_FIELD, INVALID_FIELD))
            self.assertEqual(sum(length for *_, length in disk.calls), most * 512)

    def test_length_of_data(self) -> None:
        """Less than a block is refused; of more than one, and with NDOB of any, nothing is used."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        less, none = write_same_16(rig, 0, 8, PATTERN[:511]), write_same_10(rig, 0, 8, b"")
        rig.settle()
        self.assertEqual((less.sense_code, none.sense_code, disk.calls), (INVALID_FIELD, INVALID_FIELD, []))
        more, ignored = write_same_16(rig, 0, 8, PATTERN + b"m" * 512), write_same_16(rig, 8, 8, PATTERN, NDOB)
        rig.settle()
        self.assertEqual((more.status, ignored.status), (GOOD, GOOD))
        self.assertEqual(disk.content[:8192], PATTERN * 8 + bytes(4096))

    def test_read_only(self) -> None:
        """A read-only medium is write protected, whatever is asked for."""
        disk = ZeroingDisk(SIZE)
        disk.read_only = True
        rig = self.rig(disk)
        commands = [write_same_16(rig, 0, 8, bytes(512)), write_same_16(rig, 0, 8, b"", UNMAP | NDOB)]
        rig.settle()
        self.assertEqual([command.sense_code for command in commands], [(7, 0x27, 0)] * 2)
        self.assertEqual(disk.calls, [])

    def test_reactor_has_its_turn(self) -> None:
        """Other commands are carried out between two pieces, but for writes to the range, which wait for all of it."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        same = write_same_16(rig, 0, SIZE // 512 - 1, PATTERN)
        rig.reactor.turn()
        self.assertEqual(len(disk.calls), 1)
        read, outside, inside = (
            rig.initiator.read(0, 1),
            rig.initiator.write(SIZE // 512 - 1, bytes(512)),
            rig.initiator.write(1, b"i" * 512),
        )
        rig.reactor.turn()
        self.assertIn(("write", SIZE - 512, 512), disk.calls)
        self.assertFalse(same.done)
        rig.settle()
        self.assertEqual([command.status for command in (same, read, outside, inside)], [GOOD] * 4)
        self.assertEqual(disk.calls[-1], ("write", 512, 512))
        self.assertEqual(disk.content[512:1024], b"i" * 512)

    def test_waits_for_writes(self) -> None:
        """It begins when a write to the range that came before has ended, whatever it will do."""
        for data, flags in ((PATTERN, 0), (bytes(512), 0), (b"", NDOB | UNMAP)):
            write = Later()
            disk = ZeroingDisk(SIZE, write=write)
            rig = self.rig(disk)
            rig.initiator.write(7, b"w" * 512)
            same = write_same_16(rig, 0, 8, data, flags)
            rig.settle()
            self.assertEqual(disk.names, ["write"])
            del disk.script["write"]
            write.made[0].callback(None)
            rig.settle()
            self.assertEqual((same.status, disk.content[:4096]), (GOOD, (data or bytes(512)) * 8))

    def test_failure(self) -> None:
        """When a piece fails, at once or later, the rest is not written, and the range is free again."""
        for later in (False, True):
            failing = Later()

            def write(offset: int, data: memoryview, failing: Later = failing, later: bool = later) -> Any:
                if offset != 2 * PIECE:
                    return None
                if not later:
                    raise OSError(errno.EIO, "I/O error")
                return failing()

            disk = Disk(SIZE, write=write)
            rig = self.rig(disk)
            command = write_same_16(rig, 0, SIZE // 512, PATTERN)
            rig.settle()
            if later:
                failing.made[0].errback(OSError(errno.EIO, "I/O error"))
                rig.settle()
            self.assertEqual((command.sense_code, disk.names), (WRITE_ERROR, ["write"] * 3))
            again = rig.initiator.write(0, bytes(512))
            rig.settle()
            self.assertEqual(again.status, GOOD)

    def test_abort(self) -> None:
        """Aborted, it writes no more; its range is busy until the piece under way has been let go."""
        write = Later(Held)
        disk = Disk(SIZE, write=write)
        rig = self.rig(disk)
        command = write_same_16(rig, 0, SIZE // 512, PATTERN)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        newer = rig.initiator.write(4096, b"n" * 512)
        rig.settle()
        self.assertEqual((command.status, disk.names, newer.done), (TASK_ABORTED, ["write"], False))
        disk.script.clear()
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((newer.status, disk.calls[1:]), (GOOD, [("write", 4096 * 512, 512)]))

    def test_abort_between_pieces(self) -> None:
        """Aborted while it gives others their turn, it writes no more either."""
        disk = Disk(SIZE)
        rig = self.rig(disk)
        command = write_same_16(rig, 0, SIZE // 512, PATTERN)
        rig.reactor.turn(2)
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual(command.status, TASK_ABORTED)
        self.assertLess(len(disk.calls), 8)
        newer = rig.initiator.write(0, b"n" * 512)
        rig.settle()
        self.assertEqual(newer.status, GOOD)

    def test_durability(self) -> None:
        """Without a write cache it ends when all of it is durable, with one flush."""
        for data, flags in ((PATTERN, 0), (bytes(512), 0), (b"", NDOB | UNMAP)):
            disk = ZeroingDisk(SIZE)
            disk.put(0, b"?" * SIZE)
            rig = self.rig(disk)
            rig.initiator.cache_writes(False)
            rig.settle()
            disk.calls.clear()
            command = write_same_16(rig, 0, 5000, data, flags)
            rig.settle()
            self.assertEqual((command.status, disk.names.count("flush")), (GOOD, 1))
            self.assertEqual(disk.durable[: 5000 * 512], (data or bytes(512)) * 5000)


@implementer(IBlockStatus)
class Mapped(ThinDisk):
    """Says what ``script["extents"]`` says."""

    def extents(self, offset: int, length: int) -> Any:
        self.calls.append(("extents", offset, length))
        return self.script["extents"](offset, length)


def descriptors(data: bytes) -> list[tuple[int, int, int]]:
    """Return LBA, number of blocks and PROVISIONING STATUS of each descriptor."""
    return [unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]


class GetLBAStatusTests(RigTestCase):
    EXTENTS = ((4096, True), (512, False), (100, False), (412, True))

    def test_extents(self) -> None:
        """What the backstore says, at once or later, is told in whole blocks; the rest of the buffer is a residual."""
        for wait in (False, True):
            later = Later()
            disk = Mapped(SIZE, extents=later if wait else lambda *_: list(self.EXTENTS))
            rig = self.rig(disk)
            command = rig.initiator.get_lba_status(8)
            rig.settle()
            if wait:
                self.assertFalse(command.done)
                later.made[0].callback(list(self.EXTENTS))
                rig.settle()
            self.assertEqual((command.status, disk.calls), (GOOD, [("extents", 4096, SIZE - 4096)]))
            self.assertEqual(descriptors(command.data), [(8, 8, 0), (16, 1, 1), (17, 1, 0)])
            self.assertEqual(command.data[:8], pack(">I4x", 4 + 48))
            self.assertEqual(command.residual, 4096 - len(command.data))

    def test_allocation_length(self) -> None:
        """The reply has as many whole descriptors as there is room for, one at least, cut as it may be."""
        disk = Mapped(SIZE, extents=lambda *_: list(self.EXTENTS))
        rig = self.rig(disk)
        for length, told in ((24, 1), (39, 1), (40, 2), (56, 3), (4096, 3)):
            command = rig.initiator.get_lba_status(8, length)
            rig.settle()
            self.assertEqual(len(descriptors(command.data)), told)
            self.assertEqual(int.from_bytes(command.data[:4], "big"), 4 + 16 * told)
        command = rig.initiator.get_lba_status(8, 4)
        rig.settle()
        self.assertEqual(command.data, pack(">I", 20))

    def test_beyond_the_medium(self) -> None:
        """What a backstore says of bytes behind the medium is not told."""
        disk = Mapped(SIZE, extents=lambda *_: [(1024, True), (SIZE, False), (SIZE, True)])
        rig = self.rig(disk)
        command = rig.initiator.get_lba_status(SIZE // 512 - 4)
        rig.settle()
        self.assertEqual(descriptors(command.data), [(SIZE // 512 - 4, 2, 0), (SIZE // 512 - 2, 2, 1)])

    def test_mapped(self) -> None:
        """Without somebody who knows, or without a way to give blocks back, all of the medium is mapped."""

        @implementer(IBlockStatus)
        class Thick(Disk):
            def extents(self, offset: int, length: int) -> Any:
                raise AssertionError("a thick disk need not be asked")

        for disk in (ScriptedBackstore(SIZE), ThinDisk(SIZE), Thick(SIZE)):
            rig = self.rig(disk)
            command = rig.initiator.get_lba_status(8)
            rig.settle()
            self.assertEqual((command.status, descriptors(command.data)), (GOOD, [(8, SIZE // 512 - 8, 0)]))

    def test_failure(self) -> None:
        """A backstore that fails, or says nothing, fails the command."""

        def fail(*_: Any) -> Any:
            raise OSError(errno.EIO, "I/O error")

        rig = self.rig(Mapped(SIZE, extents=fail))
        command = rig.initiator.get_lba_status(0)
        rig.settle()
        self.assertEqual(command.sense_code, (3, 0x11, 0))
        rig = self.rig(Mapped(SIZE, extents=lambda *_: []))
        command = rig.initiator.get_lba_status(0)
        rig.settle()
        self.assertEqual(command.sense_code, HARDWARE_ERROR)

    def test_behind_the_medium(self) -> None:
        """The last block can be asked for, the one behind it cannot."""
        rig = self.rig(ThinDisk(SIZE))
        good, bad = rig.initiator.get_lba_status(SIZE // 512 - 1), rig.initiator.get_lba_status(SIZE // 512)
        rig.settle()
        self.assertEqual((good.status, bad.sense_code), (GOOD, (5, 0x21, 0)))


SENT = {"z": bytes(512), "p": PATTERN, "q": b"q" * 512}
STEPS = st.lists(
    st.tuples(
        st.integers(0, 39),
        st.integers(0, 45),
        st.sampled_from("zpq"),
        st.sampled_from([0, NDOB, UNMAP, UNMAP | NDOB]),
        st.booleans(),
    ),
    max_size=20,
)


class ModelTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(steps=STEPS, seed=st.integers(0, 1000), kind=st.sampled_from([Disk, ThinDisk, ZeroingDisk]))
    def test_any_order(self, steps: list[Any], seed: int, kind: type[Disk]) -> None:
        """Whatever the backstore can do, and whenever it does it, the disk ends as an array of bytes would."""
        random = Random(seed)
        pending: list[Any] = []
        later = Later()

        def sometimes(*_: Any) -> Any:
            if random.random() < 0.5:
                return None
            pending.append(later())
            return pending[-1]

        disk = kind(40 * 512, **dict.fromkeys(("write", "write_zeroes", "discard"), sometimes))
        rig = Rig(disk)
        model = bytearray(40 * 512)
        commands = []
        for lba, blocks, block, flags, sixteen in steps:
            flags &= UNMAP | (NDOB if sixteen else 0)
            sent = b"" if flags & NDOB else SENT[block]
            command = (write_same_16 if sixteen else write_same_10)(rig, lba, blocks, sent, flags)
            length = (blocks or 40 - lba) * 512
            good = lba * 512 + length <= len(model) and (kind is not Disk or not flags & UNMAP)
            commands.append((command, GOOD if good else 0x02))
            if good:
                model[lba * 512 : lba * 512 + length] = (sent or bytes(512)) * (length // 512)
            rig.settle()
            if pending and random.random() < 0.5:
                pending.pop(random.randrange(len(pending))).callback(None)
        rig.settle()
        while pending:
            pending.pop(random.randrange(len(pending))).callback(None)
            rig.settle()
        self.assertEqual([command.status for command, _ in commands], [status for _, status in commands])
        self.assertEqual(disk.content, model)
        disk.script.clear()
        rig.close()
