from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi.compare import (
    ByteCheck,
    CompareAndWrite,
    Verification,
    compare_and_write,
    maximum_compare_and_write_length,
    verify,
)
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.unit import LogicalUnit


def verification(text: str, unit: LogicalUnit = THICK) -> Verification:
    command = cdb(text)
    return verify(unit, find(unit, command), command)


def swap(text: str, unit: LogicalUnit = THICK) -> CompareAndWrite:
    command = cdb(text)
    return compare_and_write(unit, find(unit, command), command)


class VerifyTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA, VERIFICATION LENGTH and BYTCHK are read from all three CDBs; DPO changes nothing."""
        self.assertEqual(verification("2F 00 00 01 23 45 3F 01 02 00"), (0x12345, 0x102, ByteCheck.NOTHING))
        self.assertEqual(verification("AF 12 00 01 23 45 00 00 01 02 3F 00"), (0x12345, 0x102, ByteCheck.EACH))
        self.assertEqual(
            verification("8F 06 00 00 00 00 00 01 23 45 00 00 01 02 3F 00"), (0x12345, 0x102, ByteCheck.ONE_WITH_ALL)
        )

    def test_refused(self) -> None:
        """Protection information, the reserved BYTCHK and what is behind the medium are refused, each at its field."""
        for protect in ("20", "E0"):
            self.assertEqual(refusal(verification, f"2F {protect}" + " 00" * 8), "05/24/00 cf 00 01")
        for code, length in (("2F", 8), ("AF", 10), ("8F", 14)):
            self.assertEqual(refusal(verification, f"{code} 04" + " 00" * length), "05/24/00 ca 00 01")
        self.assertEqual(refusal(verification, "2F 00 00 1F FF FF 00 00 02 00"), "05/21/00 c0 00 02")
        self.assertEqual(verification("2F 00 00 20 00 00 00 00 00 00"), (0x200000, 0, ByteCheck.NOTHING))

    def test_length(self) -> None:
        """MAXIMUM TRANSFER LENGTH bounds what is sent, and not what is only looked at."""
        self.assertEqual(verification("8F 00" + " 00" * 8 + " 00 20 00 00 00 00").blocks, 0x200000)
        self.assertEqual(verification("8F 06" + " 00" * 8 + " 00 20 00 00 00 00").blocks, 0x200000)
        self.assertEqual(verification("8F 02" + " 00" * 8 + " 00 00 08 00 00 00").blocks, 0x800)
        self.assertEqual(refusal(verification, "8F 02" + " 00" * 8 + " 00 00 08 01 00 00"), "05/24/00 cf 00 0a")

    @given(st.sampled_from(["2F", "AF", "8F"]), st.binary(min_size=15, max_size=15))
    def test_any_fields(self, operation_code: str, rest: bytes) -> None:
        """Any VERIFY is refused, or names blocks that are on the medium, and sends no more than can be moved."""
        command = bytes.fromhex(operation_code) + rest
        try:
            row = find(THIN, command)
            asked = verify(THIN, row, command)
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
        else:
            self.assertLessEqual(asked.lba + asked.blocks, THIN.blocks)
            self.assertLessEqual(row.transfer_length(command, 512), 512 * min(asked.blocks, THIN.max_transfer_blocks))


class CompareAndWriteTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA, NUMBER OF LOGICAL BLOCKS and FUA are read; no blocks are no error."""
        self.assertEqual(swap("89 00 00 00 00 00 00 01 23 45 FF FF FF 02 3F 00"), (0x12345, 2, False))
        self.assertEqual(swap("89 18 00 00 00 00 00 01 23 45 00 00 00 01 00 00"), (0x12345, 1, True))
        self.assertEqual(swap("89 00 00 00 00 00 00 20 00 00 00 00 00 00 00 00").blocks, 0)

    def test_refused(self) -> None:
        """Protection information, what is behind the medium and more than the limit are refused."""
        self.assertEqual(refusal(swap, "89 20" + " 00" * 14), "05/24/00 cf 00 01")
        self.assertEqual(refusal(swap, "89 00 00 00 00 00 00 1F FF FF 00 00 00 02 00 00"), "05/21/00 c0 00 02")
        unit = evolve(THICK, max_transfer_blocks=9)
        self.assertEqual(maximum_compare_and_write_length(unit), 4)
        self.assertEqual(swap("89 00" + " 00" * 11 + " 04 00 00", unit).blocks, 4)
        self.assertEqual(refusal(swap, "89 00" + " 00" * 11 + " 05 00 00", unit), "05/24/00 cf 00 0d")

    @given(st.binary(min_size=15, max_size=15))
    def test_any_fields(self, rest: bytes) -> None:
        """Any COMPARE AND WRITE is refused, or names blocks that are on the medium and within the limit."""
        command = b"\x89" + rest
        try:
            asked = compare_and_write(THICK, find(THICK, command), command)
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
        else:
            self.assertLessEqual(asked.lba + asked.blocks, THICK.blocks)
            self.assertLessEqual(asked.blocks, maximum_compare_and_write_length(THICK))
