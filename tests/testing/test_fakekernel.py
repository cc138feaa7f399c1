"""The fake kernel: that it behaves, and that nobody misbehaves unseen.

The user side is written by hand here, byte by byte, so that it can do what :class:`txtcmu.kernel.ring.Ring` would
never do.
"""

from __future__ import annotations

import errno
import select

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.kernel import abi
from txtcmu.kernel.uio import UIO
from txtcmu.testing.fakekernel import FakeCommand, FakeKernel, RuleBroken
from txtcmu.testing.initiator import FakeInitiator

PAGE = 4096
BASE = abi.MAILBOX_SIZE
TEST_UNIT_READY = bytes(6)
READ_10 = bytes([0x28]) + bytes(9)
WRITE_10 = bytes([0x2A]) + bytes(9)
SENSE = bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL, TASK_ABORTED = 0x00, 0x02, 0x08, 0x28, 0x40
COMMUNICATION_FAILURE = (2, 8, 0)


class KernelTestCase(SynchronousTestCase):
    """A device with a ring of 4 KiB and 16 pages of data, and a user side of few words."""

    def setUp(self) -> None:
        """Make and open the device."""
        self.use(FakeKernel(4096 - BASE, 16 * PAGE))

    def use(self, kernel: FakeKernel) -> None:
        """Open another device."""
        self.kernel = kernel
        self.uio = kernel.open()
        self.memory = self.uio.memory
        self.words = self.memory[:BASE].cast("I")

    def at(self, offset: int) -> tuple[int, int, int]:
        """Return opcode, length and cmd_id of the entry at ``offset`` of the ring."""
        len_op, cmd_id, _, _ = abi.HEADER.unpack_from(self.memory, BASE + offset)
        return len_op & abi.OP_MASK, len_op & ~abi.OP_MASK, cmd_id

    def iovecs(self, offset: int) -> list[tuple[int, int]]:
        """Return the iovecs of the CMD entry at ``offset``, those of a bidirectional Data-In included."""
        count, bidi = abi.REQUEST.unpack_from(self.memory, BASE + offset)[4:6]
        start = BASE + offset + abi.IOVECS_OFFSET
        return list(abi.IOVEC.iter_unpack(bytes(self.memory[start : start + 16 * (count + bidi)])))

    def respond(
        self,
        offset: int,
        status: int = GOOD,
        sense: bytes = b"",
        cmd_id: int | None = None,
        uflags: int = 0,
        read_len: int = 0,
    ) -> int:
        """Write a response into the slot at ``offset``; return where the next one is."""
        at = BASE + offset
        if cmd_id is not None:
            abi.CMD_ID.pack_into(self.memory, at + abi.CMD_ID_OFFSET, cmd_id)
        abi.RESPONSE.pack_into(self.memory, at + abi.RESPONSE_OFFSET, uflags, status, read_len)
        self.memory[at + abi.SENSE_OFFSET : at + abi.ENTRY_SIZE] = sense.ljust(abi.SENSE_SIZE, b"\0")
        return offset + self.at(offset)[1]

    def tell(self, tail: int) -> None:
        """Store ``cmd_tail`` and ring."""
        self.words[abi.CMD_TAIL_WORD] = tail
        self.uio.doorbell()

    def answer(self, offset: int = 0, **how: object) -> int:
        """Respond to the command at ``offset``, and tell."""
        tail = self.respond(offset, **how)  # type: ignore[arg-type]
        self.tell(tail)
        return tail

    def fill(self, offset: int, data: bytes) -> None:
        """Write into the first iovec of the command at ``offset``."""
        base, _ = self.iovecs(offset)[0]
        self.memory[base : base + len(data)] = data

    def caught(self, words: str) -> None:
        """The doorbell must raise, say ``words``, and be remembered."""
        error = self.assertRaises(RuleBroken, self.uio.doorbell)
        self.assertIn(words, str(error))
        self.assertIn(words, "\n".join(self.kernel.violations))
        self.assertIn(words, str(self.assertRaises(RuleBroken, self.kernel.verify, drained=False)))


