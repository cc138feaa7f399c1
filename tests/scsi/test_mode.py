from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, ask, refusal
from txtcmu.scsi.unit import Identity, LogicalUnit

RECOVERY = " 01 0a 00 00 00 00 00 00 00 00 00 00"
CACHING = " 08 12 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
CONTROL = " 0a 0a 02 10 00 40 00 00 00 00 00 00"
NO_RECOVERY = " 01 0a" + " 00" * 10
ONLY_WCE = " 08 12 04" + " 00" * 17
NO_CONTROL = " 0a 0a" + " 00" * 10
SHORT = " 00 20 00 00 00 00 02 00"
LONG = " 00 00 00 00 00 20 00 00 00 00 00 00 00 00 02 00"


class ModeSense6Tests(SynchronousTestCase):
    def test_all_pages(self) -> None:
        """Page 3Fh is all pages in ascending order, behind header and short block descriptor."""
        self.assertEqual(ask(THICK, "1A 00 3F 00 FF 00"), "37 00 10 08" + SHORT + RECOVERY + CACHING + CONTROL)

    def test_one_page(self) -> None:
        """A page code is that page alone; DBD leaves out the block descriptor."""
        self.assertEqual(ask(THICK, "1A 08 01 00 FF 00"), "0f 00 10 00" + RECOVERY)
        self.assertEqual(ask(THICK, "1A 08 08 00 FF 00"), "17 00 10 00" + CACHING)
        self.assertEqual(ask(THICK, "1A 00 0A 00 FF 00"), "17 00 10 08" + SHORT + CONTROL)

    def test_page_control(self) -> None:
        """WCE alone is changeable, and the defaults are the current values; header and block descriptor always are."""
        self.assertEqual(ask(THICK, "1A 00 7F 00 FF 00"), "37 00 10 08" + SHORT + NO_RECOVERY + ONLY_WCE + NO_CONTROL)
        self.assertEqual(ask(THICK, "1A 00 BF 00 FF 00"), ask(THICK, "1A 00 3F 00 FF 00"))

    def test_saved(self) -> None:
        """Saved values are refused: there are none."""
        self.assertEqual(refusal(ask, THICK, "1A 00 FF 00 FF 00"), "05/39/00 cf 00 02")
        self.assertEqual(refusal(ask, THICK, "5A 00 C8 00 00 00 00 00 FF 00"), "05/39/00 cf 00 02")

    def test_subpages(self) -> None:
        """Subpage FFh adds what there is, nothing; any other subpage is refused."""
        self.assertEqual(ask(THICK, "1A 00 3F FF FF 00"), ask(THICK, "1A 00 3F 00 FF 00"))
        self.assertEqual(ask(THICK, "1A 08 0A FF FF 00"), ask(THICK, "1A 08 0A 00 FF 00"))
        for page in ("3F", "0A"):
            for subpage in ("01", "FE"):
                self.assertEqual(refusal(ask, THICK, f"1A 00 {page} {subpage} FF 00"), "05/24/00 c0 00 03")

    def test_unknown_pages(self) -> None:
        """A page that the unit has not is refused."""
        for page in set(range(0x3F)) - {0x01, 0x08, 0x0A}:
            self.assertEqual(refusal(ask, THICK, f"1A 00 {page:02x} 00 FF 00"), "05/24/00 cd 00 02")

    def test_allocation_length(self) -> None:
        """The reply is cut to ALLOCATION LENGTH; MODE DATA LENGTH stays."""
        self.assertEqual(ask(THICK, "1A 00 3F 00 04 00"), "37 00 10 08")

    def test_device_specific_parameter(self) -> None:
        """WP tells that the medium is write protected, DPOFUA that DPO and FUA are honoured."""
        self.assertEqual(ask(evolve(THICK, read_only=True), "1A 08 08 00 03 00"), "17 00 90")
        self.assertEqual(ask(evolve(THICK, dpofua=False), "1A 08 08 00 03 00"), "17 00 00")

    def test_write_cache(self) -> None:
        """WCE tells whether a completed write may still be volatile."""
        self.assertEqual(ask(evolve(THICK, write_cache=False), "1A 08 08 00 07 00"), "17 00 10 00 08 12 00")


class ModeSense10Tests(SynchronousTestCase):
    def test_short_block_descriptor(self) -> None:
        """Without LLBAA the block descriptor is the short one, and LONGLBA is zero."""
        self.assertEqual(
            ask(THICK, "5A 00 3F 00 00 00 00 00 FF 00"),
            "00 3a 00 10 00 00 00 08" + SHORT + RECOVERY + CACHING + CONTROL,
        )

    def test_long_block_descriptor(self) -> None:
        """With LLBAA the block descriptor is the long one, and LONGLBA is one."""
        self.assertEqual(ask(THICK, "5A 10 0A 00 00 00 00 00 FF 00"), "00 22 00 10 01 00 00 10" + LONG + CONTROL)

    def test_no_block_descriptor(self) -> None:
        """DBD leaves out the block descriptor, LLBAA or not."""
        self.assertEqual(ask(THICK, "5A 08 0A 00 00 00 00 00 FF 00"), "00 12 00 10 00 00 00 00" + CONTROL)
        self.assertEqual(ask(THICK, "5A 18 0A 00 00 00 00 00 FF 00"), "00 12 00 10 00 00 00 00" + CONTROL)

    def test_large_units(self) -> None:
        """A number of blocks that does not fit the block descriptor is all ones."""
        unit = LogicalUnit(Identity("1"), blocks=1 << 32)
        self.assertEqual(ask(unit, "5A 00 0A 00 00 00 00 00 10 00")[24:], "ff ff ff ff 00 00 02 00")
        self.assertEqual(
            ask(unit, "5A 10 0A 00 00 00 00 00 18 00")[24:], "00 00 00 01 00 00 00 00 00 00 00 00 00 00 02 00"
        )
        unit = LogicalUnit(Identity("1"), blocks=1 << 64)
        self.assertEqual(ask(unit, "5A 10 0A 00 00 00 00 00 10 00")[24:], "ff ff ff ff ff ff ff ff")
