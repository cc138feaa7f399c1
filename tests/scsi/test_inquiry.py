from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN, ask, refusal
from txtcmu.scsi.unit import Identity, LogicalUnit, Provisioning


class StandardInquiryTests(SynchronousTestCase):
    def test_data(self) -> None:
        """A disk that knows SAM-6, SPC-5 and SBC-4, with command queuing and nothing that it has not."""
        self.assertEqual(
            ask(THICK, "12 00 00 00 FF 00"),
            "00 00 07 02 5b 00 00 02"
            " 74 78 74 63 6d 75 20 20"  # txtcmu
            " 54 43 4d 55 20 64 65 76 69 63 65 20 20 20 20 20"  # TCMU device
            " 30 30 30 31" + " 00" * 22 + " 00 c0 05 c0 06 00 00 00 00 00 00 00 00 00 00 00" + " 00" * 22,  # 0001
        )

    def test_allocation_length(self) -> None:
        """The reply is cut to ALLOCATION LENGTH, both bytes of it; ADDITIONAL LENGTH stays."""
        self.assertEqual(ask(THICK, "12 00 00 00 05 00"), "00 00 07 02 5b")
        self.assertEqual(len(bytes.fromhex(ask(THICK, "12 00 00 01 00 00"))), 96)
        self.assertEqual(ask(THICK, "12 00 00 00 00 00"), "")

    def test_removable(self) -> None:
        """RMB tells of a removable medium."""
        self.assertEqual(ask(evolve(THICK, removable=True), "12 00 00 00 02 00"), "00 80")

    def test_names(self) -> None:
        """The names that the operator gave are told, to their last character."""
        identity = Identity("1", vendor="VENDOR78", product="PRODUCT90123456X", revision="R234")
        data = bytes.fromhex(ask(LogicalUnit(identity, blocks=1), "12 00 00 00 FF 00"))
        self.assertEqual(data[8:36], b"VENDOR78PRODUCT90123456XR234")

    def test_page_without_evpd(self) -> None:
        """A PAGE CODE without EVPD is refused."""
        self.assertEqual(refusal(ask, THICK, "12 00 80 00 FF 00"), "05/24/00 c0 00 02")


class VitalProductDataTests(SynchronousTestCase):
    def test_supported_pages(self) -> None:
        """Page 00h lists the pages; B2h is there only when blocks can be given back."""
        self.assertEqual(ask(THICK, "12 01 00 00 FF 00"), "00 00 00 05 00 80 83 b0 b1")
        self.assertEqual(ask(THIN, "12 01 00 00 FF 00"), "00 00 00 06 00 80 83 b0 b1 b2")

    def test_unsupported_pages(self) -> None:
        """Every page that is not listed is refused."""
        for unit, pages in ((THICK, {0, 0x80, 0x83, 0xB0, 0xB1}), (THIN, {0, 0x80, 0x83, 0xB0, 0xB1, 0xB2})):
            for page in set(range(256)) - pages:
                self.assertEqual(refusal(ask, unit, f"12 01 {page:02x} 00 FF 00"), "05/24/00 c0 00 02")

    def test_every_page(self) -> None:
        """Every page names itself and is as long as it says."""
        for page in bytes.fromhex(ask(THIN, "12 01 00 00 FF 00"))[4:]:
            data = bytes.fromhex(ask(THIN, f"12 01 {page:02x} FF FF 00"))
            self.assertEqual((data[0], data[1]), (0, page))
            self.assertEqual(len(data), 4 + int.from_bytes(data[2:4], "big"))

    def test_unit_serial_number(self) -> None:
        """Page 80h is the serial."""
        unit = LogicalUnit(Identity("vol-7"), blocks=1)
        self.assertEqual(ask(unit, "12 01 80 00 FF 00"), "00 80 00 05 76 6f 6c 2d 37")

    def test_device_identification(self) -> None:
        """Page 83h has the NAA 6h designator that LIO makes of the serial, and the T10 one of product and serial."""
        self.assertEqual(
            ask(THICK, "12 01 83 00 FF 00"),
            "00 83 00 54"
            " 01 03 00 10 60 01 40 50 b1 c2 d3 e4 f5 06 17 28 39 4a 5b 6c"
            " 02 01 00 3c 74 78 74 63 6d 75 20 20 54 43 4d 55 20 64 65 76 69 63 65 20 20 20 20 20"
            " 30 62 31 63 32 64 33 65 2d 34 66 35 30 2d 36 31 37 32 2d 38 33 39 34 2d"
            " 61 35 62 36 63 37 64 38 65 39 66 30",
        )

    def test_block_limits(self) -> None:
        """Page B0h tells the limits of transfers, COMPARE AND WRITE, UNMAP and WRITE SAME (WSNZ is zero)."""
        self.assertEqual(
            ask(THIN, "12 01 B0 00 FF 00"),
            "00 b0 00 3c"
            " 00 ff 00 08 00 00 10 00 00 00 00 00 00 00 00 00"
            " 00 80 00 00 00 00 01 00 00 00 00 80 80 00 00 00 00 00 00 00 00 01 00 00" + " 00" * 20,
        )
        self.assertEqual(
            ask(THICK, "12 01 B0 00 FF 00"),
            "00 b0 00 3c 00 ff 00 01 00 00 08 00" + " 00" * 24 + " 00 00 00 00 00 01 00 00" + " 00" * 20,
        )

    def test_limits_follow_the_unit(self) -> None:
        """Twice MAXIMUM COMPARE AND WRITE LENGTH is a transfer; 32 MiB of blocks are MAXIMUM WRITE SAME LENGTH."""
        small = LogicalUnit(Identity("1"), blocks=1, block_size=4096, max_transfer_blocks=9)
        data = bytes.fromhex(ask(small, "12 01 B0 00 FF 00"))
        self.assertEqual((data[5], int.from_bytes(data[36:44], "big")), (4, 8192))
        huge = LogicalUnit(Identity("1"), blocks=1, block_size=1 << 26, max_transfer_blocks=1)
        data = bytes.fromhex(ask(huge, "12 01 B0 00 FF 00"))
        self.assertEqual((data[5], int.from_bytes(data[36:44], "big")), (1, 1))

    def test_unmap_granularity(self) -> None:
        """A granularity below the block size is one block."""
        unit = LogicalUnit(Identity("1"), blocks=1, block_size=4096, provisioning=Provisioning(512, zeroes=False))
        self.assertEqual(bytes.fromhex(ask(unit, "12 01 B0 00 FF 00"))[28:32].hex(), "00000001")

    def test_block_device_characteristics(self) -> None:
        """Page B1h tells the rotation rate; 1 is no rotation."""
        self.assertEqual(ask(THICK, "12 01 B1 00 FF 00"), "00 b1 00 3c 00 01" + " 00" * 58)
        self.assertEqual(ask(evolve(THICK, rotation_rate=7200), "12 01 B1 00 06 00"), "00 b1 00 3c 1c 20")

    def test_logical_block_provisioning(self) -> None:
        """Page B2h tells thin provisioning by UNMAP, and WRITE SAME and LBPRZ only when zeroes are certain."""
        self.assertEqual(ask(THIN, "12 01 B2 00 FF 00"), "00 b2 00 04 00 e4 02 00")
        unsure = evolve(THIN, provisioning=Provisioning(65536, zeroes=False))
        self.assertEqual(ask(unsure, "12 01 B2 00 FF 00"), "00 b2 00 04 00 80 02 00")
