"""What a TCMU device does, as tests that run unchanged on the fake kernel and on the real one.

A :class:`Bench` is one device with its initiator, its administrator and our :class:`~txtcmu.kernel.ring.Ring`, empty
at first: ``tests/testing/test_fake_is_real.py`` makes it of the fake kernel, ``tests/kernel/test_fake_and_real.py`` of
``/dev/uioN`` and a loopback LUN.  What they disagree on is a mistake of the fake.
"""

from __future__ import annotations

import errno
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from struct import pack_into
from typing import Protocol

import pytest

from txtcmu.kernel import abi
from txtcmu.kernel.ring import Command, Ring, TaskManagement
from txtcmu.kernel.uio import UIO

__all__ = ["COMMUNICATION_FAILURE", "PAGE", "Bench", "BrokenRingSuite", "RingSuite", "Sent"]

PAGE = 4096
RING_SIZE = (1 << 20) - 128
BASE = abi.MAILBOX_SIZE
TEST_UNIT_READY = bytes(6)
READ_10 = bytes([0x28]) + bytes(9)
WRITE_10 = bytes([0x2A]) + bytes(9)
GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL, TASK_ABORTED = 0x00, 0x02, 0x08, 0x28, 0x40
SENSE = bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
DESCRIPTOR_SENSE = bytes([0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xC0, 0, 2, 0])
COMMUNICATION_FAILURE = (2, 8, 0)
ABORT_TASK = 1
CDB_LENGTHS = {0x08: 6, 0x28: 10, 0x5A: 10, 0x60: 12, 0x88: 16, 0xA8: 12, 0xC1: 10, 0xE1: 10}


class Sent(Protocol):
    """A command as its initiator sees it: :class:`~txtcmu.testing.fakecommand.FakeCommand`, or one of SG_IO."""

    @property
    def done(self) -> bool: ...
    @property
    def status(self) -> int: ...
    @property
    def sense(self) -> bytes: ...
    @property
    def sense_code(self) -> tuple[int, int, int] | None: ...
    @property
    def data(self) -> bytes: ...
    @property
    def residual(self) -> int: ...


