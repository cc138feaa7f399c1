"""The command ring, entry by entry: what it reads, what it writes, what it refuses."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txtcmu.errors import KernelError, RingError
from txtcmu.interfaces import ICommand
from txtcmu.kernel import abi
from txtcmu.kernel.ring import Command, Ring, TaskManagement, open_ring
from txtcmu.kernel.ring_v1 import InOrderRing
from txtcmu.testing.fakekernel import FakeKernel

TEST_UNIT_READY = bytes(6)
READ_10 = bytes([0x28]) + bytes(9)
WRITE_10 = bytes([0x2A]) + bytes(9)
SENSE = bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
ABORT_TASK = 1


class RingTestCase(SynchronousTestCase):
    """A fake kernel and the ring on it."""

    cmdr_size = 1024
    fragment = False

    def setUp(self) -> None:
        """Make a device and open it."""
        self.kernel = FakeKernel(self.cmdr_size, 1 << 16, fragment=self.fragment)
        self.kernel.tmr_notification = True
        self.uio = self.kernel.open()
        self.ring = Ring(self.uio.memory)

    def take(self) -> Command:
        """Take one entry that must be a command."""
        entry = self.ring.take()
        assert isinstance(entry, Command)
        return entry

    def tell(self) -> None:
        """Publish, and ring the doorbell."""
        self.assertTrue(self.ring.publish())
        self.uio.doorbell()

    def round_trip(self) -> None:
        """Run one command without data: 120 bytes of the ring."""
        self.kernel.submit(TEST_UNIT_READY)
        self.ring.complete(self.take(), 0)
        self.tell()

    def poke(self, at: int, data: bytes) -> None:
        """Overwrite the map, as a kernel gone mad would."""
        self.uio.memory[at : at + len(data)] = data


class TakingTests(RingTestCase):
    def test_command(self) -> None:
        """A command comes with its id, its CDB as long as the group code says, and windows of its data."""
        self.kernel.submit(WRITE_10, b"x" * 5000)
        command = self.take()
        self.assertTrue(verifyObject(ICommand, command))
        self.assertEqual((command.cmd_id, command.cdb, command.length), (1, WRITE_10, 5000))
        self.assertEqual(b"".join(command.buffers), b"x" * 5000)
        self.assertIsNone(self.ring.take())
        self.assertEqual(self.ring.outstanding, {1: command})

    def test_variable_length_cdb(self) -> None:
        """A CDB of operation code 7Fh is as long as its byte 7 says."""
        cdb = bytes([0x7F, 0, 0, 0, 0, 0, 0, 24]) + bytes(range(24))
        self.kernel.submit(cdb)
        self.assertEqual(self.take().cdb, cdb)

    def test_vendor_specific_cdb(self) -> None:
        """Of a CDB in a vendor specific group the kernel copies ten bytes."""
        self.kernel.submit(bytes([0xC0]) + bytes(15))
        self.assertEqual(self.take().cdb, bytes([0xC0]) + bytes(9))

    def test_bidirectional(self) -> None:
        """A bidirectional command is refused without leaving the ring, and its initiator gets no stale bytes."""
        self.kernel.poison_free_pages()
        before = self.kernel.submit(TEST_UNIT_READY)
        refused = self.kernel.submit(WRITE_10, b"o" * 4096, data_in_length=8192)
        after = self.kernel.submit(WRITE_10, b"a" * 512)
        self.ring.complete(self.take(), 0)
        command = self.take()
        self.assertEqual(b"".join(command.buffers), b"a" * 512)
        self.assertIsNone(self.ring.take())
        self.assertEqual(list(self.ring.outstanding.values()), [command])
        self.tell()
        self.assertEqual((refused.status, refused.sense_code, refused.data), (2, (5, 0x20, 0), b""))
        self.ring.complete(command, 0)
        self.tell()
        self.assertEqual((before.status, after.status), (0, 0))
        self.kernel.verify()

    def test_bidirectional_alone(self) -> None:
        """There is something to publish when all that was in the ring was refused."""
        refused = self.kernel.submit(WRITE_10, b"o" * 512, data_in_length=512)
        self.assertIsNone(self.ring.take())
        self.tell()
        self.assertEqual(refused.status, 2)
        self.kernel.verify()

    def test_wrap(self) -> None:
        """Where an entry does not fit before the end of the ring, a PAD is passed over."""
        commands = [self.kernel.submit(TEST_UNIT_READY) for _ in range(8)]  # 960 of 1024 bytes
        for _ in commands:
            self.ring.complete(self.take(), 0)
        self.tell()
        last = self.kernel.submit(READ_10, data_in_length=512)  # behind a PAD of 64 bytes, at the start
        command = self.take()
        command.buffers[0][:] = b"r" * 512
        self.ring.complete(command, 0)
        self.tell()
        self.assertEqual((self.kernel.cmd_tail, last.data), (128, b"r" * 512))
        self.kernel.verify()

    def test_many_events_one_scan(self) -> None:
        """Taking goes on to the head as it is now, however many events there were."""
        with self.kernel.plugged():
            for _ in range(3):
                self.kernel.submit(TEST_UNIT_READY)
        self.assertEqual([self.take().cmd_id for _ in range(3)], [1, 2, 3])
        self.kernel.submit(TEST_UNIT_READY)
        self.assertEqual(self.take().cmd_id, 4)

    def test_starts_at_the_tail(self) -> None:
        """A ring attached later goes on where the last one had stopped."""
        self.round_trip()
        self.kernel.submit(READ_10)
        self.assertEqual(Ring(self.uio.memory).take().cdb, READ_10)  # type: ignore[union-attr]

    def test_own_command_type(self) -> None:
        """Commands are of the type that the ring was given."""

        class Special(Command):
            __slots__ = ()

        self.kernel.submit(TEST_UNIT_READY)
        self.assertIsInstance(Ring(self.uio.memory, Special).take(), Special)


class ShortPadTests(RingTestCase):
    cmdr_size = 8 * 120 + 8

    def test_pad_of_eight_bytes(self) -> None:
        """A PAD may be a bare header."""
        for _ in range(8):
            self.round_trip()
        self.assertEqual(self.kernel.cmd_head, self.cmdr_size - 8)
        self.round_trip()
        self.assertEqual((self.kernel.cmd_head, self.kernel.cmd_tail), (120, 120))
        self.kernel.verify()


class ExactWrapTests(RingTestCase):
    cmdr_size = 8 * 120

    def test_entry_that_ends_with_the_ring(self) -> None:
        """An entry that ends where the ring does is followed by the one at its start, without a PAD."""
        for _ in range(8):
            self.round_trip()
        self.assertEqual((self.kernel.cmd_head, self.kernel.cmd_tail), (0, 0))
        self.kernel.verify()


class FragmentedTests(RingTestCase):
    fragment = True
    cmdr_size = 4096

    def test_more_iovecs_than_an_entry_holds(self) -> None:
        """A buffer in ten pieces makes the entry longer, and the CDB lies behind them."""
        data = bytes(range(256)) * 160  # ten pages
        self.kernel.submit(READ_10, data_in_length=512)
        self.kernel.submit(WRITE_10, data[:-96])
        self.take()
        command = self.take()
        self.assertGreater(len(command.buffers), 4)
        self.assertEqual((command.cdb, b"".join(command.buffers)), (WRITE_10, data[:-96]))
        self.assertEqual(command.length, len(data) - 96)


class CompletionTests(RingTestCase):
    def test_out_of_order(self) -> None:
        """Each initiator gets its own command's answer, in whatever order they are given."""
        fakes = [self.kernel.submit(READ_10, data_in_length=512) for _ in range(3)]
        commands = [self.take() for _ in fakes]
        for index in (2, 0, 1):
            commands[index].buffers[0][:] = bytes([index]) * 512
            self.ring.complete(commands[index], 0)
        self.tell()
        self.assertEqual([fake.data[:1] for fake in fakes], [b"\0", b"\1", b"\2"])
        self.kernel.verify()

    def test_sense(self) -> None:
        """Sense data is padded with zeroes over whatever the request had there."""
        fake = self.kernel.submit(WRITE_10, b"x" * 512)
        self.ring.complete(self.take(), 2, SENSE)
        self.tell()
        self.assertEqual((fake.status, fake.sense, fake.sense_code), (2, SENSE, (5, 0x20, 0)))
        self.assertEqual(fake.sense_buffer, SENSE.ljust(abi.SENSE_SIZE, b"\0"))

    def test_read_len(self) -> None:
        """A short read leaves a residual, and the rest of the buffer is not transferred."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        command = self.take()
        command.buffers[0][:100] = b"s" * 100
        command.read_len = 100
        self.ring.complete(command, 0)
        self.tell()
        self.assertEqual((fake.data, fake.residual), (b"s" * 100, 412))

    def test_read_len_with_sense(self) -> None:
        """With CHECK CONDITION the bytes that read_len speaks of reach the initiator, too."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        command = self.take()
        command.buffers[0][:100] = b"s" * 100
        command.read_len = 100
        self.ring.complete(command, 2, SENSE)
        self.tell()
        self.assertEqual((fake.status, fake.sense, fake.data, fake.residual), (2, SENSE, b"s" * 100, 412))

    def test_read_len_of_the_whole_buffer(self) -> None:
        """As many bytes as the buffer holds leave no residual; neither does 0, which stands for all."""
        for read_len in (512, 0):
            fake = self.kernel.submit(READ_10, data_in_length=512)
            command = self.take()
            command.buffers[0][:] = b"s" * 512
            command.read_len = read_len
            self.ring.complete(command, 0)
            self.tell()
            self.assertEqual((fake.data, fake.residual), (b"s" * 512, 0))

    def test_impossible_read_len(self) -> None:
        """What is no number of bytes in the buffer is refused when it is set, and the command can still be ended."""
        fake = self.kernel.submit(READ_10, data_in_length=512)
        command = self.take()
        for nonsense in (513, -1, 1 << 32, 1.5, "1", None):
            with self.assertRaises(ValueError):
                command.read_len = nonsense  # type: ignore[assignment]
        command.buffers[0][:] = bytes(512)
        self.ring.complete(command, 0)
        self.tell()
        self.assertEqual((fake.status, fake.residual), (0, 0))

    def test_kernel_without_read_len(self) -> None:
        """A kernel that does not know READ_LEN is not told; it transfers the whole buffer."""
        kernel = FakeKernel(flags=abi.FLAG_OUT_OF_ORDER)
        uio = kernel.open()
        ring = Ring(uio.memory)
        fake = kernel.submit(READ_10, data_in_length=512)
        command = ring.take()
        assert isinstance(command, Command)
        command.buffers[0][:] = b"s" * 100 + bytes(412)
        command.read_len = 100
        ring.complete(command, 0)
        ring.publish()
        uio.doorbell()
        self.assertEqual((fake.data, fake.residual), (b"s" * 100 + bytes(412), 0))
        kernel.verify()

    def test_windows_end(self) -> None:
        """A completed command's windows are released."""
        self.kernel.submit(WRITE_10, b"x" * 512)
        command = self.take()
        (window,) = command.buffers
        self.ring.complete(command, 0)
        self.assertRaises(ValueError, bytes, window)
        self.assertEqual(command.buffers, [])

    def test_publish_says_whether_the_tail_moved(self) -> None:
        """No doorbell is wanted when nothing was completed."""
        self.assertFalse(self.ring.publish())
        self.kernel.submit(TEST_UNIT_READY)
        command = self.take()
        self.assertFalse(self.ring.publish())
        self.ring.complete(command, 0)
        self.assertTrue(self.ring.publish())
        self.assertFalse(self.ring.publish())

    def test_nothing_seen_before_publish(self) -> None:
        """A doorbell for another reason does not show half of a batch."""
        fake = self.kernel.submit(TEST_UNIT_READY)
        self.ring.complete(self.take(), 0)
        self.uio.doorbell()
        self.assertFalse(fake.done)
        self.tell()
        self.assertTrue(fake.done)

    def refuse(self, command: Command, ring: Ring | None = None, **how: bool) -> None:
        """Completing ``command`` must fail and write nothing."""
        before = bytes(self.uio.memory)
        self.assertRaises(RingError, (ring or self.ring).complete, command, 0, **how)
        self.assertEqual(bytes(self.uio.memory), before)

    def test_twice(self) -> None:
        """A second completion is refused, at once and later."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.submit(TEST_UNIT_READY)
        command = self.take()
        self.take()
        self.ring.complete(command, 0)
        self.refuse(command)
        self.tell()
        self.refuse(command)

    def test_late(self) -> None:
        """A late completion does not end the innocent command that has the id now."""
        self.kernel.submit(TEST_UNIT_READY)
        stale = self.take()
        self.ring.complete(stale, 0)
        self.tell()
        fake = self.kernel.submit(TEST_UNIT_READY)
        innocent = self.take()
        self.assertEqual(innocent.cmd_id, stale.cmd_id)
        self.refuse(stale)
        self.ring.complete(innocent, 8)
        self.tell()
        self.assertEqual(fake.status, 8)

    def test_other_ring(self) -> None:
        """A command of another ring is refused, though the same id is outstanding here."""
        other = FakeKernel()
        other.submit(TEST_UNIT_READY)
        foreign = Ring(other.open().memory).take()
        self.kernel.submit(TEST_UNIT_READY)
        self.take()
        self.refuse(foreign)  # type: ignore[arg-type]

    def test_keep_without_the_capability(self) -> None:
        """A buffer is kept only where the kernel can keep it."""
        kernel = FakeKernel(flags=abi.FLAG_OUT_OF_ORDER)
        kernel.submit(TEST_UNIT_READY)
        ring = Ring(kernel.open().memory)
        command = ring.take()
        assert isinstance(command, Command)
        self.assertEqual((ring.supports_keep_buf, ring.supports_tmr, ring.supports_read_len), (False,) * 3)
        self.refuse(command, ring, keep=True)
        ring.complete(command, 0)

    def test_keep(self) -> None:
        """A kept buffer stays the command's until it is freed; its id is not reused before."""
        fake = self.kernel.submit(WRITE_10, b"k" * 512)
        kept = self.take()
        self.ring.complete(kept, 0x40, keep=True)
        self.tell()
        self.assertEqual((fake.status, bytes(kept.buffers[0])), (0x40, b"k" * 512))
        self.refuse(kept)
        self.kernel.submit(TEST_UNIT_READY)
        self.assertEqual(self.take().cmd_id, 2)
        self.ring.kept_freed(kept)
        self.assertEqual(kept.buffers, [])
        self.assertRaises(RingError, self.ring.kept_freed, kept)
        self.kernel.free_kept_buf(kept.cmd_id)

    def test_close(self) -> None:
        """Closing releases every window, so that the map can be closed."""
        self.kernel.submit(WRITE_10, b"k" * 512)
        self.kernel.submit(WRITE_10, b"o" * 512)
        kept, outstanding = self.take(), self.take()
        self.ring.complete(kept, 0, keep=True)
        self.tell()
        self.ring.close()
        self.uio.close()
        self.assertEqual((kept.buffers, outstanding.buffers), ([], []))


