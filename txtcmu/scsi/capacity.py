"""READ CAPACITY (10) and (16) (SBC-4, READ CAPACITY commands)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from txtcmu.scsi.unit import LogicalUnit

__all__ = ["read_capacity_10", "read_capacity_16"]

_CAPACITY_10: Final = Struct(">II")
_CAPACITY_16: Final = Struct(">QIBBH16x")

_LBPME: Final = 0x8000
_LBPRZ: Final = 0x4000


def read_capacity_10(unit: LogicalUnit, _cdb: bytes) -> bytes:
    """Return the last LBA (FFFFFFFFh: too large, ask READ CAPACITY (16)) and the block length, 8 bytes."""
    return _CAPACITY_10.pack(min(unit.blocks - 1, 0xFFFFFFFF), unit.block_size)


def read_capacity_16(unit: LogicalUnit, _cdb: bytes) -> bytes:
    """Return the last LBA, the block length, the physical block exponent and LBPME and LBPRZ, 32 bytes."""
    provisioning = unit.provisioning
    management = 0
    if provisioning is not None:
        management = _LBPME | (_LBPRZ if provisioning.zeroes else 0)
    return _CAPACITY_16.pack(unit.blocks - 1, unit.block_size, 0, unit.physical_block_exponent, management)