class EntryTests(KernelTestCase):
    def test_mailbox(self) -> None:
        """The mailbox says version 2, every capability, and where the ring is."""
        self.assertEqual(abi.MAILBOX.unpack_from(self.memory), (2, 0x0F, 128, 3968))
        self.assertEqual(len(self.memory), PAGE + 16 * PAGE)

    def test_write(self) -> None:
        """An entry describes the data in one iovec and the CDB behind the struct."""
        self.kernel.submit(WRITE_10, b"d" * 5000)
        self.assertEqual(self.at(0), (abi.OP_CMD, 128, 1))
        self.assertEqual(self.iovecs(0), [(PAGE, 5000)])
        self.assertEqual(bytes(self.memory[PAGE : PAGE + 5000]), b"d" * 5000)
        fields = abi.REQUEST.unpack_from(self.memory, BASE)
        self.assertEqual(fields[4:8], (1, 0, 0, BASE + 112))
        self.assertEqual(bytes(self.memory[BASE + 112 : BASE + 128]), WRITE_10 + bytes(6))

    def test_bidirectional(self) -> None:
        """Data-In has pages and iovecs of its own, behind those of Data-Out."""
        fake = self.kernel.submit(bytes([0x53]) + bytes(9), b"o" * 100, data_in_length=200)
        self.assertEqual(abi.REQUEST.unpack_from(self.memory, BASE)[4:6], (1, 1))
        self.assertEqual(self.iovecs(0), [(PAGE, 100), (2 * PAGE, 200)])
        self.memory[2 * PAGE : 2 * PAGE + 200] = b"i" * 200
        self.answer()
        self.assertEqual(fake.data, b"i" * 200)
        self.kernel.verify()

    def test_cdb_length(self) -> None:
        """As much of the CDB is copied as its group code says."""
        for opcode, length in ((0x00, 6), (0x28, 10), (0x5A, 10), (0x60, 12), (0x88, 16), (0xA8, 12), (0xC0, 10)):
            fake = self.kernel.submit(bytes([opcode]) + bytes(15))
            self.assertEqual(len(fake.cdb), length)
        self.assertEqual(len(self.kernel.submit(bytes([0x7F, 0, 0, 0, 0, 0, 0, 24])).cdb), 32)

    def test_fragments(self) -> None:
        """Pages come lowest first, neighbours in one iovec; a buffer between others has several."""
        first, second, third = (self.kernel.submit(WRITE_10, bytes(PAGE)) for _ in range(3))
        self.tell(self.respond(0, cmd_id=second.cmd_id))
        self.kernel.submit(WRITE_10, bytes(3 * PAGE))
        self.assertEqual(self.iovecs(3 * 128), [(2 * PAGE, PAGE), (4 * PAGE, 2 * PAGE)])
        self.assertFalse(first.done or third.done)

    def test_fragment_option(self) -> None:
        """With ``fragment`` no two pages of a buffer touch while there is a choice."""
        self.use(FakeKernel(4096 - BASE, 16 * PAGE, fragment=True))
        self.kernel.submit(WRITE_10, bytes(8 * PAGE))
        self.assertEqual([base for base, _ in self.iovecs(0)], [PAGE * (1 + 2 * each) for each in range(8)])
        self.assertEqual(self.at(0)[1], 48 + 8 * 16 + 16)

    def test_stale_bytes(self) -> None:
        """Data-In pages hold what the last command left there."""
        self.kernel.submit(WRITE_10, b"secret" * 10)
        tail = self.answer()
        leaked = self.kernel.submit(READ_10, data_in_length=60)
        self.answer(tail)
        self.assertEqual(leaked.data, b"secret" * 10)

    def test_pad(self) -> None:
        """An entry that does not fit before the end goes to the start, behind a PAD; eight bytes can be one."""
        self.use(FakeKernel(8 * 120 + 8))
        tail = 0
        for _ in range(8):
            self.kernel.submit(TEST_UNIT_READY)
            tail = self.answer(tail)
        self.kernel.submit(TEST_UNIT_READY)
        self.assertEqual(self.at(960), (abi.OP_PAD, 8, 0))
        self.respond(0)
        self.tell(120)
        self.kernel.verify()

    def test_ids(self) -> None:
        """The lowest free id is given out next."""
        fakes = [self.kernel.submit(TEST_UNIT_READY) for _ in range(3)]
        self.tell(self.respond(self.respond(0, cmd_id=2), cmd_id=1))
        self.assertEqual([fake.done for fake in fakes], [True, True, False])
        self.assertEqual([self.kernel.submit(TEST_UNIT_READY).cmd_id for _ in range(3)], [1, 2, 4])


