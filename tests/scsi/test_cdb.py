from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi.cdb import (
    DPO,
    FUA,
    CacheRange,
    StartStop,
    check_range,
    read_write,
    start_stop_unit,
    synchronize_cache,
)
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.unit import Identity, LogicalUnit

HUGE = LogicalUnit(Identity("huge"), blocks=1 << 64, max_transfer_blocks=0xFFFFFFFF)
REMOVABLE = LogicalUnit(Identity("removable"), blocks=1, removable=True)


def rw(text: str, unit: LogicalUnit = THICK) -> tuple[int, int, int]:
    command = cdb(text)
    return read_write(unit, find(unit, command), command)


class ReadWriteTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA and TRANSFER LENGTH are read from 10 and 16 byte CDBs; GROUP NUMBER and CONTROL are not in them."""
        self.assertEqual(rw("28 00 00 01 23 45 3F 01 02 00"), (0x12345, 0x102, 0))
        self.assertEqual(rw("2A 00 00 01 23 45 3F 01 02 00"), (0x12345, 0x102, 0))
        self.assertEqual(rw("88 00 01 23 45 67 89 AB CD EF 00 01 02 03 3F 00", HUGE), (0x0123456789ABCDEF, 0x10203, 0))
        self.assertEqual(rw("8A 00 01 23 45 67 89 AB CD EF 00 01 02 03 3F 00", HUGE), (0x0123456789ABCDEF, 0x10203, 0))

    def test_flags(self) -> None:
        """DPO and FUA are told in byte 1."""
        *_, flags = rw("2A 08 00 00 00 00 00 00 01 00")
        self.assertEqual((flags & FUA, flags & DPO), (FUA, 0))
        *_, flags = rw("88 10 00 00 00 00 00 00 00 00 00 00 00 01 00 00")
        self.assertEqual((flags & FUA, flags & DPO), (0, DPO))

    def test_nothing(self) -> None:
        """Zero blocks are no error, not even right behind the last one."""
        self.assertEqual(rw("28 00 00 20 00 00 00 00 00 00"), (0x200000, 0, 0))
        self.assertEqual(refusal(rw, "28 00 00 20 00 01 00 00 00 00"), "05/21/00 c0 00 02")

    def test_range(self) -> None:
        """The last block can be reached, the one behind it cannot, and no sum wraps around."""
        self.assertEqual(rw("28 00 00 1F FF FF 00 00 01 00"), (0x1FFFFF, 1, 0))
        self.assertEqual(refusal(rw, "28 00 00 1F FF FF 00 00 02 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(rw, "8A 00 FF FF FF FF FF FF FF FF 00 00 00 02 00 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(rw, "8A 00 FF FF FF FF FF FF FF FF 00 00 00 02 00 00", HUGE), "05/21/00 c0 00 02")

    def test_maximum_transfer_length(self) -> None:
        """MAXIMUM TRANSFER LENGTH can be reached; beyond it TRANSFER LENGTH is the field at fault."""
        self.assertEqual(rw("28 00 00 00 00 00 00 08 00 00"), (0, 0x800, 0))
        self.assertEqual(refusal(rw, "28 00 00 00 00 00 00 08 01 00"), "05/24/00 cf 00 07")
        self.assertEqual(refusal(rw, "88 00 00 00 00 00 00 00 00 00 00 00 08 01 00 00"), "05/24/00 cf 00 0a")

    def test_protection(self) -> None:
        """Any RDPROTECT or WRPROTECT is refused: there is no protection information."""
        for protect in ("20", "80", "E8"):
            self.assertEqual(refusal(rw, f"28 {protect} 00 00 00 00 00 00 01 00"), "05/24/00 cf 00 01")
            self.assertEqual(refusal(rw, f"8A {protect}" + " 00" * 14), "05/24/00 cf 00 01")

    def test_short_forms(self) -> None:
        """The 6 byte forms have 21 bits of LBA, and 256 blocks for none; the 12 byte ones are as the others."""
        self.assertEqual(rw("08 FF 23 45 03 00"), (0x1F2345, 3, 0))
        self.assertEqual(rw("0A 01 23 45 00 00"), (0x12345, 256, 0))
        self.assertEqual(rw("A8 00 00 01 23 45 00 00 01 02 00 00"), (0x12345, 0x102, 0))
        self.assertEqual(rw("AA 18 00 01 23 45 00 00 01 02 00 00"), (0x12345, 0x102, DPO | FUA))

    def test_short_forms_refused(self) -> None:
        """Their fields at fault are where they are; 256 blocks may be too many."""
        self.assertEqual(refusal(rw, "08 1F FF FF 02 00"), "05/21/00 c0 00 01")
        self.assertEqual(refusal(rw, "08 1F FF 01 00 00"), "05/21/00 c0 00 01")
        self.assertEqual(refusal(rw, "AA 00 00 1F FF FF 00 00 00 02 00 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(rw, "A8 20" + " 00" * 10), "05/24/00 cf 00 01")
        self.assertEqual(refusal(rw, "A8 00 00 00 00 00 00 00 08 01 00 00"), "05/24/00 cf 00 06")
        small = LogicalUnit(Identity("small"), blocks=0x1000, max_transfer_blocks=255)
        self.assertEqual(refusal(rw, "08 00 00 00 00 00", small), "05/24/00 cf 00 04")

    @given(st.sampled_from(["08", "0A", "28", "2A", "88", "8A", "A8", "AA"]), st.binary(min_size=15, max_size=15))
    def test_any_fields(self, operation_code: str, rest: bytes) -> None:
        """Any READ or WRITE is refused, or names blocks that are on the medium and no more than can be moved."""
        try:
            lba, blocks, _ = rw(operation_code + rest.hex())
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
        else:
            self.assertLessEqual(lba + blocks, THICK.blocks)
            self.assertLessEqual(blocks, THICK.max_transfer_blocks)

    def test_check_range(self) -> None:
        """The check by itself is the same."""
        check_range(THICK, 0, THICK.blocks)
        self.assertEqual(refusal(check_range, THICK, 1, THICK.blocks), "05/21/00 c0 00 02")


def sync(text: str) -> CacheRange:
    command = cdb(text)
    return synchronize_cache(THICK, find(THICK, command), command)


class SynchronizeCacheTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """LBA, NUMBER OF LOGICAL BLOCKS and IMMED are read from both CDBs."""
        self.assertEqual(sync("35 00 00 00 01 00 00 00 08 00"), CacheRange(0x100, 8, False))
        self.assertEqual(sync("91 02 00 00 00 00 00 00 01 00 00 01 00 00 00 00"), CacheRange(0x100, 0x10000, True))

    def test_to_the_end(self) -> None:
        """No blocks means all of them from the LBA on."""
        self.assertEqual(sync("35" + " 00" * 9), CacheRange(0, 0x200000, False))
        self.assertEqual(sync("35 00 00 1F FF FF 00 00 00 00"), CacheRange(0x1FFFFF, 1, False))

    def test_range(self) -> None:
        """A range that is not on the medium is refused; a long one that is, is not."""
        self.assertEqual(refusal(sync, "35 00 00 20 00 01 00 00 00 00"), "05/21/00 c0 00 02")
        self.assertEqual(refusal(sync, "35 00 00 1F FF FF 00 00 02 00"), "05/21/00 c0 00 02")
        self.assertEqual(sync("91 00 00 00 00 00 00 00 00 00 00 20 00 00 00 00").blocks, 0x200000)


class StartStopUnitTests(SynchronousTestCase):
    def test_start_and_stop(self) -> None:
        """START starts or stops, a stop writes the cache back unless NO_FLUSH, and IMMED is told."""
        self.assertEqual(start_stop_unit(THICK, cdb("1B 00 00 00 01 00")), StartStop(True, False, False, False))
        self.assertEqual(start_stop_unit(THICK, cdb("1B 01 00 00 00 00")), StartStop(False, True, False, True))
        self.assertEqual(start_stop_unit(THICK, cdb("1B 00 00 00 04 00")), StartStop(False, False, False, False))

    def test_load_eject(self) -> None:
        """LOEJ is refused by a fixed medium, and told of a removable one."""
        self.assertEqual(refusal(start_stop_unit, THICK, cdb("1B 00 00 00 02 00")), "05/24/00 c9 00 04")
        self.assertEqual(refusal(start_stop_unit, THICK, cdb("1B 00 00 00 03 00")), "05/24/00 c9 00 04")
        self.assertEqual(start_stop_unit(REMOVABLE, cdb("1B 00 00 00 02 00")), StartStop(False, True, True, False))

    def test_power_conditions(self) -> None:
        """ACTIVE starts, LU_CONTROL changes nothing, and START and LOEJ do not count beside them."""
        self.assertEqual(start_stop_unit(THICK, cdb("1B 00 00 00 12 00")), StartStop(True, False, False, False))
        self.assertEqual(start_stop_unit(THICK, cdb("1B 01 00 00 70 00")), StartStop(None, False, False, True))

    def test_no_such_power_condition(self) -> None:
        """Idle, standby, their forced forms, reserved ones and modifiers are refused."""
        for power_condition in "234568 9ABCDEF".replace(" ", ""):
            command = cdb(f"1B 00 00 00 {power_condition}0 00")
            self.assertEqual(refusal(start_stop_unit, THICK, command), "05/24/00 cf 00 04")
        self.assertEqual(refusal(start_stop_unit, THICK, cdb("1B 00 00 01 10 00")), "05/24/00 cb 00 03")
