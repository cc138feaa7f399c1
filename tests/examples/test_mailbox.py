"""The processor device passes messages on, and answers everything else as SPC wants it."""

from __future__ import annotations

from struct import pack

from twisted.trial.unittest import SynchronousTestCase

from examples.mailbox import mailbox
from tests.examples.support import parameters
from txtcmu.testing.fakecommand import FakeCommand
from txtcmu.testing.rig import Rig

GOOD, CHECK_CONDITION, BUSY = 0x00, 0x02, 0x08


class MailboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Serve it on the fake kernel; a LUN of TCMU has a size, whatever is behind it."""
        self.rig = Rig(mailbox.open(parameters("mailbox/one", 512)), size=512)

    def tearDown(self) -> None:
        """See that no rule of the ring was broken."""
        self.rig.close()

    def command(self, cdb: bytes, data: bytes = b"", length: int = 0) -> FakeCommand:
        """Send a command."""
        sent = self.rig.kernel.submit(cdb, data, length)
        self.rig.settle()
        return sent

    def send(self, message: bytes, length: int | None = None) -> FakeCommand:
        """SEND (6)."""
        return self.command(pack(">BxBHx", 0x0A, 0, len(message) if length is None else length), message)

    def receive(self, length: int) -> FakeCommand:
        """RECEIVE (6)."""
        return self.command(pack(">BxBHx", 0x08, 0, length), length=length)

    def test_ready(self) -> None:
        """TEST UNIT READY is answered with GOOD."""
        self.assertEqual(self.command(bytes(6)).status, GOOD)

    def test_inquiry(self) -> None:
        """INQUIRY says that it is a processor device; what is behind the standard data is zeroed."""
        inquiry = self.command(bytes([0x12, 0, 0, 0, 96, 0]), length=96)
        self.assertEqual((inquiry.status, inquiry.data[0], inquiry.data[4]), (GOOD, 0x03, 31))
        self.assertEqual(inquiry.data[8:36], b"txtcmu  mailbox         0001")
        self.assertEqual(inquiry.data[36:], bytes(60))

    def test_allocation_length(self) -> None:
        """ALLOCATION LENGTH cuts the standard data."""
        inquiry = self.command(bytes([0x12, 0, 0, 0, 5, 0]), length=36)
        self.assertEqual(inquiry.data, bytes([3, 0, 4, 2, 31]) + bytes(31))

    def test_pages(self) -> None:
        """A vital product data page is refused: INVALID FIELD IN CDB."""
        self.assertEqual(self.command(bytes([0x12, 1, 0, 0, 96, 0]), length=96).sense_code, (5, 0x24, 0))

    def test_request_sense(self) -> None:
        """REQUEST SENSE says that nothing ails it."""
        sense = self.command(bytes([0x03, 0, 0, 0, 18, 0]), length=18)
        self.assertEqual((sense.status, sense.data[0], sense.data[2] & 0xF, sense.data[7]), (GOOD, 0x70, 0, 10))

    def test_message(self) -> None:
        """What was sent is received, in order; the rest of the buffer is zeroed."""
        self.assertEqual([self.send(b"one").status, self.send(b"two").status], [GOOD, GOOD])
        self.assertEqual([self.receive(8).data, self.receive(2).data], [b"one\0\0\0\0\0", b"tw"])

    def test_waiting(self) -> None:
        """RECEIVE waits for a message."""
        receive = self.receive(5)
        self.assertFalse(receive.done)
        self.send(b"hello")
        self.assertEqual((receive.status, receive.data), (GOOD, b"hello"))

    def test_abort(self) -> None:
        """An aborted RECEIVE ends at once, and takes no message away from the next one."""
        aborted = self.receive(5)
        self.rig.kernel.abort(aborted)
        self.rig.settle()
        self.assertTrue(aborted.done)
        self.send(b"hello")
        self.assertEqual(self.receive(5).data, b"hello")

    def test_full(self) -> None:
        """When 64 messages wait, SEND is answered BUSY, and again GOOD when there is room."""
        self.assertEqual({self.send(b"m").status for _ in range(64)}, {GOOD})
        self.assertEqual(self.send(b"m").status, BUSY)
        self.receive(1)
        self.assertEqual(self.send(b"m").status, GOOD)

    def test_more_than_was_sent(self) -> None:
        """A transfer length beyond the data is refused; nothing of another command gets into a message."""
        self.assertEqual(self.send(b"abc", 100).sense_code, (5, 0x24, 0))

    def test_unknown(self) -> None:
        """Every other command is refused: INVALID COMMAND OPERATION CODE."""
        known = {0x00, 0x03, 0x08, 0x0A, 0x12}
        for operation_code in sorted(set(range(0xC0)) - known - {0x7F}):
            command = self.command(bytes([operation_code]) + bytes(15))
            self.assertEqual((command.status, command.sense_code), (CHECK_CONDITION, (5, 0x20, 0)))
