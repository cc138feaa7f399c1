from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, ask
from txtcmu.scsi.unit import Identity, LogicalUnit, Provisioning

RC16 = "9E 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00"


class ReadCapacityTests(SynchronousTestCase):
    def test_10(self) -> None:
        """READ CAPACITY (10) tells the last LBA and the block length."""
        self.assertEqual(ask(THICK, "25"), "00 1f ff ff 00 00 02 00")
        self.assertEqual(ask(LogicalUnit(Identity("1"), 1, block_size=4096), "25"), "00 00 00 00 00 00 10 00")

    def test_10_of_a_large_unit(self) -> None:
        """READ CAPACITY (10) tells FFFFFFFFh when the last LBA is that or does not fit."""
        for blocks in (1 << 32, (1 << 32) + 1, 1 << 64):
            self.assertEqual(ask(LogicalUnit(Identity("1"), blocks), "25"), "ff ff ff ff 00 00 02 00")

    def test_16(self) -> None:
        """READ CAPACITY (16) tells neither LBPME nor LBPRZ of a unit that cannot give blocks back."""
        self.assertEqual(ask(THICK, RC16), "00 00 00 00 00 1f ff ff 00 00 02 00" + " 00" * 20)

    def test_16_of_a_thin_unit(self) -> None:
        """READ CAPACITY (16) tells the exponent, LBPME, and LBPRZ only when zeroes are certain."""
        self.assertEqual(ask(THIN, RC16), "00 00 00 00 00 1f ff ff 00 00 02 00 00 03 c0 00" + " 00" * 16)
        unsure = evolve(THIN, provisioning=Provisioning(4096, zeroes=False))
        self.assertEqual(ask(unsure, RC16)[36:47], "00 03 80 00")

    def test_16_of_a_large_unit(self) -> None:
        """READ CAPACITY (16) tells all 64 bits of the last LBA."""
        self.assertEqual(ask(LogicalUnit(Identity("1"), 1 << 64), RC16)[:35], "ff ff ff ff ff ff ff ff 00 00 02 00")

    def test_allocation_length(self) -> None:
        """READ CAPACITY (16) is cut to ALLOCATION LENGTH."""
        self.assertEqual(ask(THICK, RC16.replace("20", "0C")), "00 00 00 00 00 1f ff ff 00 00 02 00")
