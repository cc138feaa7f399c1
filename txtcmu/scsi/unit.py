"""What an initiator may learn about a logical unit: its geometry, its features and its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from attrs import Attribute, define, field, frozen, validators

from txtcmu.errors import ConfigError

__all__ = ["DISCARD", "Identity", "LogicalUnit", "Provisioning"]

DISCARD: Final = "discard"
"""The capability that UNMAP needs."""

_NAA_6_OPENFABRICS: Final = "6001405"  # NAA IEEE Registered Extended, IEEE company id 00-14-05
_NAA_VENDOR_DIGITS: Final = 25  # what is left of the 128 bits, in hexadecimal digits


def _ascii(most: int) -> Callable[[Any, Attribute[str], str], None]:
    """Return a validator: ASCII graphic characters and spaces (SPC-5, ASCII data fields), 1 to ``most`` of them."""

    def validate(_instance: Any, attribute: Attribute[str], value: str) -> None:
        if not 1 <= len(value) <= most or not all(" " <= character <= "~" for character in value):
            raise ConfigError(f"{attribute.name} {value!r} must be 1 to {most} printable ASCII characters")

    return validate


@frozen
class Identity:
    """The names of a logical unit; nothing in here tells where its data lives.

    :ivar serial: PRODUCT SERIAL NUMBER, also what the NAA designator is derived from: it must never change in the
        life of the LUN, and no two LUNs may share it.
    :ivar vendor: T10 VENDOR IDENTIFICATION, at most 8 characters.
    :ivar product: PRODUCT IDENTIFICATION, at most 16.
    :ivar revision: PRODUCT REVISION LEVEL, at most 4.
    :raise txtcmu.errors.ConfigError: one of them is too long or not printable ASCII.
    """

    serial: str = field(validator=_ascii(224))
    vendor: str = field(default="txtcmu", validator=_ascii(8))
    product: str = field(default="TCMU device", validator=_ascii(16))
    revision: str = field(default="0001", validator=_ascii(4))

    @property
    def naa(self) -> bytes:
        """The NAA IEEE Registered Extended designator (SPC-5, NAA 6h), 16 bytes.

        As LIO derives it for its own backstores, and tcmu-runner after it: the OpenFabrics company id 001405,
        then the first 25 hexadecimal digits of the unit serial, everything else in it skipped.  So a LUN keeps
        its ``/dev/disk/by-id/wwn-*`` when it moves between those and txtcmu.  A serial with fewer digits (LIO
        fills up with zeroes, and ``vol1`` of two hosts is one disk to multipath) is hashed instead.
        """
        digits = "".join(character for character in self.serial if character in "0123456789abcdefABCDEF")
        if len(digits) < _NAA_VENDOR_DIGITS:
            digits = hashlib.sha256(self.serial.encode("ascii")).hexdigest()
        return bytes.fromhex(_NAA_6_OPENFABRICS + digits[:_NAA_VENDOR_DIGITS])


@frozen
class Provisioning:
    """A unit that can give blocks back (SBC-4, Thin provisioned logical units).

    :ivar granularity: bytes that can be given back at a time.
    :ivar zeroes: whether unmapped blocks are certain to read as zeroes (LBPRZ).
    """

    granularity: int = field(validator=validators.gt(0))
    zeroes: bool


def _power_of_two(_instance: Any, attribute: Attribute[int], value: int) -> None:
    if value < 1 or value & (value - 1):
        raise ConfigError(f"{attribute.name} {value} must be a power of two")


@define
class LogicalUnit:
    """A direct access block device as the initiator sees it.

    :ivar identity: its names.
    :ivar blocks: number of logical blocks, at least one.
    :ivar block_size: bytes in a logical block, a power of two.
    :ivar physical_block_size: bytes in a physical block, a power of two; less than ``block_size`` counts as that.
    :ivar max_transfer_blocks: MAXIMUM TRANSFER LENGTH of VPD page B0h, and what READ and WRITE are held to.
    :ivar read_only: the medium is write protected (WP).
    :ivar write_cache: completed writes may still be volatile (WCE): SYNCHRONIZE CACHE is needed.
    :ivar dpofua: DPO and FUA are honoured (DPOFUA).
    :ivar provisioning: how it gives blocks back, or ``None``: it cannot.
    :ivar removable: the medium can be ejected (RMB).
    :ivar rotation_rate: MEDIUM ROTATION RATE of VPD page B1h; 1 is a non-rotating medium.
    :raise txtcmu.errors.ConfigError: a size is impossible.
    """

    identity: Identity
    blocks: int = field()
    block_size: int = field(default=512, validator=_power_of_two)
    physical_block_size: int = field(default=512, validator=_power_of_two)
    max_transfer_blocks: int = field(default=2048)
    read_only: bool = False
    write_cache: bool = True
    dpofua: bool = True
    provisioning: Provisioning | None = None
    removable: bool = False
    rotation_rate: int = 1

    @blocks.validator
    def _check_blocks(self, _attribute: Attribute[int], value: int) -> None:
        if not 1 <= value <= 1 << 64:
            raise ConfigError(f"a disk of {value} blocks is impossible: it has from 1 to 2**64")

    @max_transfer_blocks.validator
    def _check_max_transfer_blocks(self, _attribute: Attribute[int], value: int) -> None:
        if not 1 <= value <= 0xFFFFFFFF:
            raise ConfigError(f"max_transfer_blocks {value} must be from 1 to 2**32 - 1")

    @property
    def physical_block_exponent(self) -> int:
        """LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 0..15."""
        return min(15, max(0, self.physical_block_size.bit_length() - self.block_size.bit_length()))

    @property
    def unmaps_by_write_same(self) -> bool:
        """WRITE SAME can give blocks back (LBPWS, LBPWS10): only where they are certain to read as zeroes then."""
        return self.provisioning is not None and self.provisioning.zeroes

    @property
    def capabilities(self) -> frozenset[str]:
        """What this unit has of the capabilities that rows of the command table require."""
        return frozenset({DISCARD}) if self.provisioning is not None else frozenset()
