"""INQUIRY (SPC-5): standard data; vital product data is :mod:`txtcmu.scsi.vpd`."""

from __future__ import annotations

from struct import Struct
from typing import Final

from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.unit import LogicalUnit
from txtcmu.scsi.vpd import vital_product_data

__all__ = ["inquiry"]

_STANDARD: Final = Struct(">BBBBBBBB8s16s4s20x2x8H22x")

_RMB: Final = 0x80
_VERSION_SPC_5: Final = 0x07
_RESPONSE_DATA_FORMAT: Final = 2
_CMDQUE: Final = 0x02

# SAM-6, SPC-5 and SBC-4, each without a claim of version; the transport is the fabric's business.
_VERSION_DESCRIPTORS: Final = (0x00C0, 0x05C0, 0x0600, 0, 0, 0, 0, 0)


def inquiry(unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return standard INQUIRY data (96 bytes), or the VPD page that EVPD and PAGE CODE ask for.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for a VPD page the unit has not, or a page without EVPD.
    """
    if cdb[1] & 0x01:
        return vital_product_data(unit, cdb[2])
    if cdb[2]:
        raise invalid_field(2)
    return _standard(unit)


def _standard(unit: LogicalUnit) -> bytes:
    identity = unit.identity
    return _STANDARD.pack(
        0x00,
        _RMB if unit.removable else 0,
        _VERSION_SPC_5,
        _RESPONSE_DATA_FORMAT,
        _STANDARD.size - 5,
        0,
        0,
        _CMDQUE,
        identity.vendor.ljust(8).encode("ascii"),
        identity.product.ljust(16).encode("ascii"),
        identity.revision.ljust(4).encode("ascii"),
        *_VERSION_DESCRIPTORS,
    )
