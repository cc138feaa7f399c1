from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THIN, cdb, refusal
from txtcmu.scsi.lba_status import get_lba_status, lba_status, whole_blocks
from txtcmu.scsi.opcodes import find


def asked(text: str) -> tuple[int, int]:
    command = cdb(text)
    return get_lba_status(THIN, find(THIN, command), command)


class GetLBAStatusTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA and ALLOCATION LENGTH are read; there is room for whole descriptors, and always for one."""
        for length, room in ((0, 1), (8, 1), (24, 1), (39, 1), (40, 2), (0x10000, 4095)):
            self.assertEqual(asked(f"9E 12 00 00 00 00 00 01 23 45 {length:08x} 00 00"), (0x12345, room))

    def test_refused(self) -> None:
        """An LBA that is not on the medium is refused, and a REPORT TYPE of something else than all."""
        self.assertEqual(asked("9E 12 00 00 00 00 00 1F FF FF 00 00 00 18 00 00"), (0x1FFFFF, 1))
        self.assertEqual(refusal(asked, "9E 12 00 00 00 00 00 20 00 00 00 00 00 18 00 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(asked, "9E 12" + " FF" * 8 + " 00 00 00 18 00 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(asked, "9E 12" + " 00" * 12 + " 01 00"), "05/24/00 cf 00 0e")


class ParameterDataTests(SynchronousTestCase):
    def test_descriptors(self) -> None:
        """Header and descriptors follow one another; PARAMETER DATA LENGTH counts what is behind it."""
        self.assertEqual(
            lba_status(0x100, [(8, True), (16, False)], 9).hex(" "),
            "00 00 00 24 00 00 00 00"
            " 00 00 00 00 00 00 01 00 00 00 00 08 00 00 00 00"
            " 00 00 00 00 00 00 01 08 00 00 00 10 01 00 00 00",
        )

    def test_room(self) -> None:
        """No more descriptors than there is room for are told."""
        self.assertEqual(lba_status(0, [(8, True), (16, False)], 1)[:4].hex(), "00000014")

    def test_long_extent(self) -> None:
        """An extent that its descriptor cannot count is told in part, and is the last."""
        data = lba_status(0, [(1 << 32, False), (1, True)], 9)
        self.assertEqual(data[8:].hex(), "0000000000000000ffffffff01000000")


EXTENTS = st.lists(st.tuples(st.integers(1, 2000), st.booleans()), max_size=12)


class WholeBlocksTests(SynchronousTestCase):
    @given(EXTENTS)
    def test_any_extents(self, extents: list[tuple[int, bool]]) -> None:
        """A block is mapped if one of its bytes is; the last may be left out, but not when it is the only one."""
        data = [mapped for length, mapped in extents for mapped in [mapped] * length]
        blocks = [any(data[at : at + 512]) for at in range(0, len(data), 512)]
        merged = whole_blocks(extents, 512)
        told = [mapped for count, mapped in merged for mapped in [mapped] * count]
        whole = len(data) // 512
        self.assertEqual(told[:whole], blocks[:whole])
        self.assertGreaterEqual(len(told), whole)
        self.assertLessEqual(len(told), len(blocks))
        self.assertTrue(all(told[whole:]))
        self.assertEqual(bool(told), bool(data))
        for before, after in pairwise(merged):
            self.assertNotEqual(before[1], after[1])
