"""Vital product data (SPC-5 and SBC-4, VPD parameters)."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from txtcmu.scsi.compare import maximum_compare_and_write_length
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.unit import LogicalUnit, Provisioning
from txtcmu.scsi.unmap import MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT, MAXIMUM_UNMAP_LBA_COUNT
from txtcmu.scsi.writesame import maximum_write_same_length

__all__ = ["vital_product_data"]

_HEADER: Final = Struct(">BBH")
_DESIGNATOR: Final = Struct(">BBxB")
_BLOCK_LIMITS: Final = Struct(">BBHIIIIIIIQIIIII")
_BLOCK_DEVICE_CHARACTERISTICS: Final = Struct(">H58x")
_LOGICAL_BLOCK_PROVISIONING: Final = Struct(">BBBB")

# Designators (SPC-5, Device Identification VPD page): code set and type; ASSOCIATION 0, the
# logical unit, in all.
_BINARY: Final = 0x01
_ASCII: Final = 0x02
_T10_VENDOR_ID: Final = 0x01
_NAA: Final = 0x03

_UGAVALID: Final = 0x80000000
_LBPU: Final = 0x80
_LBPWS_AND_10: Final = 0x60
_LBPRZ_ZEROES: Final = 1 << 2
_THIN: Final = 0x02


def vital_product_data(unit: LogicalUnit, page_code: int) -> bytes:
    """Return a VPD page, whole.

    :raise txtcmu.errors.CheckCondition: 05/24/00 when the unit has no such page.
    """
    build = _pages(unit).get(page_code)
    if build is None:
        raise invalid_field(2)
    body = build(unit)
    return _HEADER.pack(0x00, page_code, len(body)) + body


def _pages(unit: LogicalUnit) -> dict[int, Callable[[LogicalUnit], bytes]]:
    """Return what builds the pages of ``unit``, in ascending order."""
    pages: dict[int, Callable[[LogicalUnit], bytes]] = {
        0x00: _supported_pages,
        0x80: _unit_serial_number,
        0x83: _device_identification,
        0xB0: _block_limits,
        0xB1: _block_device_characteristics,
    }
    if unit.provisioning is not None:
        pages[0xB2] = _logical_block_provisioning
    return pages


def _supported_pages(unit: LogicalUnit) -> bytes:
    return bytes(_pages(unit))


def _unit_serial_number(unit: LogicalUnit) -> bytes:
    return unit.identity.serial.encode("ascii")


def _device_identification(unit: LogicalUnit) -> bytes:
    """Return the NAA designator, and the T10 vendor ID based one as SPC-5 recommends it: product and serial."""
    identity = unit.identity
    t10 = identity.vendor.ljust(8) + identity.product.ljust(16) + identity.serial
    return _designator(_BINARY, _NAA, identity.naa) + _designator(_ASCII, _T10_VENDOR_ID, t10.encode("ascii"))


def _designator(code_set: int, designator_type: int, designator: bytes) -> bytes:
    return _DESIGNATOR.pack(code_set, designator_type, len(designator)) + designator


def _block_limits(unit: LogicalUnit) -> bytes:
    """Return page B0h; zero is "not reported" or "not supported", as SBC-4 says of each field."""
    unmap_lba_count = unmap_descriptor_count = unmap_granularity = unmap_alignment = 0
    if unit.provisioning is not None:
        unmap_lba_count = MAXIMUM_UNMAP_LBA_COUNT
        unmap_descriptor_count = MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT
        unmap_granularity = _unmap_granularity(unit.provisioning, unit.block_size)
        unmap_alignment = _UGAVALID
    return _BLOCK_LIMITS.pack(
        0,  # WSNZ: WRITE SAME of no blocks goes to the end of the medium
        maximum_compare_and_write_length(unit),
        1 << unit.physical_block_exponent,  # OPTIMAL TRANSFER LENGTH GRANULARITY
        unit.max_transfer_blocks,
        0,  # OPTIMAL TRANSFER LENGTH
        0,  # MAXIMUM PREFETCH LENGTH
        unmap_lba_count,
        unmap_descriptor_count,
        unmap_granularity,
        unmap_alignment,
        maximum_write_same_length(unit),
        0,  # MAXIMUM ATOMIC TRANSFER LENGTH
        0,  # ATOMIC ALIGNMENT
        0,  # ATOMIC TRANSFER LENGTH GRANULARITY
        0,  # MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY
        0,  # MAXIMUM ATOMIC BOUNDARY SIZE
    )


def _unmap_granularity(provisioning: Provisioning, block_size: int) -> int:
    return max(1, provisioning.granularity // block_size)


def _block_device_characteristics(unit: LogicalUnit) -> bytes:
    return _BLOCK_DEVICE_CHARACTERISTICS.pack(unit.rotation_rate)


def _logical_block_provisioning(unit: LogicalUnit) -> bytes:
    """Return page B2h: UNMAP, and WRITE SAME where it unmaps; no thresholds, no anchors, thin provisioned."""
    zeroes = unit.provisioning is not None and unit.provisioning.zeroes
    how = _LBPU | (_LBPWS_AND_10 if unit.unmaps_by_write_same else 0) | (_LBPRZ_ZEROES if zeroes else 0)
    return _LOGICAL_BLOCK_PROVISIONING.pack(0, how, _THIN, 0)
