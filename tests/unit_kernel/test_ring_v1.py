"""The in-order ring of ABI v1, on the fake kernel of that version."""

from __future__ import annotations

from random import Random
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txtcmu.errors import RingError
from txtcmu.interfaces import ICommand
from txtcmu.iovec import scatter
from txtcmu.kernel import abi, abi_v1
from txtcmu.kernel.ring import Command, open_ring
from txtcmu.kernel.ring_v1 import InOrderRing
from txtcmu.testing.fakekernel import FakeCommand, FakeKernel, RuleBroken

TEST_UNIT_READY = bytes(6)
READ_10 = bytes([0x28]) + bytes(9)
WRITE_10 = bytes([0x2A]) + bytes(9)
SENSE = bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
GOOD, CHECK_CONDITION = 0x00, 0x02
BASE = abi.MAILBOX_SIZE


class RingTestCase(SynchronousTestCase):
    """A fake kernel of version 1 and the ring on it."""

    def setUp(self) -> None:
        """Make a device and open it."""
        self.use(FakeKernel(version=1))

    def use(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.uio = kernel.open()
        ring = open_ring(self.uio.memory)
        assert isinstance(ring, InOrderRing)
        self.ring = ring

    def take(self) -> Command:
        """Take one entry that must be a command."""
        entry = self.ring.take()
        assert isinstance(entry, Command)
        return entry

    def tell(self) -> None:
        """Publish, and ring the doorbell if it is called for."""
        if self.ring.publish():
            self.uio.doorbell()


class LayoutTests(RingTestCase):
    def test_map(self) -> None:
        """A device of version 1 is 64 KiB of ring and 257 pages of data, and has no flags."""
        self.assertEqual(len(self.uio.memory), 1_118_208)
        self.assertEqual(abi.MAILBOX.unpack_from(self.uio.memory), (1, 0, 128, 65536 - 128))
        self.assertFalse(self.ring.supports_tmr or self.ring.supports_keep_buf or self.ring.supports_read_len)

    def test_entry(self) -> None:
        """An entry is what Linux 3.18 makes it, byte by byte."""
        self.kernel.submit(WRITE_10, b"d" * 5000)
        fields = 128 | 1, 0, 0, BASE + 112, 2, 65536, 4096, 65536 + 4096, 904
        self.assertEqual(bytes(self.uio.memory[BASE : BASE + 56]), pack("=IHHQQQQQQ", *fields))
        self.assertEqual(bytes(self.uio.memory[BASE + 112 : BASE + 122]), WRITE_10)

    def test_command(self) -> None:
        """A command comes with its id, of which 0 is the first, its CDB, and windows of its data."""
        self.kernel.submit(WRITE_10, b"x" * 5000)
        command = self.take()
        self.assertTrue(verifyObject(ICommand, command))
        self.assertEqual((command.cmd_id, command.cdb, command.length), (0, WRITE_10, 5000))
        self.assertEqual(b"".join(command.buffers), b"x" * 5000)
        self.assertIsNone(self.ring.take())


class OrderTests(RingTestCase):
    def test_order_of_the_ring(self) -> None:
        """A completion waits for all before it, whatever order they come in, and each gets its own data."""
        fakes = [self.kernel.submit(READ_10, data_in_length=512) for _ in range(4)]
        commands = [self.take() for _ in fakes]
        for number in (2, 1, 3, 0):
            self.assertFalse(any(fake.done for fake in fakes))
            commands[number].buffers[0][:] = bytes([number]) * 512
            self.ring.complete(commands[number], GOOD)
            self.tell()
        self.assertEqual([fake.data for fake in fakes], [bytes([number]) * 512 for number in range(4)])
        self.kernel.verify()

    def test_part_of_the_order(self) -> None:
        """What comes before the first command that is owed is published, and no more."""
        fakes = [self.kernel.submit(TEST_UNIT_READY) for _ in range(4)]
        commands = [self.take() for _ in fakes]
        for number in (0, 1, 3):
            self.ring.complete(commands[number], GOOD)
        self.tell()
        self.assertEqual([fake.done for fake in fakes], [True, True, False, False])
        self.assertFalse(self.ring.publish())
        self.ring.complete(commands[2], CHECK_CONDITION, SENSE)
        self.tell()
        self.assertEqual([fake.status for fake in fakes], [0, 0, 2, 0])
        self.assertEqual((fakes[2].sense, fakes[2].sense_buffer), (SENSE, SENSE.ljust(96, b"\0")))
        self.kernel.verify()

    def test_the_fake_catches_disorder(self) -> None:
        """Whoever rewrites a cmd_id, as version 2 allows, is caught: the data is of the wrong command."""
        first, second = (self.kernel.submit(READ_10, data_in_length=512) for _ in range(2))
        self.take().buffers[0][:] = b"1" * 512
        self.take().buffers[0][:] = b"2" * 512
        memory = self.uio.memory
        memory[BASE + abi.CMD_ID_OFFSET] = second.cmd_id
        memory[BASE + abi_v1.STATUS_OFFSET] = GOOD
        memory[64:68] = pack("=I", 112 + 16)
        error = self.assertRaises(RuleBroken, self.uio.doorbell)
        self.assertIn("out of order without the capability", str(error))
        self.assertEqual((second.data, first.done), (b"1" * 512, False))

    def test_release(self) -> None:
        """The windows end with the completion, not when the kernel hears of it."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.submit(WRITE_10, b"x" * 512)
        first, second = self.take(), self.take()
        (window,) = second.buffers
        self.ring.complete(second, GOOD)
        self.assertRaises(ValueError, bytes, window)
        self.ring.complete(first, GOOD)
        self.tell()
        self.kernel.verify()

    def test_wrap(self) -> None:
        """Commands, PADs and data go round and round."""
        self.use(FakeKernel(1024, 3 * 4096, version=1))
        self.kernel.poison_free_pages()
        random = Random(1)
        for _ in range(60):
            length = random.randrange(1, 6000)
            read, write = (
                self.kernel.submit(READ_10, data_in_length=length),
                self.kernel.submit(WRITE_10, b"w" * length),
            )
            commands = [self.take(), self.take()]
            self.assertEqual(b"".join(commands[1].buffers), b"w" * length)
            data = random.randbytes(length)
            scatter(data, commands[0].buffers)
            for command in commands if random.random() < 0.5 else reversed(commands):
                self.ring.complete(command, GOOD)
            self.tell()
            self.assertEqual((read.data, write.status), (data, GOOD))
        self.kernel.verify()


class RefusalTests(RingTestCase):
    def refused(self, words: str) -> None:
        self.assertIn(words, str(self.assertRaises(RingError, self.ring.take)))
        self.assertFalse(self.ring.publish())

    def poke(self, at: int, form: str, *values: int) -> None:
        data = pack(form, *values)
        self.uio.memory[BASE + at : BASE + at + len(data)] = data

    def test_impossible_entries(self) -> None:
        """What no kernel of version 1 writes breaks the ring, and nothing is published."""
        for at, form, value, words in (
            (0, "=I", 112 | 2, "operation 2"),
            (0, "=I", 0, "impossible entry of 0"),
            (0, "=I", 104 | 1, "command entry of 104"),
            (0, "=I", 2048 | 1, "impossible entry of 2048"),
            (8, "=Q", 0, "impossible CDB"),
            (8, "=Q", 1 << 63, "impossible CDB"),
            (16, "=Q", 1 << 60, "iovecs"),
            (24, "=Q", 128, "not in the data area"),
            (32, "=Q", 1 << 40, "not in the data area"),
        ):
            with self.subTest(at=at, value=value):
                self.use(FakeKernel(version=1))
                self.kernel.submit(WRITE_10, b"x" * 512)
                self.poke(at, form, value)
                self.refused(words)

    def test_reused_id(self) -> None:
        """An id that is still outstanding cannot come again."""
        self.kernel.submit(TEST_UNIT_READY)
        self.kernel.submit(TEST_UNIT_READY)
        self.poke(120 + 4, "=H", 0)
        self.take()
        self.refused("reused cmd_id 0")

    def test_completions(self) -> None:
        """No second completion, and none that keeps its buffer; the memory stays as it is."""
        self.kernel.submit(TEST_UNIT_READY)
        command = self.take()
        self.assertRaises(RingError, self.ring.complete, command, GOOD, keep=True)
        self.ring.complete(command, GOOD)
        before = bytes(self.uio.memory)
        self.assertRaises(RingError, self.ring.complete, command, GOOD)
        self.assertRaises(RingError, self.ring.kept_freed, command)
        self.assertEqual(bytes(self.uio.memory), before)

    def test_close(self) -> None:
        """A closed ring holds no window: the map can be closed."""
        self.kernel.submit(WRITE_10, b"x" * 512)
        self.take()
        self.ring.close()
        self.uio.close()
        self.kernel.verify(drained=False)


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(
    cmdr_size=st.integers(1024 // 8, 2048 // 8).map(lambda words: words * 8),
    steps=st.lists(st.tuples(st.sampled_from("rwn"), st.integers(1, 5000), st.integers(0, 3), st.integers(0, 9))),
)
def test_any_order(cmdr_size: int, steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is sent and in whatever order it ends: answers are in order, and everybody has his own data."""
    kernel = FakeKernel(cmdr_size, 4 * 4096, version=1)
    kernel.poison_free_pages()
    uio = kernel.open()
    ring = open_ring(uio.memory)
    random = Random(cmdr_size)
    sent: list[tuple[FakeCommand, bytes]] = []
    taken: list[Command] = []
    expected: dict[int, bytes] = {}

    def end(which: int) -> None:
        command = taken.pop(which % len(taken))
        serial = int.from_bytes(command.cdb[2:6])
        data = random.randbytes(command.length)
        _, out = sent[serial]
        if out:
            assert b"".join(command.buffers) == out
            data = b""
        else:
            scatter(data, command.buffers)
        expected[serial] = data
        ring.complete(command, GOOD)
        if ring.publish():
            uio.doorbell()

    for kind, length, take, which in steps:
        out = random.randbytes(length) if kind == "w" else b""
        cdb = bytes([0x28, 0]) + len(sent).to_bytes(4) + bytes(4)
        sent.append((kernel.submit(cdb, out, length if kind == "r" else 0), out))
        for _ in range(take):
            entry = ring.take()
            if isinstance(entry, Command):
                taken.append(entry)
        if taken:
            end(which)
        done = [fake.done for fake, _ in sent]
        assert done == sorted(done, reverse=True), "ends come in the order of the ring"
    while True:
        entry = ring.take()
        if isinstance(entry, Command):
            taken.append(entry)
        elif taken:
            end(0)
        else:
            break
    assert {serial: fake.data for serial, (fake, _) in enumerate(sent)} == expected
    ring.publish()
    uio.doorbell()
    kernel.verify()