class Bench(ABC):
    """One device: a ring of 1 MiB, a data area of ``data_area_mb``, aborts told to us."""

    uio: UIO
    ring: Ring

    @abstractmethod
    def send(self, cdb: bytes, data_out: bytes = b"", data_in_length: int = 0, seconds: float = 60) -> Sent:
        """Have the initiator send a command; it aborts it after ``seconds``."""

    @abstractmethod
    def abort(self, sent: Sent) -> None:
        """Have the initiator abort a command, as it does when its time is over."""

    @abstractmethod
    def again(self, sent: Sent, status: int = BUSY) -> Sent:
        """Return what comes of a command that was answered BUSY or TASK SET FULL: an initiator sends it again.

        Linux's does so by itself, when nothing else of its own is in flight, and tells nobody until it gives up.
        """

    @abstractmethod
    def until(self, condition: Callable[[], object], what: str, seconds: float = 0) -> None:
        """Let events happen, and ``seconds`` pass if need be, until ``condition`` holds."""

    @abstractmethod
    def write(self, name: str, value: int) -> None:
        """Write a file of ``action`` or ``attrib``."""

    @abstractmethod
    def doorbell(self, *, wrong: bool = False) -> None:
        """Ring the doorbell; ``wrong``: on what no TCMU user may do."""

    @abstractmethod
    def open(self) -> UIO:
        """Open the UIO device."""

    @abstractmethod
    def remove(self) -> None:
        """Remove LUN and device; no command may be outstanding."""

    @property
    def memory(self) -> memoryview:
        """The whole map."""
        return self.uio.memory

    def word(self, index: int) -> int:
        """Return a word of the mailbox."""
        return int.from_bytes(self.memory[4 * index : 4 * index + 4], "little")

    @property
    def head(self) -> int:
        """cmd_head."""
        return self.word(abi.CMD_HEAD_WORD)

    def entry(self) -> Command | TaskManagement:
        """Return the next entry, which must come."""
        found: list[Command | TaskManagement] = []

        def taken() -> bool:
            entry = self.ring.take()
            if entry is not None:
                found.append(entry)
            return bool(found)

        self.until(taken, "an entry")
        return found[0]

    def take(self) -> Command:
        """Return the next entry, which must be a command."""
        entry = self.entry()
        assert isinstance(entry, Command)
        return entry

    def tell(self) -> None:
        """Publish what was completed, and ring."""
        assert self.ring.publish()
        self.doorbell()

    def answer(self, sent: Sent, command: Command, status: int = GOOD, sense: bytes = b"") -> None:
        """End a command, and see its initiator's wait end."""
        self.ring.complete(command, status, sense)
        self.tell()
        self.until(lambda: sent.done, "the initiator's answer")

    def round_trip(self) -> None:
        """See that a command is answered."""
        sent = self.send(READ_10, data_in_length=512)
        command = self.take()
        command.buffers[0][:] = b"r" * 512
        self.answer(sent, command)
        assert (sent.status, sent.data, sent.residual) == (GOOD, b"r" * 512, 0)

    def reset(self, kind: int) -> None:
        """Reset the ring, and attach to it anew."""
        self.ring.close()
        self.write("reset_ring", kind)
        self.uio.close()
        self.uio = self.open()
        self.ring = Ring(self.memory)

    def reopen(self) -> None:
        """Close the device as a daemon that ends, and open it as the next one."""
        self.ring.close()
        self.uio.close()
        self.uio = self.open()
        self.ring = Ring(self.memory)

    def header(self, offset: int) -> tuple[int, int, int]:
        """Return opcode, length and cmd_id of the entry at ``offset`` of the ring."""
        len_op, cmd_id, _, _ = abi.HEADER.unpack_from(self.memory, BASE + offset)
        return len_op & abi.OP_MASK, len_op & ~abi.OP_MASK, cmd_id

    def iovecs(self, offset: int) -> list[tuple[float, int]]:
        """Return the iovecs of the CMD entry at ``offset``: page of the data area, length."""
        count = abi.REQUEST.unpack_from(self.memory, BASE + offset)[4]
        start = BASE + offset + abi.IOVECS_OFFSET
        data = BASE + RING_SIZE
        found = abi.IOVEC.iter_unpack(bytes(self.memory[start : start + count * abi.IOVEC.size]))
        return [((base - data) / PAGE, length) for base, length in found]


Maker = Callable[..., Bench]


class _Suite:
    """Tests get benches of ``make``, of other sizes and time-outs than usual if need be."""

    @pytest.fixture
    def bench(self, make: Maker) -> Bench:
        return make()


class BrokenRingSuite(_Suite):
    """What happens when we do what no TCMU user may do; the kernel complains."""

    @pytest.mark.parametrize("wrong_id", [7, 0], ids=["unknown", "zero"])
    def test_broken(self, bench: Bench, wrong_id: int) -> None:
        """A wrong cmd_id breaks the ring: new commands fail at once, until a reset, after which all is well."""
        sent = bench.send(WRITE_10, b"w" * 512)
        bench.ring.complete(bench.take(), GOOD)
        abi.CMD_ID.pack_into(bench.memory, BASE + abi.CMD_ID_OFFSET, wrong_id)
        assert bench.ring.publish()
        bench.doorbell(wrong=True)
        assert not sent.done
        for _ in range(2):
            refused = bench.send(TEST_UNIT_READY)
            bench.until(lambda refused=refused: refused.done, "the failure")  # type: ignore[misc]
            assert (refused.status, refused.sense_code) == (CHECK_CONDITION, COMMUNICATION_FAILURE)
        assert bench.ring.take() is None
        bench.doorbell()
        assert not sent.done
        bench.reset(1)
        sent = bench.again(sent)
        command = bench.take()
        assert bytes(command.buffers[0]) == b"w" * 512
        bench.answer(sent, command)
        assert sent.status == GOOD
        bench.round_trip()

    def test_broken_by_keeping_twice(self, bench: Bench) -> None:
        """A second completion of a kept command breaks the ring, too."""
        first = bench.send(WRITE_10, b"w" * 512)
        kept = bench.take()
        second = bench.send(TEST_UNIT_READY)
        bench.take()
        bench.ring.complete(kept, GOOD, keep=True)
        bench.tell()
        bench.until(lambda: first.done, "the answer")
        at = BASE + 128
        abi.CMD_ID.pack_into(bench.memory, at + abi.CMD_ID_OFFSET, kept.cmd_id)
        abi.RESPONSE.pack_into(bench.memory, at + abi.RESPONSE_OFFSET, 0, GOOD, 0)
        pack_into("=I", bench.memory, 4 * abi.CMD_TAIL_WORD, bench.head)
        bench.doorbell(wrong=True)
        refused = bench.send(TEST_UNIT_READY)
        bench.until(lambda: refused.done, "the failure")
        assert refused.sense_code == COMMUNICATION_FAILURE
        bench.reset(1)
        second = bench.again(second)
        bench.answer(second, bench.take())
        bench.round_trip()