class SkippingTests(RingTestCase):
    def test_trailing_tmr(self) -> None:
        """A TMR behind the last completed command is passed, so that the ring is empty."""
        fake = self.kernel.submit(TEST_UNIT_READY)
        self.kernel.abort(fake)
        command = self.take()
        request = self.ring.take()
        assert isinstance(request, TaskManagement)
        self.assertEqual((request.kind, request.commands), (ABORT_TASK, [command]))
        self.assertFalse(self.ring.publish())
        self.ring.complete(command, 0x40)
        self.tell()
        self.kernel.verify()

    def test_lone_tmr(self) -> None:
        """A TMR wants no completion: reading it is enough to pass it."""
        self.kernel.lun_reset()
        request = self.ring.take()
        assert isinstance(request, TaskManagement)
        self.assertEqual((request.kind, request.commands), (5, []))
        self.tell()
        self.kernel.verify()

    def test_tmr_of_a_completed_command(self) -> None:
        """An id that is no longer outstanding is left out."""
        fake = self.kernel.submit(TEST_UNIT_READY)
        self.ring.complete(self.take(), 0)
        self.kernel.abort(fake)
        request = self.ring.take()
        assert isinstance(request, TaskManagement)
        self.assertEqual(request.commands, [])

    def test_trailing_pad(self) -> None:
        """A PAD with nothing behind it yet is passed as well."""
        at = abi.MAILBOX_SIZE
        abi.HEADER.pack_into(self.uio.memory, at, 64 | abi.OP_PAD, 0, 0, 0)
        self.poke(4 * abi.CMD_HEAD_WORD, word(64))
        self.assertIsNone(self.ring.take())
        self.assertTrue(self.ring.publish())
        self.assertEqual(self.kernel.cmd_tail, 64)

    def test_unread_entry_is_not_passed(self) -> None:
        """The tail never passes what was not read."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.lun_reset()
        self.kernel.submit(TEST_UNIT_READY)
        self.ring.complete(self.take(), 0)
        self.tell()
        self.assertEqual(self.kernel.cmd_tail, 120)

    def test_unknown_entry(self) -> None:
        """An entry of an unknown operation is marked so, and passed."""
        self.kernel.unknown_entry(op=3)
        fake = self.kernel.submit(TEST_UNIT_READY)
        self.ring.complete(self.take(), 0)
        self.assertEqual(self.uio.memory[abi.MAILBOX_SIZE + abi.UFLAGS_OFFSET], abi.UFLAG_UNKNOWN_OP)
        self.tell()
        self.assertTrue(fake.done)
        self.kernel.verify()


class ImpossibleEntryTests(RingTestCase):
    """What no kernel writes is an error, not a crash and not a guess."""

    def setUp(self) -> None:
        """Queue one WRITE, at the start of the ring."""
        super().setUp()
        self.kernel.submit(WRITE_10, b"x" * 512)
        self.at = abi.MAILBOX_SIZE

    def refused(self, at: int, data: bytes) -> None:
        """With ``data`` at ``at`` of the entry it must be refused with one line."""
        self.poke(self.at + at, data)
        error = self.assertRaises(RingError, self.ring.take)
        self.assertNotIn("\n", str(error))
        self.assertEqual(self.ring.outstanding, {})

    def test_no_length(self) -> None:
        """An entry of length 0 would never end."""
        self.refused(0, word(abi.OP_CMD))

    def test_behind_the_head(self) -> None:
        """An entry ends at the head, or before."""
        self.refused(0, word(136 | abi.OP_CMD))

    def test_behind_the_end(self) -> None:
        """An entry ends with the ring, or before."""
        self.poke(4 * abi.CMD_HEAD_WORD, word(0))
        self.poke(4 * abi.CMD_TAIL_WORD, word(512))
        self.poke(self.at + 512, word(520 | abi.OP_CMD))
        self.assertRaises(RingError, Ring(self.uio.memory).take)

    def test_shorter_than_a_command(self) -> None:
        """A CMD entry holds the whole struct."""
        self.refused(0, word(104 | abi.OP_CMD))

    def test_shorter_than_a_tmr(self) -> None:
        """A TMR entry holds the whole struct."""
        self.refused(0, word(24 | abi.OP_TMR))

    def test_more_ids_than_fit(self) -> None:
        """A TMR entry holds all its ids."""
        self.refused(0, word(40 | abi.OP_TMR) + bytes(8) + word(5))

    def test_more_iovecs_than_fit(self) -> None:
        """A CMD entry holds all its iovecs."""
        self.refused(8, word(100))

    def test_more_bidi_iovecs_than_fit(self) -> None:
        """The iovecs of a bidirectional command's Data-In count."""
        self.refused(12, word(100))

    def test_iovec_before_the_data_area(self) -> None:
        """No buffer lies in the ring."""
        self.refused(48, abi.IOVEC.pack(128, 512))

    def test_iovec_behind_the_map(self) -> None:
        """No buffer ends behind the map."""
        self.refused(48, abi.IOVEC.pack(len(self.uio.memory) - 511, 512))

    def test_second_iovec_behind_the_map(self) -> None:
        """Each of several iovecs is looked at."""
        self.poke(self.at + 64, abi.IOVEC.pack(len(self.uio.memory), 1))
        self.refused(8, word(2))

    def test_error_becomes_garbage(self) -> None:
        """An error whose traceback holds the entry half read, and itself in a cycle, can be collected."""
        self.poke(self.at + 64, abi.IOVEC.pack(len(self.uio.memory), 1))
        self.poke(self.at + 8, word(2))
        try:
            self.ring.take()
        except RingError as error:
            cycle: list[object] = [error]
            cycle.append(cycle)
        del cycle
        gc.collect()
        self.assertEqual(self.ring.outstanding, {})

    def test_enormous_iovec(self) -> None:
        """A length of 64 bits does not wrap around."""
        self.refused(48, abi.IOVEC.pack(len(self.uio.memory) - 512, 2**64 - 1))

    def test_cdb_elsewhere(self) -> None:
        """The CDB lies in its own entry."""
        self.refused(24, abi.IOVEC.pack(self.at + 4096, 0))
        self.refused(24, abi.IOVEC.pack(2**63, 0))
        self.refused(24, abi.IOVEC.pack(0, 0))

    def test_cdb_too_long(self) -> None:
        """The CDB ends in its own entry."""
        self.refused(112, bytes([0x7F, 0, 0, 0, 0, 0, 0, 200]))

    def test_id_of_an_outstanding_command(self) -> None:
        """An id names one command at a time."""
        self.kernel.submit(TEST_UNIT_READY)
        self.take()
        abi.CMD_ID.pack_into(self.uio.memory, self.at + 128 + abi.CMD_ID_OFFSET, 1)
        self.assertRaises(RingError, self.ring.take)

    def test_head(self) -> None:
        """The head lies in the ring, on an entry's boundary."""
        for head in (self.cmdr_size, 4, 2**32 - 8):
            self.poke(4 * abi.CMD_HEAD_WORD, word(head))
            self.assertRaises(RingError, Ring(self.uio.memory).take)


