from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi import opcodes
from txtcmu.scsi.opcodes import ROWS, find, supported
from txtcmu.scsi.replies import REPLIES, reply
from txtcmu.scsi.table import CommandTable, Direction, Opcode, ToldBy


class TableTests(SynchronousTestCase):
    def test_usage_is_as_long_as_the_cdb(self) -> None:
        """A usage bitmap is as long as the CDB of its operation code's group (SPC-5, Operation code)."""
        lengths = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
        for row in ROWS:
            self.assertEqual(len(row.usage), lengths[row.operation_code >> 5], row.name)

    def test_usage_names_its_command(self) -> None:
        """A usage bitmap begins with the operation code, and has the service action in its field."""
        expected = {
            "TEST UNIT READY": (0x00, None),
            "REQUEST SENSE": (0x03, None),
            "READ(6)": (0x08, None),
            "WRITE(6)": (0x0A, None),
            "INQUIRY": (0x12, None),
            "MODE SELECT(6)": (0x15, None),
            "MODE SENSE(6)": (0x1A, None),
            "START STOP UNIT": (0x1B, None),
            "READ CAPACITY(10)": (0x25, None),
            "READ(10)": (0x28, None),
            "WRITE(10)": (0x2A, None),
            "VERIFY(10)": (0x2F, None),
            "SYNCHRONIZE CACHE(10)": (0x35, None),
            "WRITE SAME(10)": (0x41, None),
            "UNMAP": (0x42, None),
            "LOG SENSE": (0x4D, None),
            "MODE SELECT(10)": (0x55, None),
            "MODE SENSE(10)": (0x5A, None),
            "READ(16)": (0x88, None),
            "COMPARE AND WRITE": (0x89, None),
            "WRITE(16)": (0x8A, None),
            "VERIFY(16)": (0x8F, None),
            "SYNCHRONIZE CACHE(16)": (0x91, None),
            "WRITE SAME(16)": (0x93, None),
            "READ CAPACITY(16)": (0x9E, 0x10),
            "GET LBA STATUS(16)": (0x9E, 0x12),
            "REPORT LUNS": (0xA0, None),
            "REPORT SUPPORTED OPERATION CODES": (0xA3, 0x0C),
            "READ(12)": (0xA8, None),
            "WRITE(12)": (0xAA, None),
            "VERIFY(12)": (0xAF, None),
        }
        self.assertEqual({row.name: (row.usage[0], row.service_action) for row in ROWS}, expected)
        for row in ROWS:
            if row.service_action is not None:
                self.assertEqual(row.usage[1] & 0x1F, row.service_action, row.name)

    def test_usage_covers_the_transfer(self) -> None:
        """Whatever field tells the expected transfer is evaluated, all of it, and tells it in one direction."""
        for row in ROWS:
            evaluated = row.usage[row.transfer.field]
            self.assertEqual(evaluated, b"\xff" * len(evaluated), row.name)
            self.assertEqual(row.transfer.told_by is ToldBy.NOTHING, row.direction is Direction.NONE, row.name)

    def test_each_command_once(self) -> None:
        """No two rows have the same operation code and service action, and they are in that order."""
        keys = [(row.operation_code, row.service_action or 0) for row in ROWS]
        self.assertEqual(keys, sorted(set(keys)))

    def test_writers(self) -> None:
        """These commands change the medium: they are refused when it is write protected."""
        self.assertEqual(
            [row.name for row in ROWS if row.writes],
            [
                *("WRITE(6)", "WRITE(10)", "WRITE SAME(10)", "UNMAP"),
                *("COMPARE AND WRITE", "WRITE(16)", "WRITE SAME(16)", "WRITE(12)"),
            ],
        )

    def test_while_not_ready(self) -> None:
        """These commands are carried out by a unit that is not ready; TEST UNIT READY is not among them."""
        self.assertEqual(
            [row.name for row in ROWS if row.while_not_ready],
            ["REQUEST SENSE", "INQUIRY", "START STOP UNIT", "REPORT LUNS", "REPORT SUPPORTED OPERATION CODES"],
        )


