from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.scsi.support import THICK, THIN
from txtcmu.errors import ConfigError
from txtcmu.scsi.unit import DISCARD, Identity, LogicalUnit, Provisioning


class IdentityTests(SynchronousTestCase):
    def test_uuid(self) -> None:
        """The NAA designator of a UUID is what LIO gives it: 6001405 and its first 25 hexadecimal digits."""
        self.assertEqual(Identity("0B1C2D3E-4f50-6172-8394-a5b6c7d8e9f0").naa.hex(), "60014050b1c2d3e4f5061728394a5b6c")

    def test_names(self) -> None:
        """Serials with few hexadecimal digits are told apart all the same, and each is always the same."""
        self.assertEqual(Identity("vol1").naa.hex(), Identity("vol1").naa.hex())
        self.assertEqual(len({Identity(f"{host}{n}").naa for host in ("vol", "host") for n in range(10)}), 20)

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=224))
    def test_naa(self, serial: str) -> None:
        """Any serial gives 16 bytes that begin with NAA 6h and the company id 001405."""
        naa = Identity(serial).naa
        self.assertEqual((len(naa), naa.hex()[:7]), (16, "6001405"))

    def test_impossible(self) -> None:
        """Names that do not fit their fields are refused, with the name in the message."""
        for arguments, name in (
            ({"serial": ""}, "serial"),
            ({"serial": "x" * 225}, "serial"),
            ({"serial": "caf\u00e9"}, "serial"),
            ({"serial": "1", "vendor": "123456789"}, "vendor"),
            ({"serial": "1", "product": "a\tb"}, "product"),
            ({"serial": "1", "revision": "12345"}, "revision"),
        ):
            error = self.assertRaises(ConfigError, Identity, **arguments)
            self.assertIn(name, str(error))


class LogicalUnitTests(SynchronousTestCase):
    def test_physical_block_exponent(self) -> None:
        """The exponent is that of physical blocks in logical ones; smaller physical blocks do not exist."""
        for block_size, physical, exponent in ((512, 512, 0), (512, 4096, 3), (4096, 512, 0), (512, 1 << 30, 15)):
            unit = LogicalUnit(Identity("1"), 1, block_size=block_size, physical_block_size=physical)
            self.assertEqual(unit.physical_block_exponent, exponent)

    def test_capabilities(self) -> None:
        """What can give blocks back has that capability."""
        self.assertEqual(THICK.capabilities, frozenset())
        self.assertEqual(THIN.capabilities, {DISCARD})

    def test_impossible(self) -> None:
        """Sizes that no disk can have are refused, when it is made and when it is changed."""
        for arguments in (
            {"blocks": 0},
            {"blocks": (1 << 64) + 1},
            {"blocks": 1, "block_size": 520},
            {"blocks": 1, "block_size": 0},
            {"blocks": 1, "physical_block_size": 3000},
            {"blocks": 1, "max_transfer_blocks": 0},
        ):
            self.assertRaises(ConfigError, LogicalUnit, Identity("1"), **arguments)
        unit = LogicalUnit(Identity("1"), 8)
        self.assertRaises(ConfigError, setattr, unit, "blocks", 0)
        self.assertRaises(ValueError, Provisioning, 0, zeroes=True)
