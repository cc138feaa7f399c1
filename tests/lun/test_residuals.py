"""Replies shorter than the buffer: the initiator is told how much there was, and gets nothing of anybody else's."""

from __future__ import annotations

from struct import pack
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tests.lun.support import CHECK_CONDITION, GOOD, HARDWARE_ERROR, RigTestCase, ScriptedBackstore
from txtcmu.errors import CheckCondition, MediumError
from txtcmu.interfaces import ICommandHandler
from txtcmu.kernel import abi
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig

REQUEST_SENSE, INQUIRY, MODE_SENSE_6, MODE_SENSE_10 = 0x03, 0x12, 0x1A, 0x5A


class ReplyTests(RigTestCase):
    """A disk whose initiator has room for 4096 bytes."""

    def ask(self, cdb: bytes, length: int = 4096, **kernel: Any) -> FakeCommand:
        rig = self.rig(ScriptedBackstore(), **kernel)
        rig.kernel.poison_free_pages()
        command = rig.kernel.submit(cdb, data_in_length=length)
        rig.settle()
        return command

    def test_replies(self) -> None:
        """What a reply, as long as it is or as its allocation length allows, leaves of the buffer is the residual."""
        for cdb, length in (
            (bytes([INQUIRY, 0, 0, 0, 36, 0]), 36),
            (bytes([INQUIRY, 0, 0, 0, 5, 0]), 5),
            (bytes([INQUIRY, 1, 0x80, 0xFF, 0xFF, 0]), 4 + 32),
            (bytes([MODE_SENSE_6, 8, 8, 0, 255, 0]), 4 + 20),
            (pack(">BBBxxxxHx", MODE_SENSE_10, 8, 8, 0xFFFF), 8 + 20),
            (bytes([REQUEST_SENSE, 0, 0, 0, 252, 0]), 18),
        ):
            with self.subTest(cdb=cdb.hex()):
                command = self.ask(cdb)
                self.assertEqual((command.status, len(command.data)), (GOOD, length))
                self.assertEqual(command.residual, 4096 - length)

    def test_exact(self) -> None:
        """A reply that fills the buffer, or is cut by it, leaves no residual."""
        for length in (36, 16):
            command = self.ask(bytes([INQUIRY, 0, 0, 0, 36, 0]), length)
            self.assertEqual((command.status, len(command.data), command.residual), (GOOD, length, 0))

    def test_nothing(self) -> None:
        """A reply of no bytes cannot be told from a full one: the buffer is zeroes."""
        command = self.ask(bytes([INQUIRY, 0, 0, 0, 0, 0]))
        self.assertEqual((command.status, command.data, command.residual), (GOOD, bytes(4096), 0))

    def test_kernel_without_read_len(self) -> None:
        """A kernel that does not know READ_LEN gets zeroes behind the reply."""
        flags = abi.FLAG_OUT_OF_ORDER | abi.FLAG_KEEP_BUF
        command = self.ask(bytes([INQUIRY, 0, 0, 0, 5, 0]), flags=flags)
        self.assertEqual((command.status, command.data[5:], command.residual), (GOOD, bytes(4091), 0))


class ReadTests(RigTestCase):
    def read(self, backstore: Any) -> tuple[Rig, FakeCommand]:
        """READ (10) of two blocks into a buffer of eight."""
        rig = self.rig(backstore)
        rig.kernel.poison_free_pages()
        command = rig.kernel.submit(pack(">BBIBHB", 0x28, 0, 0, 0, 2, 0), data_in_length=4096)
        rig.settle()
        return rig, command

    def test_longer_buffer(self) -> None:
        """The blocks are all that the initiator gets."""
        _, command = self.read(ScriptedBackstore(read=lambda offset, length: b"r" * length))
        self.assertEqual((command.status, command.data, command.residual), (GOOD, b"r" * 1024, 3072))

    def test_failure(self) -> None:
        """A read that fails half way leaves no bytes of earlier commands with the sense data."""

        def fail(offset: int, length: int) -> bytes:
            raise MediumError("scratched", offset)

        _, command = self.read(ScriptedBackstore(read=fail))
        self.assertEqual((command.status, command.sense_code), (CHECK_CONDITION, (3, 0x11, 0)))
        self.assertEqual(command.data.strip(b"\0"), b"")

    def test_abort(self) -> None:
        """An aborted read whose buffer is kept tells nothing either."""
        later: list[Deferred[bytes]] = []

        class Held(Deferred[bytes]):
            def cancel(self) -> None:
                pass

        def read(offset: int, length: int) -> Deferred[bytes]:
            later.append(Held())
            return later[-1]

        rig, command = self.read(ScriptedBackstore(read=read))
        rig.kernel.abort(command)
        rig.settle()
        self.assertTrue(command.done)
        self.assertEqual(command.data.strip(b"\0"), b"")
        later[0].callback(b"r" * 1024)
        rig.settle()
        self.assertEqual(rig.kernel.pages_in_use, 0)


@implementer(ICommandHandler)
class Raw:
    """A handler of one idea."""

    size = 1 << 20

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def close(self) -> None:
        pass


class RawHandlerTests(RigTestCase):
    def run_one(self, handle: Any) -> FakeCommand:
        rig = self.rig(Raw(handle))
        command = rig.kernel.submit(bytes([0x08, 0, 0, 0, 1, 0]), data_in_length=512)
        rig.settle()
        return command

    def test_incorrect_length(self) -> None:
        """A tape's short block reaches the initiator together with its sense data."""

        def handle(command: Any) -> None:
            command.buffers[0][:100] = b"t" * 100
            command.read_len = 100
            raise CheckCondition(0, 0, 0)

        command = self.run_one(handle)
        self.assertEqual((command.status, command.sense_code), (CHECK_CONDITION, (0, 0, 0)))
        self.assertEqual((command.data, command.residual), (b"t" * 100, 412))

    def test_nonsense(self) -> None:
        """A number of bytes that cannot be is the handler's mistake, and the command ends all the same."""

        def handle(command: Any) -> None:
            command.read_len = 513

        command = self.run_one(handle)
        self.assertEqual((command.status, command.sense_code), (CHECK_CONDITION, HARDWARE_ERROR))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_bidirectional(self) -> None:
        """A handler never sees a bidirectional command; its initiator is refused."""
        seen: list[Any] = []
        rig = self.rig(Raw(seen.append))
        rig.kernel.poison_free_pages()
        command = rig.kernel.submit(bytes([0x53]) + bytes(9), b"o" * 512, data_in_length=512)
        rig.settle()
        self.assertEqual((seen, command.status, command.sense_code), ([], CHECK_CONDITION, (5, 0x20, 0)))
        self.assertEqual(command.data, b"")