class TransferLengthTests(SynchronousTestCase):
    def test_lengths(self) -> None:
        """The expected transfer is read from where each CDB holds it; in bytes, also where the CDB counts blocks."""
        for text, length in (
            ("00 00 00 00 00 00", 0),
            ("12 00 00 01 02 00", 0x102),
            ("1A 00 3F 00 FC 00", 0xFC),
            ("5A 00 3F 00 00 00 00 01 04 00", 0x104),
            ("25 00 00 00 00 00 00 00 00 00", 8),
            ("28 00 00 00 00 10 00 01 00 00", 0x100 * 4096),
            ("8A 00 00 00 00 00 00 00 00 10 00 01 00 00 00 00", 0x10000 * 4096),
            ("35 00 00 00 00 00 00 00 08 00", 0),
            ("42 00 00 00 00 00 00 00 18 00", 0x18),
            ("9E 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", 0x20),
            ("A3 0C 00 00 00 00 00 00 02 00 00 00", 0x200),
            ("08 00 00 00 02 00", 2 * 4096),
            ("0A 00 00 00 00 00", 256 * 4096),
            ("A8 00 00 00 00 00 00 01 00 00 00 00", 0x10000 * 4096),
            ("2F 00 00 00 00 00 00 00 08 00", 0),
            ("2F 02 00 00 00 00 00 00 08 00", 8 * 4096),
            ("AF 06 00 00 00 00 00 00 00 08 00 00", 4096),
            ("8F 06" + " 00" * 14, 0),
            ("41 00 00 00 00 00 00 00 08 00", 4096),
            ("93 00" + " 00" * 14, 4096),
            ("93 01 00 00 00 00 00 00 00 00 00 00 00 08 00 00", 0),
            ("89 00 00 00 00 00 00 00 00 00 00 00 00 03 00 00", 6 * 4096),
            ("15 10 00 00 18 00", 0x18),
            ("55 10 00 00 00 00 00 01 18 00", 0x118),
            ("4D 00 40 00 00 00 00 01 18 00", 0x118),
            ("9E 12 00 00 00 00 00 00 00 00 00 00 00 18 00 00", 0x18),
        ):
            command = cdb(text)
            self.assertEqual(find(THIN, command).transfer_length(command, 4096), length, text)