class MailboxTests(SynchronousTestCase):
    """What a ring is refused for, before anything is read from it."""

    def memory(
        self, version: int = 2, flags: int = 1, offset: int = 128, size: int = 1024, tail: int = 0
    ) -> memoryview:
        """Make a map of 8 KiB."""
        memory = bytearray(8192)
        abi.MAILBOX.pack_into(memory, 0, version, flags, offset, size)
        memory[64:68] = word(tail)
        return memoryview(memory)

    def refused(self, expected: type[KernelError], **mailbox: int) -> str:
        """Return the one line."""
        error = self.assertRaises(expected, open_ring, self.memory(**mailbox))
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_sound(self) -> None:
        """The mailbox that the others differ from is fine."""
        self.assertIsInstance(open_ring(self.memory()), Ring)
        self.assertIsInstance(open_ring(self.memory(version=1, flags=0)), InOrderRing)

    def test_version(self) -> None:
        """A version that is neither 1 nor 2 is refused, and named."""
        for version in (0, 3, 0xFFFF):
            self.assertIn(f"version {version},", self.refused(KernelError, version=version))

    def test_in_order_only(self) -> None:
        """A kernel that cannot complete out of order is refused."""
        self.assertIn("out of order", self.refused(KernelError, flags=0x0E))

    def test_layout(self) -> None:
        """The ring lies behind the mailbox, in the map, in units of eight bytes."""
        for layout in ({"offset": 64}, {"offset": 132}, {"size": 1020}, {"size": 8192}, {"offset": 2**32 - 8}):
            for version in (1, 2):
                self.assertIn("impossible ring", self.refused(RingError, version=version, **layout))

    def test_tail(self) -> None:
        """The tail lies in the ring."""
        for tail in (1024, 4):
            self.assertIn("cmd_tail", self.refused(RingError, tail=tail))


def word(value: int) -> bytes:
    """Return a field of 32 bits."""
    return abi.HEADER.pack(value, 0, 0, 0)[:4]