class RingSuite(_Suite):
    """What happens when we do what we may."""

    # The map and what is in it.

    def test_mailbox(self, bench: Bench) -> None:
        """The mailbox says version 2, every capability, and where the ring is; the data area follows it."""
        assert abi.MAILBOX.unpack_from(bench.memory) == (2, 0x0F, BASE, RING_SIZE)
        assert len(bench.memory) == (1 << 20) + (8 << 20)
        assert (bench.head, bench.word(abi.CMD_TAIL_WORD)) == (0, 0)

    def test_entry_without_data(self, bench: Bench) -> None:
        """An entry is 112 bytes and the CDB rounded up to 8; what is not used of it is zero."""
        sent = bench.send(TEST_UNIT_READY)
        command = bench.take()
        assert bench.head == 120
        expected = bytearray(120)
        pack_into("=IHBBIII4xQ", expected, 0, 120 | abi.OP_CMD, 1, 0, 0, 0, 0, 0, BASE + 112)
        assert bytes(bench.memory[BASE : BASE + 120]) == expected
        assert (command.cmd_id, command.cdb, command.length) == (1, TEST_UNIT_READY, 0)
        bench.answer(sent, command)
        assert (sent.status, sent.data) == (GOOD, b"")

    @pytest.mark.parametrize("opcode", CDB_LENGTHS)
    def test_cdb_length(self, bench: Bench, opcode: int) -> None:
        """As many bytes of a CDB are copied as its group code says, of the vendors' groups ten."""
        length = CDB_LENGTHS[opcode]
        sent = bench.send(bytes([opcode, 0, *range(2, 16)])[: max(length, 16 if opcode >= 0xC0 else 0)])
        command = bench.take()
        assert command.cdb == bytes([opcode, 0, *range(2, 16)])[:length]
        size = 112 + -(-length // 8) * 8
        assert bench.head == size
        assert bytes(bench.memory[BASE + 112 + length : BASE + size]) == bytes(size - 112 - length)
        bench.answer(sent, command)

    def test_variable_length_cdb(self, bench: Bench) -> None:
        """A CDB of operation code 7Fh is as long as its byte 7 says."""
        cdb = bytes([0x7F, 0, 0, 0, 0, 0, 0, 24, *range(24)])
        sent = bench.send(cdb)
        command = bench.take()
        assert (command.cdb, bench.head) == (cdb, 112 + 32)
        bench.answer(sent, command)

    @pytest.mark.parametrize("length", [512, 5000, 65536])
    def test_data_out(self, bench: Bench, length: int) -> None:
        """Data-Out lies in one window of a new data area, from its first page on."""
        data = bytes(number * 7 % 251 for number in range(length))
        sent = bench.send(WRITE_10, data)
        command = bench.take()
        assert bench.iovecs(0) == [(0, length)]
        assert bytes(command.buffers[0]) == data
        bench.answer(sent, command)
        assert (sent.status, sent.residual) == (GOOD, 0)

    def test_scattered(self, bench: Bench) -> None:
        """Pages are taken from the lowest on; neighbours make one iovec, also of five, and the entry grows."""
        single = [bench.send(READ_10, data_in_length=PAGE) for _ in range(9)]
        commands = {}
        for number in range(9):
            commands[number] = bench.take()
        for number in (0, 2, 4, 6):  # one after the other: which initiator is which does not matter
            commands[number].buffers[0][:] = bytes(PAGE)
            bench.ring.complete(commands.pop(number), GOOD)
        bench.tell()
        bench.until(lambda: sum(sent.done for sent in single) == 4, "four answers")
        at = bench.head
        sent = bench.send(READ_10, data_in_length=6 * PAGE)
        command = bench.take()
        assert bench.iovecs(at) == [(0, PAGE), (2, PAGE), (4, PAGE), (6, PAGE), (9, 2 * PAGE)]
        assert bench.header(at)[:2] == (abi.OP_CMD, 48 + 5 * 16 + 16)
        data = b"".join(bytes([number]) * PAGE for number in range(6))
        for number, buffer in enumerate(command.buffers):
            buffer[:] = data[number * PAGE : number * PAGE + len(buffer)]
        bench.answer(sent, command)
        assert sent.data == data
        for command in commands.values():
            command.buffers[0][:] = bytes(PAGE)
            bench.ring.complete(command, GOOD)
        bench.tell()
        bench.until(lambda: all(sent.done for sent in single), "all answers")

    def test_wrap(self, make: Maker) -> None:
        """What does not fit before the end of the ring goes to its beginning, behind a PAD, here of eight bytes."""
        bench = make(quick=True)
        entries, rest = divmod(RING_SIZE, 120)
        assert rest == 8
        left = entries
        while left:
            batch = [bench.send(TEST_UNIT_READY) for _ in range(min(left, 64))]
            for _ in batch:
                bench.ring.complete(bench.take(), GOOD)
            bench.tell()
            bench.until(lambda batch=batch: all(sent.done for sent in batch), "a batch")  # type: ignore[misc]
            left -= len(batch)
        assert bench.head == RING_SIZE - 8
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        assert bench.header(RING_SIZE - 8)[:2] == (abi.OP_PAD, 8)
        assert (bench.header(0)[:2], bench.head) == ((abi.OP_CMD, 128), 128)
        command.buffers[0][:] = b"w" * 512
        bench.answer(sent, command)
        assert sent.data == b"w" * 512

    # Completions.

    def test_any_order(self, bench: Bench) -> None:
        """The n-th completion goes into the n-th slot, under its own id: each initiator has its own data."""
        sent = {}
        commands = {}
        for number in range(4):
            sent[number] = bench.send(READ_10, data_in_length=512)
            commands[number] = bench.take()
            assert commands[number].cmd_id == number + 1
        for number in (2, 0, 3, 1):
            commands[number].buffers[0][:] = bytes([number]) * 512
            bench.answer(sent[number], commands[number])
            assert sent[number].data == bytes([number]) * 512
        assert [sent[number].status for number in range(4)] == [GOOD] * 4
        assert bench.head == bench.word(abi.CMD_TAIL_WORD)

    def test_lowest_id(self, bench: Bench) -> None:
        """The lowest free cmd_id is used again at once."""
        first, second, third = (bench.send(TEST_UNIT_READY) for _ in range(3))
        commands = [bench.take() for _ in range(3)]
        assert [command.cmd_id for command in commands] == [1, 2, 3]
        bench.ring.complete(commands[1], GOOD)
        bench.tell()
        bench.until(lambda: sum(sent.done for sent in (first, second, third)) == 1, "one answer")
        fourth = bench.send(TEST_UNIT_READY)
        again = bench.take()
        assert again.cmd_id == 2
        for command in (commands[0], commands[2], again):
            bench.ring.complete(command, GOOD)
        bench.tell()
        bench.until(lambda: first.done and second.done and third.done and fourth.done, "all answers")

    @pytest.mark.parametrize("sense", [SENSE, DESCRIPTOR_SENSE], ids=["fixed", "descriptor"])
    def test_sense(self, bench: Bench, sense: bytes) -> None:
        """Sense data reaches the initiator, and with it no Data-In."""
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        command.buffers[0][:] = b"s" * 512
        bench.answer(sent, command, CHECK_CONDITION, sense)
        assert (sent.status, sent.sense[: len(sense)]) == (CHECK_CONDITION, sense)
        assert b"s" not in sent.data

    @pytest.mark.parametrize("status", [GOOD, 0x04, 0x18, 0x30, TASK_ABORTED], ids=hex)
    def test_status(self, bench: Bench, status: int) -> None:
        """Any other SAM status reaches it as it is, and the Data-In with it."""
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        command.buffers[0][:] = b"s" * 512
        bench.answer(sent, command, status)
        assert (sent.status, sent.data) == (status, b"s" * 512)

    @pytest.mark.parametrize("length", [1, 100, 512])
    def test_read_len(self, bench: Bench, length: int) -> None:
        """READ_LEN: so many bytes and no more reach the initiator, which is told of the residual."""
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        command.buffers[0][:] = b"s" * 512
        command.read_len = length
        bench.answer(sent, command)
        assert (sent.status, sent.residual) == (GOOD, 512 - length)
        assert sent.data.rstrip(b"\0") == b"s" * length

    def test_read_len_with_sense(self, bench: Bench) -> None:
        """READ_LEN: data and sense data both reach the initiator."""
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        command.buffers[0][:] = b"s" * 512
        command.read_len = 100
        bench.answer(sent, command, CHECK_CONDITION, SENSE)
        assert (sent.status, sent.sense[: len(SENSE)], sent.residual) == (CHECK_CONDITION, SENSE, 412)
        assert sent.data.rstrip(b"\0") == b"s" * 100

    def test_read_len_for_data_out(self, bench: Bench) -> None:
        """READ_LEN means nothing to a command that sends."""
        sent = bench.send(WRITE_10, b"w" * 512)
        command = bench.take()
        command.read_len = 100
        bench.answer(sent, command)
        assert (sent.status, sent.residual) == (GOOD, 0)

    def test_unknown_operation(self, bench: Bench) -> None:
        """UNKNOWN_OP in a response is a hard failure, without our sense data."""
        sent = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        bench.ring.complete(command, CHECK_CONDITION, SENSE)
        bench.memory[BASE + abi.UFLAGS_OFFSET] = abi.UFLAG_UNKNOWN_OP
        bench.tell()
        bench.until(lambda: sent.done, "the answer")
        assert (sent.status, sent.sense_code) == (CHECK_CONDITION, COMMUNICATION_FAILURE)

    def test_block_dev_reads_the_tail(self, bench: Bench) -> None:
        """What cmd_tail has passed can be consumed without a doorbell."""
        sent = bench.send(TEST_UNIT_READY)
        bench.ring.complete(bench.take(), GOOD)
        assert bench.ring.publish()
        bench.write("block_dev", 1)
        bench.until(lambda: sent.done, "the answer")
        assert sent.status == GOOD
        bench.write("block_dev", 0)
        bench.round_trip()

    # Aborts, time, room.

    def test_task_management(self, bench: Bench) -> None:
        """An abort comes behind the command that it names, which ends when we end it."""
        sent = bench.send(READ_10, data_in_length=512, seconds=2)
        command = bench.take()
        bench.abort(sent)
        request = bench.entry()
        assert isinstance(request, TaskManagement)
        assert (request.kind, request.commands) == (ABORT_TASK, [command])
        assert bench.header(128)[:2] == (abi.OP_TMR, 40)
        command.buffers[0][:] = bytes(512)
        bench.answer(sent, command, TASK_ABORTED)
        bench.round_trip()

    def test_kept_buffer(self, bench: Bench) -> None:
        """KEEP_BUF: the initiator has its answer; pages and id are ours until free_kept_buf."""
        sent = bench.send(WRITE_10, b"k" * PAGE)
        kept = bench.take()
        bench.ring.complete(kept, GOOD, keep=True)
        bench.tell()
        bench.until(lambda: sent.done, "the answer")
        assert (sent.status, bytes(kept.buffers[0])) == (GOOD, b"k" * PAGE)
        at = bench.head
        other = bench.send(WRITE_10, b"o" * PAGE)
        command = bench.take()
        assert (command.cmd_id, bench.iovecs(at)) == (2, [(1, PAGE)])
        assert bytes(kept.buffers[0]) == b"k" * PAGE
        bench.answer(other, command)
        bench.ring.kept_freed(kept)
        bench.write("free_kept_buf", 1)
        at = bench.head
        last = bench.send(WRITE_10, b"l" * PAGE)
        command = bench.take()
        assert (command.cmd_id, bench.iovecs(at)) == (1, [(0, PAGE)])
        bench.answer(last, command)

    def test_free_what_is_not_kept(self, bench: Bench) -> None:
        """free_kept_buf of an id that is free, or not kept, is refused."""
        sent = bench.send(TEST_UNIT_READY)
        command = bench.take()
        for cmd_id in (1, 7):
            with pytest.raises(OSError, match=r".") as caught:
                bench.write("free_kept_buf", cmd_id)
            assert caught.value.errno == errno.EINVAL
        bench.answer(sent, command)

    def test_kept_buffer_of_a_dead_daemon(self, bench: Bench) -> None:
        """Closing the device frees what was kept."""
        sent = bench.send(WRITE_10, b"k" * PAGE)
        bench.ring.complete(bench.take(), GOOD, keep=True)
        bench.tell()
        bench.until(lambda: sent.done, "the answer")
        bench.reopen()
        at = bench.head
        other = bench.send(WRITE_10, b"o" * PAGE)
        command = bench.take()
        assert (command.cmd_id, bench.iovecs(at)) == (1, [(0, PAGE)])
        bench.answer(other, command)

    def test_reopened(self, bench: Bench) -> None:
        """Commands outlive a daemon: the next one finds them in the ring, and no event tells of them."""
        with pytest.raises(OSError, match=r".") as caught:
            bench.open()
        assert getattr(caught.value, "errno", None) == errno.EBUSY
        sent = bench.send(WRITE_10, b"d" * 512)
        bench.until(lambda: bench.head == 128, "the entry")
        bench.reopen()
        assert select.select([bench.uio.fileno()], [], [], 0)[0] == []
        command = bench.take()
        assert bytes(command.buffers[0]) == b"d" * 512
        bench.answer(sent, command)

    def test_events(self, bench: Bench) -> None:
        """The descriptor is readable after a command, until the event is acknowledged."""
        sent = bench.send(TEST_UNIT_READY)
        bench.until(lambda: select.select([bench.uio.fileno()], [], [], 0)[0], "an event")
        bench.uio.acknowledge()
        assert select.select([bench.uio.fileno()], [], [], 0)[0] == []
        bench.uio.acknowledge()
        bench.answer(sent, bench.take())

    def test_cmd_time_out(self, make: Maker) -> None:
        """What takes too long ends without us; our late completion is due all the same, and frees id and pages."""
        bench = make(cmd_time_out=2)
        sent = bench.send(READ_10, data_in_length=PAGE)
        command = bench.take()
        bench.until(lambda: sent.done, "the kernel's patience", 2)
        assert (sent.status, sent.sense_code) == (CHECK_CONDITION, COMMUNICATION_FAILURE)
        at = bench.head
        other = bench.send(READ_10, data_in_length=PAGE)
        second = bench.take()
        assert (second.cmd_id, bench.iovecs(at)) == (2, [(1, PAGE)])
        for each in (command, second):
            each.buffers[0][:] = bytes(PAGE)
        bench.ring.complete(command, GOOD)
        bench.answer(other, second)
        at = bench.head
        last = bench.send(READ_10, data_in_length=PAGE)
        third = bench.take()
        assert (third.cmd_id, bench.iovecs(at)) == (1, [(0, PAGE)])
        third.buffers[0][:] = bytes(PAGE)
        bench.answer(last, third)

    def test_no_room(self, make: Maker) -> None:
        """What finds no room waits, and all behind it, even what would fit; they come when pages are free."""
        bench = make(data_area_mb=1)
        large = bench.send(READ_10, data_in_length=768 << 10)
        command = bench.take()
        second = bench.send(READ_10, data_in_length=512 << 10)
        third = bench.send(TEST_UNIT_READY)
        at = bench.head
        command.buffers[0][:] = bytes(768 << 10)
        assert bench.ring.take() is None
        bench.answer(large, command)
        commands = [bench.take(), bench.take()]
        assert sorted(each.length for each in commands) == [0, 512 << 10]
        assert at == 128
        for each in commands:
            for buffer in each.buffers:
                buffer[:] = bytes(len(buffer))
            bench.ring.complete(each, GOOD)
        bench.tell()
        bench.until(lambda: second.done and third.done, "all answers")

    def test_no_room_and_no_time(self, make: Maker) -> None:
        """With qfull_time_out=0 what finds no room is answered TASK SET FULL at once, and fits when it comes again."""
        bench = make(data_area_mb=1)
        bench.write("qfull_time_out", 0)
        large = bench.send(READ_10, data_in_length=768 << 10)
        command = bench.take()
        sent = bench.send(READ_10, data_in_length=512 << 10)
        assert bench.ring.take() is None
        command.buffers[0][:] = bytes(768 << 10)
        bench.answer(large, command)
        sent = bench.again(sent, TASK_SET_FULL)
        command = bench.take()
        for buffer in command.buffers:
            buffer[:] = bytes(len(buffer))
        bench.answer(sent, command)

    # The administrator.

    def test_reset(self, bench: Bench) -> None:
        """reset_ring=1: the ring is empty, commands are BUSY and come again under ids that are free again."""
        sent = bench.send(WRITE_10, b"w" * 512)
        old = bench.take()
        bench.reset(1)
        sent = bench.again(sent)
        command = bench.take()
        assert (command.cmd_id, bytes(command.buffers[0])) == (old.cmd_id, b"w" * 512)
        assert bench.header(0) == (abi.OP_CMD, 128, 1)
        assert bench.word(abi.CMD_TAIL_WORD) == 0
        bench.answer(sent, command)
        assert sent.status == GOOD

    def test_hard_reset(self, bench: Bench) -> None:
        """reset_ring=2: commands fail for good."""
        sent = bench.send(WRITE_10, b"w" * 512)
        bench.take()
        bench.reset(2)
        bench.until(lambda: sent.done, "the answer")
        assert (sent.status, sent.sense_code) == (CHECK_CONDITION, COMMUNICATION_FAILURE)
        assert bench.ring.take() is None
        bench.round_trip()

    def test_nonsense_is_refused(self, bench: Bench) -> None:
        """reset_ring is 1 or 2."""
        for value in (0, 3):
            with pytest.raises(OSError, match=r".") as caught:
                bench.write("reset_ring", value)
            assert caught.value.errno == errno.EINVAL

    def test_blocked(self, bench: Bench) -> None:
        """While the device is blocked new commands are BUSY; those in flight are untouched."""
        before = bench.send(READ_10, data_in_length=512)
        command = bench.take()
        bench.write("block_dev", 1)
        at = bench.head
        sent = bench.send(TEST_UNIT_READY, seconds=2)
        command.buffers[0][:] = b"b" * 512
        bench.answer(before, command)
        assert before.data == b"b" * 512
        bench.until(lambda: sent.done, "the answer")
        assert (sent.status, bench.head) == (BUSY, at)
        bench.write("block_dev", 0)
        bench.round_trip()

    def test_removed(self, bench: Bench) -> None:
        """Of a device that is gone the descriptor is readable, EIO when read, and no doorbell is heard."""
        bench.round_trip()
        bench.uio.acknowledge()
        bench.remove()
        assert select.select([bench.uio.fileno()], [], [], 5)[0]
        with pytest.raises(OSError, match=r".") as caught:
            bench.uio.acknowledge()
        assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match=r".") as caught:
            bench.uio.doorbell()
        assert caught.value.errno in (errno.EINVAL, errno.EIO)
        assert select.select([bench.uio.fileno()], [], [], 0)[0]
        with pytest.raises(OSError, match=r"."):
            bench.open()
