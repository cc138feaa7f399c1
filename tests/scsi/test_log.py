from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, ask, refusal


class LogSenseTests(SynchronousTestCase):
    def test_supported_pages(self) -> None:
        """Page 00h lists itself, the only page there is; subpage FFh lists both forms; PC makes no difference."""
        for page_control in ("00", "40", "80", "C0"):
            self.assertEqual(ask(THICK, f"4D 00 {page_control} 00 00 00 00 00 FF 00"), "00 00 00 01 00")
            self.assertEqual(ask(THICK, f"4D 00 {page_control} FF 00 00 00 00 FF 00"), "40 ff 00 04 00 00 00 ff")

    def test_allocation_length(self) -> None:
        """The reply is cut to ALLOCATION LENGTH; PAGE LENGTH stays."""
        self.assertEqual(ask(THICK, "4D 00 40 00 00 00 00 00 04 00"), "00 00 00 01")
        self.assertEqual(ask(THICK, "4D 00 40 00 00 00 00 00 00 00"), "")

    def test_refused(self) -> None:
        """PPC, SP, other pages and subpages, and parameters that are not there are refused, each at its field."""
        self.assertEqual(refusal(ask, THICK, "4D 02 40 00 00 00 00 00 FF 00"), "05/24/00 c9 00 01")
        self.assertEqual(refusal(ask, THICK, "4D 01 40 00 00 00 00 00 FF 00"), "05/24/00 c8 00 01")
        for page in range(1, 0x40):
            self.assertEqual(refusal(ask, THICK, f"4D 00 {0x40 | page:02x} 00 00 00 00 00 FF 00"), "05/24/00 cd 00 02")
        self.assertEqual(refusal(ask, THICK, "4D 00 40 01 00 00 00 00 FF 00"), "05/24/00 cf 00 03")
        self.assertEqual(refusal(ask, THICK, "4D 00 40 00 00 00 01 00 FF 00"), "05/24/00 cf 00 05")
