from __future__ import annotations

import errno
import inspect

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import cdb
from txtcmu import errors
from txtcmu.scsi.refusals import invalid_field, invalid_parameter
from txtcmu.scsi.sense import Outcome, Sense, request_sense, sense_of


class FixedFormatTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Key, ASC and ASCQ stand at bytes 2, 12 and 13 of 18, and byte 7 says ten more follow."""
        self.assertEqual(
            Sense(0x4, 0x44, 0x00).fixed().hex(" "), "70 00 04 00 00 00 00 0a 00 00 00 00 44 00 00 00 00 00"
        )

    def test_information(self) -> None:
        """INFORMATION fills bytes 3 to 6 and sets VALID, even when it is zero."""
        self.assertEqual(
            Sense(0x3, 0x11, 0x00, information=0x01234567).fixed().hex(" "),
            "f0 00 03 01 23 45 67 0a 00 00 00 00 11 00 00 00 00 00",
        )
        self.assertEqual(Sense(0x3, 0x11, 0x00, information=0).fixed()[:7].hex(" "), "f0 00 03 00 00 00 00")

    def test_large_information(self) -> None:
        """An INFORMATION of more than 32 bits is left out, with VALID zero."""
        self.assertEqual(
            Sense(0x3, 0x11, 0x00, information=1 << 32).fixed()[:7].hex(" "),
            "70 00 03 00 00 00 00",
        )

    def test_field_pointer(self) -> None:
        """A field pointer sets SKSV; C/D tells the CDB from the parameter list, BPV that there is a bit."""
        self.assertEqual(Sense(0x5, 0x24, 0x00, field=2).fixed()[15:].hex(" "), "c0 00 02")
        self.assertEqual(Sense(0x5, 0x24, 0x00, field=2, field_bit=5).fixed()[15:].hex(" "), "cd 00 02")
        self.assertEqual(Sense(0x5, 0x26, 0x00, field=0x108, field_in_cdb=False).fixed()[15:].hex(" "), "80 01 08")

    @given(st.integers(0, 15), st.none() | st.integers(0, (1 << 64) - 1), st.none() | st.integers(0, 0xFFFF))
    def test_size(self, key: int, information: int | None, field: int | None) -> None:
        """Fixed format sense data is 18 bytes long, and descriptor format as long as it says, whatever is in it."""
        sense = Sense(key, 0, 0, information, field)
        self.assertEqual(len(sense.fixed()), 18)
        self.assertEqual(len(sense.descriptor()), 8 + sense.descriptor()[7])


class DescriptorFormatTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Without anything to describe it is the eight bytes of the header."""
        self.assertEqual(Sense(0x2, 0x04, 0x01).descriptor().hex(" "), "72 02 04 01 00 00 00 00")

    def test_information(self) -> None:
        """INFORMATION is a descriptor of type 00h with 64 bits."""
        self.assertEqual(
            Sense(0x3, 0x11, 0x00, information=0x123456789A).descriptor().hex(" "),
            "72 03 11 00 00 00 00 0c  00 0a 80 00 00 00 00 12 34 56 78 9a".replace("  ", " "),
        )

    def test_field_pointer(self) -> None:
        """The field pointer is a descriptor of type 02h."""
        self.assertEqual(
            Sense(0x5, 0x24, 0x00, field=1, field_bit=4).descriptor().hex(" "),
            "72 05 24 00 00 00 00 08  02 06 00 00 cc 00 01 00".replace("  ", " "),
        )


class RequestSenseTests(SynchronousTestCase):
    def test_formats(self) -> None:
        """DESC chooses between the fixed and the descriptor format; nothing to say is NO SENSE."""
        fixed = "70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00"
        self.assertEqual(request_sense(cdb("03 00 00 00 FC 00")).hex(" "), fixed)
        self.assertEqual(request_sense(cdb("03 01 00 00 FC 00")).hex(" "), "72 00 00 00 00 00 00 00")

    def test_not_ready(self) -> None:
        """What keeps the unit from being ready is reported, cut to ALLOCATION LENGTH."""
        sense = Sense(0x2, 0x04, 0x03)
        self.assertEqual(request_sense(cdb("03 01 00 00 04 00"), sense).hex(" "), "72 02 04 03")


def told(exception: BaseException, *, writing: bool = False) -> str:
    """Return status, and key/ASC/ASCQ and INFORMATION if any, of what becomes of ``exception``."""
    status, sense = sense_of(exception, writing=writing, block_size=512)
    if sense is None:
        return f"{status:02x}"
    information = "" if sense.information is None else f" {sense.information}"
    return f"{status:02x} {sense.key:x}/{sense.asc:02x}/{sense.ascq:02x}{information}"