class ResponseTests(KernelTestCase):
    def test_good(self) -> None:
        """All of Data-In is transferred."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        self.fill(0, b"r" * 512)
        self.assertFalse(fake.done)
        self.answer()
        self.assertEqual((fake.done, fake.status, fake.data, fake.sense), (True, GOOD, b"r" * 512, b""))
        self.kernel.verify()

    def test_check_condition(self) -> None:
        """Sense data is transferred, and Data-In is not."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        self.answer(status=CHECK_CONDITION, sense=SENSE)
        self.assertEqual((fake.status, fake.sense, fake.data), (CHECK_CONDITION, SENSE, b""))
        self.assertEqual(fake.sense_code, (5, 0x20, 0))

    def test_read_len(self) -> None:
        """READ_LEN cuts Data-In, and lets it pass with sense data."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        self.fill(0, b"r" * 512)
        self.answer(status=CHECK_CONDITION, sense=SENSE, uflags=abi.UFLAG_READ_LEN, read_len=100)
        self.assertEqual((fake.sense, fake.data, fake.residual), (SENSE, b"r" * 100, 412))

    def test_read_len_of_zero(self) -> None:
        """READ_LEN with no length is ignored."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        self.answer(uflags=abi.UFLAG_READ_LEN)
        self.assertEqual((len(fake.data), fake.residual), (512, 0))

    def test_unknown_op(self) -> None:
        """A command marked UNKNOWN_OP fails with what the target core makes of missing sense data."""
        fake = self.kernel.submit(TEST_UNIT_READY)
        self.answer(uflags=abi.UFLAG_UNKNOWN_OP)
        self.assertEqual((fake.status, fake.sense_code), (CHECK_CONDITION, COMMUNICATION_FAILURE))
        self.kernel.verify()

    def test_keep_buf(self) -> None:
        """A kept command is done, and its id and pages stay until they are freed."""
        fake = self.kernel.submit(WRITE_10, b"k" * 512)
        self.answer(uflags=abi.UFLAG_KEEP_BUF)
        self.assertEqual((fake.done, fake.kept, self.kernel.pages_in_use), (True, True, 1))
        self.assertIn("never completed", str(self.assertRaises(RuleBroken, self.kernel.verify)))
        self.memory[PAGE : PAGE + 5] = b"still"
        self.kernel.free_kept_buf(fake.cmd_id)
        self.assertEqual(self.kernel.pages_in_use, 0)
        self.kernel.verify()

    def test_free_kept_buf_of_another(self) -> None:
        """Only a kept buffer can be freed so."""
        self.kernel.submit(TEST_UNIT_READY)
        for cmd_id in (1, 2):
            self.assertEqual(self.assertRaises(OSError, self.kernel.free_kept_buf, cmd_id).errno, errno.EINVAL)

    def test_close_frees_kept_buffers(self) -> None:
        """Closing the device frees what it kept, and leaves what is pending."""
        self.kernel.submit(WRITE_10, b"k" * 512)
        pending = self.kernel.submit(TEST_UNIT_READY)
        self.answer(uflags=abi.UFLAG_KEEP_BUF)
        self.words.release()
        self.uio.close()
        self.assertEqual((self.kernel.pages_in_use, self.kernel.in_flight), (0, [pending]))
        self.use(self.kernel)
        self.answer(128)
        self.assertTrue(pending.done)
        self.kernel.verify()

    def test_when_done(self) -> None:
        """A Deferred fires when the answer is there, at once if it is."""
        fake = self.kernel.submit(TEST_UNIT_READY)
        waiting = fake.when_done()
        self.assertNoResult(waiting)
        self.answer()
        self.assertIs(self.successResultOf(waiting), fake)
        self.assertIs(self.successResultOf(fake.when_done()), fake)


