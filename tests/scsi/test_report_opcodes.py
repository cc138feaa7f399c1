from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, ask, refusal
from txtcmu.scsi.opcodes import ROWS
from txtcmu.scsi.unit import LogicalUnit


def rsoc(unit: LogicalUnit, options: str, operation_code: str = "00", service_action: str = "0000") -> str:
    return ask(unit, f"A3 0C {options} {operation_code} {service_action} 00 00 FF FF 00 00")


class AllCommandsTests(SynchronousTestCase):
    def test_thick(self) -> None:
        """Without discard these thirty commands are listed, the kernel's REPORT LUNS among them, and no UNMAP."""
        six, ten, sixteen, twelve = "06", "0a", "10", "0c"
        self.assertEqual(
            rsoc(THICK, "00"),
            "00 00 00 f0"
            + "".join(f" {code} 00 00 00 00 00 00 {six}" for code in ["00", "03", "08", "0a", "12", "15", "1a", "1b"])
            + "".join(
                f" {code} 00 00 00 00 00 00 {ten}" for code in ["25", "28", "2a", "2f", "35", "41", "4d", "55", "5a"]
            )
            + "".join(f" {code} 00 00 00 00 00 00 {sixteen}" for code in ["88", "89", "8a", "8f", "91", "93"])
            + " 9e 00 00 10 00 01 00 10"
            + " 9e 00 00 12 00 01 00 10"
            + f" a0 00 00 00 00 00 00 {twelve}"
            + " a3 00 00 0c 00 01 00 0c"
            + "".join(f" {code} 00 00 00 00 00 00 {twelve}" for code in ["a8", "aa", "af"]),
        )

    def test_thin(self) -> None:
        """With discard every row of the table is listed exactly once."""
        data = bytes.fromhex(rsoc(THIN, "00"))
        self.assertEqual(int.from_bytes(data[:4], "big"), len(data) - 4)
        listed = [(data[at], data[at + 2] << 8 | data[at + 3]) for at in range(4, len(data), 8)]
        self.assertEqual(sorted(listed), sorted((row.operation_code, row.service_action or 0) for row in ROWS))
        self.assertEqual(len(set(listed)), len(listed))

    def test_timeouts(self) -> None:
        """With RCTD each command has CTDP and a timeouts descriptor of twelve bytes."""
        data = bytes.fromhex(rsoc(THIN, "80"))
        self.assertEqual(len(data), 4 + 20 * len(ROWS))
        self.assertEqual(data[4:24].hex(" "), "00 00 00 00 00 02 00 06 00 0a 00 00 00 00 00 01 00 00 00 1e")
        for at in range(4, len(data), 20):
            nominal = int.from_bytes(data[at + 12 : at + 16], "big")
            recommended = int.from_bytes(data[at + 16 : at + 20], "big")
            self.assertGreaterEqual(recommended, nominal)

    def test_allocation_length(self) -> None:
        """The reply is cut to ALLOCATION LENGTH; COMMAND DATA LENGTH stays."""
        self.assertEqual(ask(THICK, "A3 0C 00 00 00 00 00 00 00 04 00 00"), "00 00 00 f0")


class OneCommandTests(SynchronousTestCase):
    def test_operation_code(self) -> None:
        """Option 001b tells the usage of a command without service actions, whatever service action is asked for."""
        self.assertEqual(rsoc(THICK, "01", "28"), "00 03 00 0a 28 f8 ff ff ff ff 00 ff ff 04")
        self.assertEqual(rsoc(THICK, "01", "00", "0007"), "00 03 00 06 00 00 00 00 00 04")

    def test_service_action(self) -> None:
        """Option 010b tells the usage of a service action."""
        self.assertEqual(rsoc(THICK, "02", "9E", "0010"), "00 03 00 10 9e 10 00 00 00 00 00 00 00 00 ff ff ff ff 00 04")

    def test_block_commands(self) -> None:
        """The usage has a one for each bit that is looked at: protection, DPO and FUA, BYTCHK, UNMAP, NDOB."""
        for code, usage in (
            ("08", "08 1f ff ff ff 04"),
            ("2F", "2f f6 ff ff ff ff 00 ff ff 04"),
            ("41", "41 fe ff ff ff ff 00 ff ff 04"),
            ("15", "15 13 00 00 ff 04"),
            ("55", "55 13 00 00 00 00 00 ff ff 04"),
            ("4D", "4d 03 ff ff 00 ff ff ff ff 04"),
            ("89", "89 f8 ff ff ff ff ff ff ff ff 00 00 00 ff 00 04"),
            ("93", "93 ff ff ff ff ff ff ff ff ff ff ff ff ff 00 04"),
            ("AF", "af f6 ff ff ff ff ff ff ff ff 00 04"),
        ):
            self.assertEqual(rsoc(THICK, "01", code)[12:], usage)
        self.assertEqual(rsoc(THICK, "02", "9E", "0012")[12:], "9e 12" + " ff" * 13 + " 04")

    def test_either(self) -> None:
        """Option 011b takes both kinds; a service action of a command that has none is not supported."""
        self.assertEqual(rsoc(THICK, "03", "25"), "00 03 00 0a 25 00 00 00 00 00 00 00 00 04")
        self.assertEqual(rsoc(THICK, "03", "A3", "000C"), "00 03 00 0c a3 0c 87 ff ff ff ff ff ff ff 00 04")
        self.assertEqual(rsoc(THICK, "03", "25", "0001"), "00 01 00 00")

    def test_not_supported(self) -> None:
        """What the unit has not is told as not supported: no such code, no such action, no such capability."""
        self.assertEqual(rsoc(THICK, "01", "C0"), "00 01 00 00")
        self.assertEqual(rsoc(THICK, "02", "9E", "0013"), "00 01 00 00")
        self.assertEqual(rsoc(THICK, "03", "9E", "0000"), "00 01 00 00")
        self.assertEqual(rsoc(THICK, "01", "42"), "00 01 00 00")
        self.assertEqual(rsoc(THIN, "01", "42"), "00 03 00 0a 42 01 00 00 00 00 00 ff ff 04")

    def test_timeouts(self) -> None:
        """With RCTD the usage is followed by a timeouts descriptor, and CTDP is one."""
        self.assertEqual(
            rsoc(THICK, "81", "35"),
            "00 83 00 0a 35 02 ff ff ff ff 00 ff ff 04 00 0a 00 00 00 00 00 0a 00 00 00 3c",
        )

    def test_wrong_option(self) -> None:
        """001b for a code with service actions, 010b for one without, and reserved options are refused."""
        self.assertEqual(refusal(rsoc, THICK, "01", "9E"), "05/24/00 ca 00 02")
        self.assertEqual(refusal(rsoc, THICK, "02", "28"), "05/24/00 ca 00 02")
        for option in ("04", "05", "06", "07", "84"):
            self.assertEqual(refusal(rsoc, THICK, option, "28"), "05/24/00 ca 00 02")
