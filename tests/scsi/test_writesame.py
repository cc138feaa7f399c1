from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.unit import LogicalUnit, Provisioning
from txtcmu.scsi.writesame import WriteSame, maximum_write_same_length, write_same


def ws(text: str, unit: LogicalUnit = THIN) -> WriteSame:
    command = cdb(text)
    return write_same(unit, find(unit, command), command)


class WriteSameTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA, NUMBER OF LOGICAL BLOCKS and UNMAP are read from both CDBs, NDOB from the longer one alone."""
        self.assertEqual(ws("41 00 00 01 23 45 3F 01 02 00"), WriteSame(0x12345, 0x102, unmap=False, sent=True))
        self.assertEqual(ws("41 08 00 01 23 45 00 01 02 00"), WriteSame(0x12345, 0x102, unmap=True, sent=True))
        self.assertEqual(
            ws("93 09 00 00 00 00 00 01 23 45 00 00 01 02 00 00"), WriteSame(0x12345, 0x102, unmap=True, sent=False)
        )

    def test_to_the_end(self) -> None:
        """No blocks means all that follow, if those are not too many; there may be none left."""
        self.assertEqual(ws("41 00 00 1F 00 01 00 00 00 00").blocks, 0xFFFF)
        self.assertEqual(ws("41 00 00 20 00 00 00 00 00 00").blocks, 0)
        self.assertEqual(refusal(ws, "41 00 00 1E FF FF 00 00 00 00"), "05/24/00 cf 00 07")
        self.assertEqual(refusal(ws, "41 00 00 20 00 01 00 00 00 00"), "05/21/00 c0 00 02")

    def test_limit(self) -> None:
        """MAXIMUM WRITE SAME LENGTH can be reached, and not exceeded."""
        self.assertEqual(maximum_write_same_length(THIN), 0x10000)
        self.assertEqual(ws("93 00" + " 00" * 8 + " 00 01 00 00 00 00").blocks, 0x10000)
        self.assertEqual(refusal(ws, "93 00" + " 00" * 8 + " 00 01 00 01 00 00"), "05/24/00 cf 00 0a")

    def test_refused(self) -> None:
        """Protection information, anchors and addresses in the data are refused; so is a range beyond the medium."""
        self.assertEqual(refusal(ws, "41 20" + " 00" * 8), "05/24/00 cf 00 01")
        self.assertEqual(refusal(ws, "93 10" + " 00" * 14), "05/24/00 cc 00 01")
        self.assertEqual(refusal(ws, "93 18" + " 00" * 14), "05/24/00 cc 00 01")
        self.assertEqual(refusal(ws, "41 04" + " 00" * 8), "05/24/00 ca 00 01")
        self.assertEqual(refusal(ws, "93 02" + " 00" * 14), "05/24/00 c9 00 01")
        self.assertEqual(refusal(ws, "41 00 00 1F FF FF 00 00 02 00"), "05/21/00 c0 00 02")

    def test_unmap_needs_zeroes(self) -> None:
        """UNMAP is refused where WRITE SAME does not unmap: the unit gives nothing back, or what is there is unsure."""
        unsure = evolve(THIN, provisioning=Provisioning(4096, zeroes=False))
        for unit in (THICK, unsure):
            self.assertEqual(refusal(ws, "41 08 00 00 00 00 00 00 01 00", unit), "05/24/00 cb 00 01")
            self.assertEqual(ws("41 00 00 00 00 00 00 00 01 00", unit).blocks, 1)

    @given(st.sampled_from(["41", "93"]), st.binary(min_size=15, max_size=15))
    def test_any_fields(self, operation_code: str, rest: bytes) -> None:
        """Any WRITE SAME is refused, or names blocks that are on the medium and within the limit."""
        command = bytes.fromhex(operation_code) + rest
        try:
            row = find(THIN, command)
            asked = write_same(THIN, row, command)
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
        else:
            self.assertLessEqual(asked.lba + asked.blocks, THIN.blocks)
            self.assertLessEqual(asked.blocks, maximum_write_same_length(THIN))
            self.assertEqual(row.transfer_length(command, 512), 512 if asked.sent else 0)