class FullTests(KernelTestCase):
    def test_data_full(self) -> None:
        """A command that finds no pages waits, others behind it, until there are some."""
        big = self.kernel.submit(WRITE_10, bytes(16 * PAGE))
        waiting = [self.kernel.submit(WRITE_10, b"w" * 512), self.kernel.submit(TEST_UNIT_READY)]
        self.assertEqual((self.kernel.waiting, [fake.cmd_id for fake in waiting]), (2, [0, 0]))
        self.answer()
        self.assertEqual((big.done, [fake.cmd_id for fake in waiting]), (True, [1, 2]))

    def test_ring_full(self) -> None:
        """A command that finds no room in the ring waits as well."""
        fakes = [self.kernel.submit(TEST_UNIT_READY) for _ in range(40)]
        self.assertEqual(self.kernel.waiting, 40 - 3968 // 120)
        tail = 0
        while self.kernel.in_flight:
            tail = 0 if self.at(tail)[0] == abi.OP_PAD else tail
            tail = self.answer(tail)
        self.assertTrue(all(fake.done for fake in fakes))
        self.kernel.verify()

    def test_no_waiting(self) -> None:
        """With ``qfull_time_out`` 0 nobody waits."""
        self.kernel.qfull_time_out = 0
        self.kernel.submit(WRITE_10, bytes(16 * PAGE))
        self.assertEqual(self.kernel.submit(WRITE_10, b"x").status, TASK_SET_FULL)

    def test_too_large(self) -> None:
        """What can never fit fails at once."""
        self.assertEqual(self.kernel.submit(WRITE_10, bytes(17 * PAGE)).sense_code, (5, 0x24, 0))
        self.use(FakeKernel(256, 64 * PAGE, fragment=True))
        self.assertEqual(self.kernel.submit(WRITE_10, bytes(8 * PAGE)).sense_code, (5, 0x24, 0))
        self.assertEqual(self.kernel.pages_in_use, 0)

    def test_time_outs(self) -> None:
        """In flight and in the queue, time passes."""
        clock = Clock()
        self.use(FakeKernel(3968, PAGE, cmd_time_out=30, clock=clock))
        first = self.kernel.submit(WRITE_10, b"1")
        clock.advance(1)
        second = self.kernel.submit(WRITE_10, b"2")
        clock.advance(29)
        self.assertEqual((first.sense_code, first.expired, second.done), (COMMUNICATION_FAILURE, True, False))
        clock.advance(1)
        self.assertEqual(second.status, TASK_SET_FULL)
        self.assertIn("never completed", str(self.assertRaises(RuleBroken, self.kernel.verify)))
        self.answer()
        self.assertEqual(first.status, CHECK_CONDITION)
        self.kernel.verify()
        self.assertEqual(clock.getDelayedCalls(), [])


class TaskManagementTests(KernelTestCase):
    def abort_all(self) -> FakeCommand:
        """Abort one in flight and one that waits."""
        flying = self.kernel.submit(WRITE_10, bytes(16 * PAGE))
        waiting = self.kernel.submit(WRITE_10, b"w")
        self.kernel.lun_reset()
        self.assertEqual((waiting.done, waiting.status, flying.done), (True, TASK_ABORTED, False))
        return flying

    def test_unnoticed(self) -> None:
        """By default the user side does not hear of aborts."""
        self.abort_all()
        self.assertEqual(self.kernel.cmd_head, 128)

    def test_notification(self) -> None:
        """With tmr_notification an entry names the ids in flight."""
        self.kernel.tmr_notification = True
        flying = self.abort_all()
        self.assertEqual(self.at(128), (abi.OP_TMR, 40, 0))
        self.assertEqual(abi.TMR.unpack_from(self.memory, BASE + 128)[4:], (5, 1))
        self.assertEqual(abi.CMD_ID.unpack_from(self.memory, BASE + 128 + abi.TMR_IDS_OFFSET), (flying.cmd_id,))
        self.respond(0, TASK_ABORTED)
        self.tell(168)
        self.assertTrue(flying.aborted)
        self.assertEqual(flying.status, TASK_ABORTED)
        self.kernel.verify()

    def test_waiting_for_room(self) -> None:
        """An entry that finds no room comes later, before commands that wait."""
        self.kernel.tmr_notification = True
        for _ in range(34):
            fake = self.kernel.submit(TEST_UNIT_READY)
        head = self.kernel.cmd_head
        self.kernel.abort(self.kernel.in_flight[0])
        self.assertEqual(self.kernel.cmd_head, head)
        self.answer(0)
        self.assertEqual(self.at(head)[0], abi.OP_PAD if head + 40 > 3968 else abi.OP_TMR)
        self.assertFalse(fake.done)


class AdministratorTests(KernelTestCase):
    def test_block_dev(self) -> None:
        """Blocked: finished commands are processed, waiting and new ones get BUSY, the others stay."""
        finished = self.kernel.submit(TEST_UNIT_READY)
        flying = self.kernel.submit(WRITE_10, bytes(16 * PAGE))
        waiting = self.kernel.submit(WRITE_10, b"w")
        self.words[abi.CMD_TAIL_WORD] = self.respond(0)
        self.kernel.block_dev(True)
        self.assertEqual((finished.status, waiting.status, flying.done), (GOOD, BUSY, False))
        self.assertEqual(self.kernel.submit(TEST_UNIT_READY).status, BUSY)
        self.kernel.block_dev(False)
        self.assertFalse(self.kernel.submit(TEST_UNIT_READY).done)

    def test_reset_ring(self) -> None:
        """A reset ends what is pending, BUSY or hard, and empties the ring; waiting commands come next."""
        for kind, status in ((1, BUSY), (2, CHECK_CONDITION)):
            self.use(FakeKernel(3968, 16 * PAGE))
            flying = self.kernel.submit(WRITE_10, bytes(16 * PAGE))
            waiting = self.kernel.submit(WRITE_10, b"w")
            self.respond(0)
            self.kernel.reset_ring(kind)
            self.assertEqual((flying.status, self.kernel.cmd_tail, waiting.cmd_id), (status, 0, 1))
            self.answer(0)
            self.assertEqual(waiting.status, GOOD)
            self.kernel.verify()
        self.assertEqual(self.assertRaises(OSError, self.kernel.reset_ring, 3).errno, errno.EINVAL)

    def test_remove(self) -> None:
        """A removed device answers EIO and EINVAL, wakes its pollers, and cannot be opened."""
        self.kernel.remove()
        self.assertEqual(self.assertRaises(OSError, self.uio.acknowledge).errno, errno.EIO)
        self.assertEqual(self.assertRaises(OSError, self.uio.doorbell).errno, errno.EINVAL)
        self.assertTrue(select.select([self.uio], [], [], 0)[0])
        self.words.release()
        self.uio.close()
        self.assertEqual(self.assertRaises(OSError, self.kernel.open).errno, errno.ENODEV)


class FileTests(KernelTestCase):
    def readable(self) -> bool:
        """Whether an event is pending."""
        return bool(select.select([self.uio], [], [], 0)[0])

    def test_protocol(self) -> None:
        """It is what the ring reader expects of a device."""
        uio: UIO = self.uio
        self.assertGreaterEqual(uio.fileno(), 0)

    def test_events(self) -> None:
        """A command makes the descriptor readable until it is acknowledged, which may be done again."""
        self.assertFalse(self.readable())
        self.kernel.submit(TEST_UNIT_READY)
        self.assertTrue(self.readable())
        self.uio.acknowledge()
        self.uio.acknowledge()
        self.assertFalse(self.readable())

    def test_plugged(self) -> None:
        """While plugged, commands come without events; one follows for all."""
        with self.kernel.plugged():
            self.kernel.submit(TEST_UNIT_READY)
            self.kernel.submit(TEST_UNIT_READY)
            self.assertFalse(self.readable())
            self.assertEqual(self.kernel.cmd_head, 240)
        self.assertTrue(self.readable())

    def test_no_event_of_before(self) -> None:
        """What was queued before open gives no event."""
        self.words.release()
        self.uio.close()
        self.kernel.submit(TEST_UNIT_READY)
        self.use(self.kernel)
        self.assertFalse(self.readable())
        self.assertEqual(self.at(0)[0], abi.OP_CMD)

    def test_open_once(self) -> None:
        """A second open is EBUSY until the first is closed."""
        self.assertEqual(self.assertRaises(OSError, self.kernel.open).errno, errno.EBUSY)

    def test_close(self) -> None:
        """Closed is closed: no descriptor, no doorbell, and closing again does nothing."""
        self.words.release()
        self.uio.close()
        self.uio.close()
        self.assertEqual(self.uio.fileno(), -1)
        self.assertEqual(self.assertRaises(OSError, self.uio.doorbell).errno, errno.EBADF)

    def test_window_outlives_close(self) -> None:
        """A window not released before close is a BufferError, and remembered."""
        self.assertRaises(BufferError, self.uio.close)
        self.assertIn("outlive", str(self.assertRaises(RuleBroken, self.kernel.verify)))


class DetectorTests(KernelTestCase):
    """Each rule, broken once."""

    def test_nothing_wrong(self) -> None:
        """A doorbell without news is no crime."""
        self.uio.doorbell()
        self.kernel.verify()

    def test_cmd_head(self) -> None:
        """Nobody but the kernel writes cmd_head."""
        self.words[abi.CMD_HEAD_WORD] = 8
        self.caught("cmd_head")

    def test_mailbox(self) -> None:
        """The mailbox around cmd_tail is the kernel's."""
        for at in (0, 16, 63, 68, 127):
            self.memory[at] ^= 0x55
            self.caught(f"at {at} of the map")

    def test_free_ring(self) -> None:
        """Where no entry is, nothing is written."""
        self.memory[BASE + 1000] = 1
        self.caught("no entry occupies")

    def test_len_op_and_kflags(self) -> None:
        """Of a slot's header only cmd_id and uflags are written."""
        self.kernel.submit(TEST_UNIT_READY)
        for at in (0, 3, 6):
            self.memory[BASE + at] ^= 0x08
            self.caught(f"byte {at} of the CMD entry at 0 (cmd_id 1)")

    def test_cdb(self) -> None:
        """The response ends before the CDB."""
        self.kernel.submit(TEST_UNIT_READY)
        self.memory[BASE + abi.ENTRY_SIZE] = 1
        self.caught("byte 112 of the CMD entry")

    def test_tmr_and_pad(self) -> None:
        """Nothing is written into a TMR."""
        self.kernel.tmr_notification = True
        self.kernel.lun_reset()
        self.memory[BASE + abi.UFLAGS_OFFSET] = 1
        self.caught("of the TMR entry")

    def test_slot_already_processed(self) -> None:
        """A slot is the kernel's again once its response was processed."""
        self.kernel.submit(TEST_UNIT_READY)
        self.answer()
        self.respond(0, BUSY)
        self.caught("no entry occupies")

    def test_reported_once(self) -> None:
        """What was reported is not reported again."""
        self.memory[0] = 7
        self.caught("the mailbox")
        self.uio.doorbell()
        self.assertEqual(len(self.kernel.violations), 1)

    def test_tail_inside_an_entry(self) -> None:
        """cmd_tail stands on a boundary."""
        self.kernel.submit(TEST_UNIT_READY)
        self.respond(0)
        self.words[abi.CMD_TAIL_WORD] = 64
        self.caught("cmd_tail 64 is no entry's boundary")

    def test_tail_beyond_head(self) -> None:
        """cmd_tail does not pass cmd_head."""
        self.words[abi.CMD_TAIL_WORD] = 120
        self.caught("cmd_tail 120")

    def test_tail_backwards(self) -> None:
        """cmd_tail does not go back."""
        self.kernel.submit(TEST_UNIT_READY)
        tail = self.answer()
        self.kernel.submit(TEST_UNIT_READY)
        self.answer(tail)
        self.words[abi.CMD_TAIL_WORD] = tail
        self.caught(f"cmd_tail {tail}")

    def test_no_response(self) -> None:
        """cmd_tail does not pass a slot that holds a request."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.words[abi.CMD_TAIL_WORD] = 128
        self.caught("there is no response")

    def test_unknown_id_breaks_the_ring(self) -> None:
        """An id that is not in use breaks the ring: nothing is processed, all fails, until a reset."""
        first, second = self.kernel.submit(TEST_UNIT_READY), self.kernel.submit(TEST_UNIT_READY)
        self.words[abi.CMD_TAIL_WORD] = self.respond(self.respond(0, cmd_id=9))
        self.caught("cmd_id 9")
        self.assertTrue(self.kernel.broken)
        self.assertFalse(first.done or second.done)
        self.respond(0, cmd_id=1)
        self.uio.doorbell()
        self.assertFalse(first.done)
        self.assertEqual(self.kernel.submit(TEST_UNIT_READY).sense_code, COMMUNICATION_FAILURE)
        self.kernel.reset_ring(1)
        self.assertEqual((first.status, self.kernel.broken), (BUSY, False))
        self.kernel.submit(TEST_UNIT_READY)
        self.answer(0)

    def test_duplicate_id(self) -> None:
        """One command cannot be completed twice."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.submit(TEST_UNIT_READY)
        self.words[abi.CMD_TAIL_WORD] = self.respond(self.respond(0), cmd_id=1)
        self.caught("cmd_id 1 in the slot of 2")
        self.assertTrue(self.kernel.broken)

    def test_completion_of_a_kept_command(self) -> None:
        """A kept command cannot be completed again."""
        self.kernel.submit(TEST_UNIT_READY)
        tail = self.answer(uflags=abi.UFLAG_KEEP_BUF)
        self.kernel.submit(TEST_UNIT_READY)
        self.words[abi.CMD_TAIL_WORD] = self.respond(tail, cmd_id=1, uflags=abi.UFLAG_KEEP_BUF)
        self.caught("KEEP_BUF before")
        self.assertTrue(self.kernel.broken)

    def test_no_sense(self) -> None:
        """CHECK CONDITION comes with sense data: zeroes are none, nor are a request's iovecs."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.words[abi.CMD_TAIL_WORD] = self.respond(0, CHECK_CONDITION)
        self.caught("no sense data")
        self.kernel.submit(READ_10, data_in_length=512)
        abi.RESPONSE.pack_into(self.memory, BASE + 128 + abi.RESPONSE_OFFSET, 0, CHECK_CONDITION, 0)
        self.words[abi.CMD_TAIL_WORD] = 256
        self.caught("no sense data")

    def test_status(self) -> None:
        """A status is one of SAM's."""
        self.kernel.submit(TEST_UNIT_READY)
        self.words[abi.CMD_TAIL_WORD] = self.respond(0, errno.EIO)
        self.caught("no SAM status")

    def test_uflags(self) -> None:
        """Only the three flags are set."""
        self.kernel.submit(TEST_UNIT_READY)
        self.words[abi.CMD_TAIL_WORD] = self.respond(0, uflags=0x10)
        self.caught("uflags 0x10")

    def test_read_len_too_large(self) -> None:
        """READ_LEN is not more than was asked for."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.words[abi.CMD_TAIL_WORD] = self.respond(0, uflags=abi.UFLAG_READ_LEN, read_len=513)
        self.caught("read_len 513 of 512")

    def test_capabilities(self) -> None:
        """What the mailbox does not offer is not used."""
        for uflags, words in ((abi.UFLAG_READ_LEN, "READ_LEN"), (abi.UFLAG_KEEP_BUF, "KEEP_BUF"), (0, "order")):
            self.use(FakeKernel(3968, 16 * PAGE, flags=0))
            self.kernel.submit(TEST_UNIT_READY)
            self.kernel.submit(TEST_UNIT_READY)
            self.words[abi.CMD_TAIL_WORD] = self.respond(0, uflags=uflags, cmd_id=1 if uflags else 2)
            self.caught(words)

    def test_unknown_entry_not_refused(self) -> None:
        """An entry of an unknown operation is marked before it is passed."""
        self.kernel.unknown_entry(op=4)
        self.words[abi.CMD_TAIL_WORD] = 64
        self.caught("not UNKNOWN_OP")

    def test_late_write(self) -> None:
        """A page whose command is over is nobody's."""
        self.kernel.submit(WRITE_10, bytes(2 * PAGE))
        self.answer()
        self.memory[2 * PAGE + 7] = 1
        self.caught("page 1 was written at byte 7")

    def test_page_never_used(self) -> None:
        """A page that no command has used yet is found by verify."""
        self.memory[10 * PAGE] = 1
        self.uio.doorbell()
        self.assertIn("page 9", str(self.assertRaises(RuleBroken, self.kernel.verify)))

    def test_late_write_before_reuse(self) -> None:
        """The next command that gets the page finds it out, doorbell or not."""
        self.kernel.submit(WRITE_10, b"x")
        self.answer()
        self.memory[PAGE] = 2
        self.assertIn("page 0", str(self.assertRaises(RuleBroken, self.kernel.submit, WRITE_10, b"y")))

    def test_write_behind_the_buffer(self) -> None:
        """The rest of a buffer's last page is not the buffer."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.memory[PAGE + 512] = 1
        self.words[abi.CMD_TAIL_WORD] = self.respond(0)
        self.caught("behind the end of the buffer")

    def test_write_after_free_kept_buf(self) -> None:
        """A kept page is writable until it is freed."""
        fake = self.kernel.submit(WRITE_10, b"k")
        self.answer(uflags=abi.UFLAG_KEEP_BUF)
        self.memory[PAGE] = 1
        self.uio.doorbell()
        self.kernel.free_kept_buf(fake.cmd_id)
        self.memory[PAGE] = 2
        self.caught("page 0")

    def test_undrained(self) -> None:
        """A command without an end is found by verify, if asked."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.verify(drained=False)
        self.assertIn("never completed", str(self.assertRaises(RuleBroken, self.kernel.verify)))

    def test_tmr_never_passed(self) -> None:
        """A ring with an unread entry is not drained."""
        self.kernel.tmr_notification = True
        self.kernel.lun_reset()
        self.assertIn("cmd_tail 0", str(self.assertRaises(RuleBroken, self.kernel.verify)))


class PoisonTests(KernelTestCase):
    def setUp(self) -> None:
        """Poison free pages from the start."""
        super().setUp()
        self.kernel.poison_free_pages()

    def leaves(self, length: int, filled: int) -> None:
        """Answer a READ of ``length`` with ``filled`` bytes written."""
        self.kernel.submit(READ_10, data_in_length=length)
        self.fill(0, bytes(filled))
        self.words[abi.CMD_TAIL_WORD] = self.respond(0)

    def test_all_written(self) -> None:
        """Data-In written entirely is fine."""
        self.leaves(5000, 5000)
        self.uio.doorbell()
        self.kernel.verify()

    def test_nothing_written(self) -> None:
        """Data-In not written at all is found."""
        self.leaves(512, 0)
        self.caught("stale bytes of page 0 from byte 0")

    def test_short(self) -> None:
        """Data-In not written to its end is found, with where it ended."""
        self.leaves(PAGE + 512, PAGE + 100)
        self.caught(f"stale bytes of page 1 from byte {PAGE + 100}")

    def test_four_bytes_short(self) -> None:
        """Few bytes at the end are enough."""
        self.leaves(36, 32)
        self.caught("from byte 32")

    def test_read_len(self) -> None:
        """What READ_LEN cuts off need not be written."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.fill(0, bytes(100))
        self.answer(uflags=abi.UFLAG_READ_LEN, read_len=100)
        self.kernel.verify()

    def test_other_status(self) -> None:
        """Without GOOD nobody takes the buffer for data."""
        self.kernel.submit(READ_10, data_in_length=512)
        self.answer(status=TASK_ABORTED)
        self.kernel.verify()

    def test_again_after_use(self) -> None:
        """A page is poisoned anew when it is released."""
        self.kernel.submit(WRITE_10, bytes(512))
        tail = self.answer()
        self.kernel.submit(READ_10, data_in_length=512)
        self.words[abi.CMD_TAIL_WORD] = self.respond(tail)
        self.caught("stale bytes")


class InitiatorTests(KernelTestCase):
    def test_commands(self) -> None:
        """Each method sends its CDB, with the transfer that belongs to it."""
        initiator = FakeInitiator(self.kernel)
        for fake, cdb, out, length in (
            (initiator.read(2, 3), "88000000000000000002000000030000", b"", 1536),
            (initiator.write(2, bytes(512), fua=True), "8a080000000000000002000000010000", bytes(512), 0),
            (initiator.sync(), "91000000000000000000000000000000", b"", 0),
            (initiator.inquiry(), "12000000ff00", b"", 255),
            (initiator.inquiry(0xB0, 64), "1201b0004000", b"", 64),
            (initiator.read_capacity(), "9e100000000000000000000000200000", b"", 32),
            (initiator.write_same(1, 9, bytes(512), unmap=True), "93080000000000000001000000090000", bytes(512), 0),
            (initiator.test_unit_ready(), "000000000000", b"", 0),
        ):
            self.assertEqual((fake.cdb.hex(), fake.data_out, fake.data_in_length), (cdb, out, length))
        unmap = initiator.unmap((1, 2), (3, 4))
        self.assertEqual(unmap.cdb.hex(), "42000000000000002800")
        extents = "000000000000000100000002" + "00000000" + "000000000000000300000004" + "00000000"
        self.assertEqual(unmap.data_out.hex(), "0026002000000000" + extents)
        self.assertRaises(ValueError, initiator.write, 0, bytes(511))
