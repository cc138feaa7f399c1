"""UNMAP (SBC-4, UNMAP command): its limits and its parameter list."""

from __future__ import annotations

from struct import Struct
from typing import Final

from txtcmu.scsi.refusals import invalid_field, invalid_parameter, lba_out_of_range, parameter_list_length_error
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT", "MAXIMUM_UNMAP_LBA_COUNT", "parse_unmap"]

MAXIMUM_UNMAP_LBA_COUNT: Final = 0x00800000
"""Blocks in one command, all descriptors together; VPD page B0h says so."""

MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT: Final = 256
"""Descriptors in one command; VPD page B0h says so."""

_HEADER: Final = Struct(">HH4x")
_DESCRIPTOR: Final = Struct(">QI4x")
_PARAMETER_LIST_LENGTH: Final = 7  # where it begins in the CDB


def parse_unmap(unit: LogicalUnit, cdb: bytes, parameter_list: bytes | memoryview) -> list[tuple[int, int]]:
    """Return what UNMAP asks to give back: pairs of LBA and number of blocks, in the order given, none empty.

    A descriptor that PARAMETER LIST LENGTH or UNMAP BLOCK DESCRIPTOR DATA LENGTH cuts short is ignored; a
    parameter list of no bytes, and one without descriptors, are no error.

    :param parameter_list: the Data-Out buffer; PARAMETER LIST LENGTH says how much of it counts.
    :raise txtcmu.errors.CheckCondition: 05/24/00 for ANCHOR (ANC_SUP is zero); 05/1A/00 when not even the header is
        there, or less than PARAMETER LIST LENGTH was sent; 05/26/00 for more descriptors or blocks than VPD page
        B0h allows; 05/21/00 for a range that is not on the medium.
    """
    if cdb[1] & 0x01:
        raise invalid_field(1, 0)
    parameter_list_length = int.from_bytes(cdb[7:9], "big")
    if not parameter_list_length:
        return []
    if parameter_list_length < _HEADER.size or parameter_list_length > len(parameter_list):
        raise parameter_list_length_error(_PARAMETER_LIST_LENGTH)
    _, data_length = _HEADER.unpack_from(parameter_list)
    count = min(data_length, parameter_list_length - _HEADER.size) // _DESCRIPTOR.size
    if count > MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT:
        raise invalid_parameter(2)
    extents = []
    total = 0
    for at in range(_HEADER.size, _HEADER.size + count * _DESCRIPTOR.size, _DESCRIPTOR.size):
        lba, blocks = _DESCRIPTOR.unpack_from(parameter_list, at)
        if lba + blocks > unit.blocks:
            raise lba_out_of_range(at, in_cdb=False)
        total += blocks
        if total > MAXIMUM_UNMAP_LBA_COUNT:
            raise invalid_parameter(at + 8)
        if blocks:
            extents.append((lba, blocks))
    return extents