class FindTests(SynchronousTestCase):
    def test_rows(self) -> None:
        """An operation code, with its service action if it has one, finds its row."""
        self.assertIs(find(THICK, cdb("28")), opcodes.READ_10)
        self.assertIs(find(THICK, cdb("9E 10")), opcodes.READ_CAPACITY_16)
        self.assertIs(find(THICK, cdb("A3 0C")), opcodes.REPORT_SUPPORTED_OPERATION_CODES)

    def test_reserved_bits(self) -> None:
        """The reserved bits beside a service action do not hide it."""
        self.assertIs(find(THICK, cdb("9E F0")), opcodes.READ_CAPACITY_16)

    def test_unknown_operation_codes(self) -> None:
        """Every other operation code, the vendors' included, is 05/20/00; so is what the kernel answers."""
        known = {row.operation_code for row in ROWS if not row.by_kernel}
        for operation_code in set(range(256)) - known:
            self.assertEqual(refusal(find, THIN, cdb(f"{operation_code:02x}")), "05/20/00 c0 00 00")

    def test_unknown_service_action(self) -> None:
        """A known operation code with another service action is 05/24/00 that points at the service action."""
        self.assertEqual(refusal(find, THICK, cdb("9E 13")), "05/24/00 cc 00 01")
        self.assertEqual(refusal(find, THICK, cdb("A3 0A")), "05/24/00 cc 00 01")

    def test_missing_capability(self) -> None:
        """UNMAP does not exist on a unit that cannot give blocks back."""
        self.assertIs(find(THIN, cdb("42")), opcodes.UNMAP)
        self.assertEqual(refusal(find, THICK, cdb("42")), "05/20/00 c0 00 00")

    def test_naca(self) -> None:
        """NACA is refused in the CONTROL byte of every command, wherever its length puts it."""
        self.assertEqual(refusal(find, THICK, cdb("00 00 00 00 00 04")), "05/24/00 ca 00 05")
        self.assertEqual(refusal(find, THICK, cdb("28 00 00 00 00 00 00 00 00 04")), "05/24/00 ca 00 09")
        self.assertEqual(refusal(find, THICK, cdb("A3 0C 00 00 00 00 00 00 00 00 00 04")), "05/24/00 ca 00 0b")

    def test_control(self) -> None:
        """Nothing else in the CONTROL byte is policed."""
        self.assertIs(find(THICK, cdb("00 00 00 00 00 FB")), opcodes.TEST_UNIT_READY)

    def test_short(self) -> None:
        """A CDB that is too short for its command is no command."""
        for text in ("", "28 00 00", "9E"):
            self.assertEqual(refusal(find, THICK, bytes.fromhex(text)), "05/20/00 c0 00 00")

    @given(st.binary(max_size=40))
    def test_any_bytes(self, command: bytes) -> None:
        """Any bytes find a row or are refused; a row that is answered here then answers or refuses."""
        self.check_any(command)

    @given(st.sampled_from(sorted({row.operation_code for row in ROWS})), st.binary(max_size=40))
    def test_any_fields(self, operation_code: int, rest: bytes) -> None:
        """The same holds of any bytes behind the operation codes that exist."""
        self.check_any(bytes([operation_code]) + rest)

    def check_any(self, command: bytes) -> None:
        """Fail if a command is anything but answered within its length or refused."""
        for unit in (THICK, THIN):
            try:
                row = find(unit, command)
                self.assertEqual(row.operation_code, command[0])
                if row in REPLIES:
                    self.assertLessEqual(len(reply(unit, row, command)), row.transfer_length(command, 512))
            except CheckCondition as error:
                self.assertEqual(error.key, 0x5)


class CommandTableTests(SynchronousTestCase):
    def test_variable_length(self) -> None:
        """A variable-length CDB has its service action in bytes 8 and 9, and CONTROL in byte 1."""
        read_32 = Opcode("READ(32)", "7F 04" + " 00" * 5 + " 18 00 09" + " 00" * 22, service_action=9)
        table = CommandTable([read_32])
        self.assertIs(table.find(THICK, cdb("7F 00 00 00 00 00 00 18 00 09", 32)), read_32)
        self.assertEqual(refusal(table.find, THICK, cdb("7F 00 00 00 00 00 00 18 00 0B", 32)), "05/24/00 cf 00 08")
        self.assertEqual(refusal(table.find, THICK, cdb("7F 04 00 00 00 00 00 18 00 09", 32)), "05/24/00 ca 00 01")

    def test_capability_of_a_service_action(self) -> None:
        """A service action that the unit has not is unknown beside those that it has."""
        row = Opcode("GET LBA STATUS(16)", "9E 12" + " 00" * 14, service_action=0x12, requires="block status")
        self.assertEqual(
            refusal(CommandTable([opcodes.READ_CAPACITY_16, row]).find, THICK, cdb("9E 12")), "05/24/00 cc 00 01"
        )

    def test_a_row_without_a_range(self) -> None:
        """A command that names no range of blocks cannot be decoded into one."""
        self.assertRaises(TypeError, opcodes.INQUIRY.decode, cdb("12"))


class SupportedTests(SynchronousTestCase):
    def test_capabilities(self) -> None:
        """A unit has every command but those whose capability it lacks; what the kernel answers counts."""
        self.assertEqual([row.name for row in set(supported(THIN)) - set(supported(THICK))], ["UNMAP"])
        self.assertIn(opcodes.REPORT_LUNS, supported(THICK))