class SenseOfTests(SynchronousTestCase):
    def test_every_exception_of_the_project(self) -> None:
        """Each exception of txtcmu.errors has a meaning, and this is the whole list."""
        expected = {
            errors.TCMUError: "02 4/44/00",
            errors.ConfigError: "02 4/44/00",
            errors.KernelError: "02 4/44/00",
            errors.RingError: "02 4/44/00",
            errors.BackstoreError: "02 4/44/00",
            errors.MediumError: "02 3/11/00",
            errors.NotReadyError: "02 2/04/01",
            errors.FencedError: "02 2/04/03",
            errors.WriteProtectedError: "02 7/27/00",
            errors.SpaceExhaustedError: "02 7/27/07",
            errors.BusyError: "08",
            errors.MiscompareError: "02 e/1d/00 513",
            errors.CheckCondition: "02 b/2f/00",
            errors.ObjectStoreError: "02 4/44/00",
            errors.PreconditionFailed: "02 4/44/00",
            errors.StoreUnavailable: "02 2/04/01",
        }
        listed = {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)}
        self.assertEqual(listed, set(expected))
        for kind, outcome in expected.items():
            arguments = {errors.CheckCondition: (0xB, 0x2F, 0x00), errors.MiscompareError: (513,)}.get(kind, ("why",))
            self.assertEqual(told(kind(*arguments)), outcome, kind)

    def test_medium_error(self) -> None:
        """A medium error tells reading from writing, and the block of its offset."""
        self.assertEqual(told(errors.MediumError("bad", 1025)), "02 3/11/00 2")
        self.assertEqual(told(errors.MediumError("bad", 0), writing=True), "02 3/0c/00 0")

    def test_children(self) -> None:
        """A child of a listed exception means what its parent means."""

        class Evicted(errors.FencedError):
            pass

        self.assertEqual(told(Evicted("gone")), "02 2/04/03")

    def test_check_condition(self) -> None:
        """A CheckCondition is told as it is, with everything it carries."""
        error = errors.CheckCondition(0xE, 0x1D, 0x00, information=7, field=3, field_in_cdb=False)
        self.assertEqual(
            sense_of(error, writing=False, block_size=512),
            Outcome(0x02, Sense(0xE, 0x1D, 0x00, information=7, field=3, field_in_cdb=False)),
        )

    def test_refusals_carry_their_bit(self) -> None:
        """The refusals of this package point at byte and bit, in the CDB or in the parameter list."""
        self.assertEqual(
            sense_of(invalid_field(4, 1), writing=False, block_size=512).sense,
            Sense(0x5, 0x24, 0x00, field=4, field_bit=1),
        )
        self.assertEqual(
            sense_of(invalid_parameter(9), writing=False, block_size=512).sense,
            Sense(0x5, 0x26, 0x00, field=9, field_in_cdb=False),
        )

    def test_os_errors(self) -> None:
        """An OSError means what its errno says of the medium, the room on it, or the way to it."""
        for code, reading, writing in (
            (errno.ENOSPC, "02 7/27/07", "02 7/27/07"),
            (errno.EDQUOT, "02 7/27/07", "02 7/27/07"),
            (errno.EROFS, "02 4/44/00", "02 7/27/00"),
            (errno.EPERM, "02 4/44/00", "02 7/27/00"),
            (errno.EACCES, "02 4/44/00", "02 7/27/00"),
            (errno.EIO, "02 3/11/00", "02 3/0c/00"),
            (errno.ENOMEM, "08", "08"),
            (errno.EAGAIN, "08", "08"),
            (errno.EINTR, "08", "08"),
            (errno.ESHUTDOWN, "02 2/04/01", "02 2/04/01"),
            (errno.EPIPE, "02 2/04/01", "02 2/04/01"),
            (errno.ENOTCONN, "02 2/04/01", "02 2/04/01"),
            (errno.ETIMEDOUT, "02 2/04/01", "02 2/04/01"),
            (errno.ECONNREFUSED, "02 2/04/01", "02 2/04/01"),
            (errno.EINVAL, "02 4/44/00", "02 4/44/00"),
        ):
            error = OSError(code, "why")
            self.assertEqual((told(error), told(error, writing=True)), (reading, writing), errno.errorcode[code])

    def test_os_errors_without_errno(self) -> None:
        """A lost connection or a timeout that carries no errno is still the way to the medium."""
        self.assertEqual(told(ConnectionResetError("closed")), "02 2/04/01")
        self.assertEqual(told(TimeoutError()), "02 2/04/01")
        self.assertEqual(told(OSError("odd")), "02 4/44/00")

    def test_others(self) -> None:
        """A cancelled command was aborted, one that found no memory is to be tried again, all else is our fault."""
        self.assertEqual(told(CancelledError()), "40")
        self.assertEqual(told(MemoryError()), "08")
        self.assertEqual(told(ZeroDivisionError()), "02 4/44/00")
        self.assertEqual(told(KeyboardInterrupt()), "02 4/44/00")
