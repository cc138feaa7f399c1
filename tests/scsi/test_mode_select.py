from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, ask, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi.mode_select import mode_select
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.unit import Identity, LogicalUnit

OFF = evolve(THICK, write_cache=False)
HEADER_6 = "00 00 00 00"
HEADER_10 = "00 00 00 00 00 00 00 00"
CACHED = " 08 12 04" + " 00" * 17
UNCACHED = " 08 12" + " 00" * 18
RECOVERY = " 01 0a" + " 00" * 10
CONTROL = " 0a 0a 02 10 00 40" + " 00" * 6


def select_6(text: str, unit: LogicalUnit = THICK, length: int | None = None, flags: str = "10") -> bool:
    data = bytes.fromhex(text)
    command = cdb(f"15 {flags} 00 00 {len(data) if length is None else length:02x} 00")
    return mode_select(unit, find(unit, command), command, data)


def select_10(text: str, unit: LogicalUnit = THICK, length: int | None = None) -> bool:
    data = bytes.fromhex(text)
    command = cdb(f"55 10 00 00 00 00 00 {len(data) if length is None else length:04x} 00")
    return mode_select(unit, find(unit, command), command, data)


class ModeSelectTests(SynchronousTestCase):
    def test_write_cache(self) -> None:
        """WCE is what the caching page says, and stays without one; the last of several pages decides."""
        for unit in (THICK, OFF):
            self.assertEqual(select_6(HEADER_6 + UNCACHED, unit), False)
            self.assertEqual(select_10(HEADER_10 + CACHED, unit), True)
            self.assertEqual(select_6(HEADER_6 + RECOVERY + UNCACHED + CONTROL + CACHED, unit), True)
            self.assertEqual(select_6(HEADER_6 + CONTROL, unit), unit.write_cache)
            self.assertEqual(select_6(HEADER_6, unit), unit.write_cache)
            self.assertEqual(select_6("", unit), unit.write_cache)

    def test_what_mode_sense_tells(self) -> None:
        """Whatever MODE SENSE tells can be sent back as it is, and changes nothing."""
        for unit in (THICK, OFF, LogicalUnit(Identity("1"), blocks=1 << 33, block_size=4096)):
            self.assertEqual(select_6(ask(unit, "1A 00 3F 00 FF 00"), unit), unit.write_cache)
            self.assertEqual(select_10(ask(unit, "5A 00 3F 00 00 00 00 01 00 00"), unit), unit.write_cache)
            self.assertEqual(select_10(ask(unit, "5A 10 3F 00 00 00 00 01 00 00"), unit), unit.write_cache)

    def test_flags(self) -> None:
        """A list that is not of pages is refused, and so are the defaults (RTD) and saving (SP)."""
        self.assertEqual(refusal(select_6, HEADER_6, THICK, None, "00"), "05/24/00 cc 00 01")
        self.assertEqual(refusal(select_6, HEADER_6, THICK, None, "12"), "05/24/00 c9 00 01")
        self.assertEqual(refusal(select_6, HEADER_6, THICK, None, "11"), "05/24/00 c8 00 01")

    def test_truncated(self) -> None:
        """A list that ends in the header, in the block descriptor or in a page is 1A/00, wherever it is cut."""
        descriptor = " 00 20 00 00 00 00 02 00"
        whole = bytes.fromhex("00 00 00 08" + descriptor + CACHED + CONTROL)
        ends = {0, 12, 32, 44}
        for length in set(range(45)) - ends:
            self.assertEqual(refusal(select_6, whole[:length].hex()), "05/1a/00 c0 00 04")
        for length in ends:
            self.assertEqual(select_6(whole[:length].hex()), True)
        self.assertEqual(refusal(select_10, HEADER_10 + CACHED[:-3]), "05/1a/00 c0 00 07")
        self.assertEqual(refusal(select_10, "00 00 00 00 01 00 00 10" + " 00" * 15), "05/1a/00 c0 00 07")

    def test_less_than_said(self) -> None:
        """Less data than PARAMETER LIST LENGTH is the same; of more, only so much counts."""
        self.assertEqual(refusal(select_6, HEADER_6 + UNCACHED, THICK, 25), "05/1a/00 c0 00 04")
        self.assertEqual(select_6(HEADER_6 + UNCACHED, THICK, 4), True)

    def test_block_descriptor(self) -> None:
        """A block descriptor may say what is, or "all" or nothing of the number of blocks, and nothing else."""
        for blocks in ("00 20 00 00", "00 00 00 00", "FF FF FF FF"):
            self.assertEqual(select_6(f"00 00 00 08 {blocks} 00 00 02 00" + UNCACHED), False)
        self.assertEqual(refusal(select_6, "00 00 00 08 00 20 00 01 00 00 02 00" + UNCACHED), "05/26/00 8f 00 04")
        self.assertEqual(refusal(select_6, "00 00 00 08 00 20 00 00 00 00 10 00" + UNCACHED), "05/26/00 8f 00 08")
        long = "00 00 00 00 01 00 00 10 00 00 00 00 {} 00 00 00 00 00 00 02 00"
        self.assertEqual(select_10(long.format("00 20 00 00") + UNCACHED), False)
        self.assertEqual(refusal(select_10, long.format("00 20 00 01") + UNCACHED), "05/26/00 8f 00 08")
        self.assertEqual(refusal(select_10, "00 00 00 00 01 00 00 08" + " 00" * 8), "05/26/00 8f 00 06")
        self.assertEqual(refusal(select_6, "00 00 00 10" + " 00" * 16), "05/26/00 8f 00 03")

    def test_medium_type(self) -> None:
        """There is no other medium type."""
        self.assertEqual(refusal(select_6, "00 01 00 00" + CACHED), "05/26/00 8f 00 01")
        self.assertEqual(refusal(select_10, "00 00 01 00 00 00 00 00" + CACHED), "05/26/00 8f 00 02")

    def test_reserved(self) -> None:
        """MODE DATA LENGTH, DEVICE-SPECIFIC PARAMETER and PS come from those who send back what they were told."""
        self.assertEqual(select_6("17 00 90 00" + UNCACHED.replace(" 08", " 88", 1)), False)

    def test_pages(self) -> None:
        """A page that the unit has not, a subpage and a page of another length are refused where they are."""
        self.assertEqual(refusal(select_6, HEADER_6 + " 1C 0A" + " 00" * 10), "05/26/00 8d 00 04")
        self.assertEqual(refusal(select_6, HEADER_6 + " 3F 0A" + " 00" * 10), "05/26/00 8d 00 04")
        self.assertEqual(refusal(select_6, HEADER_6 + CACHED + " 4A 01 00 08" + " 00" * 8), "05/26/00 8e 00 18")
        self.assertEqual(refusal(select_6, HEADER_6 + " 08 0A" + " 00" * 10), "05/26/00 8f 00 05")

    def test_unchangeable(self) -> None:
        """Every other bit must be what it is; the one that is not is pointed at, the most significant first."""
        self.assertEqual(refusal(select_6, HEADER_6 + " 08 12 05" + " 00" * 17), "05/26/00 88 00 06")
        self.assertEqual(refusal(select_6, HEADER_6 + " 08 12 84" + " 00" * 17), "05/26/00 8f 00 06")
        self.assertEqual(refusal(select_6, HEADER_6 + " 01 0a C0" + " 00" * 9), "05/26/00 8f 00 06")
        self.assertEqual(refusal(select_6, HEADER_6 + " 0a 0a 02 10 00 00" + " 00" * 6), "05/26/00 8e 00 09")

    def test_all_or_nothing(self) -> None:
        """A mistake behind a good page undoes it: nothing is decided before the end."""
        self.assertEqual(refusal(select_6, HEADER_6 + UNCACHED + " 1C 00"), "05/26/00 8d 00 18")

    @given(
        st.sampled_from([b"\x15", b"\x55"]), st.binary(max_size=60), st.integers(0, 70), st.sampled_from([0x10, 0x11])
    )
    def test_any_list(self, operation_code: bytes, data: bytes, length: int, flags: int) -> None:
        """Any parameter list is refused or switches the write cache."""
        six = operation_code == b"\x15"
        rest = bytes([0, 0, length, 0]) if six else bytes([0, 0, 0, 0, 0, 0, length, 0])
        command = (operation_code + bytes([flags]) + rest).ljust(16, b"\0")
        try:
            self.assertIn(mode_select(THICK, find(THICK, command), command, data), (True, False))
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
            if error.field is not None and not error.field_in_cdb:
                self.assertLess(error.field, length)
