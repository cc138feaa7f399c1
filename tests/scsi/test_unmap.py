from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THIN, cdb, refusal
from txtcmu.errors import CheckCondition
from txtcmu.scsi.unit import Identity, LogicalUnit, Provisioning
from txtcmu.scsi.unmap import parse_unmap

BIG = LogicalUnit(Identity("big"), blocks=1 << 40, provisioning=Provisioning(4096, zeroes=False))


def unmap(parameter_list: str, length: int | None = None, unit: LogicalUnit = THIN) -> list[tuple[int, int]]:
    """Parse an UNMAP whose PARAMETER LIST LENGTH is that of the list, or ``length``."""
    data = bytes.fromhex(parameter_list)
    size = len(data) if length is None else length
    return parse_unmap(unit, cdb(f"42 00 00 00 00 00 00 {size:04x} 00"), data)


ONE = "0016 0010 00000000   0000000000001000 00000080 00000000"
TWO = "0026 0020 00000000   0000000000001000 00000080 00000000   00000000001FFFFF 00000001 00000000"


class ParseUnmapTests(SynchronousTestCase):
    def test_descriptors(self) -> None:
        """The descriptors are told in their order."""
        self.assertEqual(unmap(ONE), [(0x1000, 0x80)])
        self.assertEqual(unmap(TWO), [(0x1000, 0x80), (0x1FFFFF, 1)])

    def test_nothing(self) -> None:
        """No parameter list, no descriptors and no blocks are no errors."""
        self.assertEqual(unmap(""), [])
        self.assertEqual(unmap("0006 0000 00000000"), [])
        self.assertEqual(unmap("0016 0010 00000000   0000000000001000 00000000 00000000"), [])

    def test_incomplete_descriptor(self) -> None:
        """A descriptor that the length of all descriptors or PARAMETER LIST LENGTH cuts short is ignored."""
        self.assertEqual(unmap(TWO.replace("0020", "001F", 1)), [(0x1000, 0x80)])
        self.assertEqual(unmap(TWO, 0x27), [(0x1000, 0x80)])
        self.assertEqual(unmap(ONE.replace("0010", "0020", 1)), [(0x1000, 0x80)])

    def test_short_list(self) -> None:
        """A list without a whole header, or shorter than the CDB says, is a length error at bytes 7 and 8."""
        self.assertEqual(refusal(unmap, "0006 0000 000000"), "05/1a/00 c0 00 07")
        self.assertEqual(refusal(unmap, ONE, 0x19), "05/1a/00 c0 00 07")

    def test_range(self) -> None:
        """A range that is not on the medium is refused, and points at its descriptor."""
        beyond = "0026 0020 00000000 0000000000001000 00000080 00000000 00000000001FFFFF 00000002 00000000"
        self.assertEqual(refusal(unmap, beyond), "05/21/00 80 00 18")
        wrapping = "0016 0010 00000000 FFFFFFFFFFFFFFFF FFFFFFFF 00000000"
        self.assertEqual(refusal(unmap, wrapping), "05/21/00 80 00 08")

    def test_too_many_descriptors(self) -> None:
        """256 descriptors can be sent, one more cannot."""
        empty = " 00000000000000000000000000000000"
        self.assertEqual(unmap("1006 1000 00000000" + 256 * empty), [])
        self.assertEqual(refusal(unmap, "1016 1010 00000000" + 257 * empty), "05/26/00 80 00 02")

    def test_too_many_blocks(self) -> None:
        """8,388,608 blocks can be given back at a time, all descriptors together; one more cannot."""
        most = "0026 0020 00000000 0000000000000000 00400000 00000000 0000000010000000 00400000 00000000"
        self.assertEqual(len(unmap(most, unit=BIG)), 2)
        more = most.replace("10000000 00400000", "10000000 00400001")
        self.assertEqual(refusal(lambda: unmap(more, unit=BIG)), "05/26/00 80 00 20")

    def test_anchor(self) -> None:
        """ANCHOR is refused: the unit has no anchored blocks."""
        self.assertEqual(refusal(parse_unmap, THIN, cdb("42 01"), b""), "05/24/00 c8 00 01")

    @given(st.binary(max_size=200), st.integers(0, 220))
    def test_any_list(self, parameter_list: bytes, length: int) -> None:
        """Any parameter list is refused, or names blocks on the medium."""
        try:
            extents = unmap(parameter_list.hex(), length)
        except CheckCondition as error:
            self.assertEqual(error.key, 0x5)
        else:
            for lba, blocks in extents:
                self.assertGreater(blocks, 0)
                self.assertLessEqual(lba + blocks, THIN.blocks)

    @given(
        st.integers(0, 0x60),
        st.lists(st.tuples(st.integers(0, 0x200002), st.integers(0, 8)), max_size=6),
    )
    def test_any_descriptors(self, length: int, descriptors: list[tuple[int, int]]) -> None:
        """Whole descriptors on the medium are all told; one that is not spoils the command."""
        body = b"".join(lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(4) for lba, blocks in descriptors)
        parameter_list = (bytes(2) + length.to_bytes(2, "big") + bytes(4) + body).hex()
        whole = descriptors[: length // 16]
        if all(lba + blocks <= THIN.blocks for lba, blocks in whole):
            self.assertEqual(unmap(parameter_list), [each for each in whole if each[1]])
        else:
            self.assertEqual(refusal(unmap, parameter_list)[:8], "05/21/00")
