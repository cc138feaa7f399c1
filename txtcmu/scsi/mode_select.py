"""MODE SELECT (6) and (10) (SPC-5): the write cache can be switched, and all else must stay as it is."""

from __future__ import annotations

from typing import Final

from txtcmu.scsi.mode import (
    HEADER_6,
    HEADER_10,
    LONG_BLOCK_DESCRIPTOR,
    LONGLBA,
    SHORT_BLOCK_DESCRIPTOR,
    WCE,
    changeable,
    current,
)
from txtcmu.scsi.refusals import invalid_field, invalid_parameter, parameter_list_length_error
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["mode_select"]

_PF: Final = 0x10
_RTD: Final = 0x02
_SP: Final = 0x01
_SPF: Final = 0x40
_PAGE_CODE: Final = 0x3F
_CACHING: Final = 0x08


def mode_select(unit: LogicalUnit, row: Opcode, cdb: bytes, parameter_list: bytes | memoryview) -> bool:
    """Return whether the write cache is to be on (WCE), after the parameter list is found good as a whole.

    MODE DATA LENGTH, DEVICE-SPECIFIC PARAMETER and PS are reserved here, and are not looked at.

    :param parameter_list: the Data-Out Buffer; PARAMETER LIST LENGTH says how much of it counts.
    :raise txtcmu.errors.CheckCondition: 05/24/00 for a list that is not of pages (PF is zero), and for RTD and SP;
        05/1A/00 when header, block descriptor or a page is cut short, or less was sent than the CDB says; 05/26/00
        for a page that the unit has not, and for any value but WCE that is not what MODE SENSE tells.
    """
    if not cdb[1] & _PF:
        raise invalid_field(1, 4)
    if cdb[1] & _RTD:
        raise invalid_field(1, 1)
    if cdb[1] & _SP:
        raise invalid_field(1, 0)
    write_cache = unit.write_cache
    length = row.transfer_length(cdb, unit.block_size)
    if not length:
        return write_cache
    truncated = parameter_list_length_error(row.transfer.field.start)
    if length > len(parameter_list):
        raise truncated
    data = bytes(parameter_list[:length])
    try:
        at = _skip_header(unit, row, data)
        while at < length:
            page_code, page_length = data[at] & _PAGE_CODE, data[at + 1]
            body = data[at + 2 : at + 2 + page_length]
            _check_page(unit, data[at], page_length, body, at)
            if len(body) < page_length:
                raise truncated
            if page_code == _CACHING:
                write_cache = bool(body[0] & WCE)
            at += 2 + page_length
    except IndexError:
        raise truncated from None
    return write_cache


def _skip_header(unit: LogicalUnit, row: Opcode, data: bytes) -> int:
    """Check header and block descriptor; return where the pages begin.  :raise IndexError: they are cut short."""
    short_form = row.control == HEADER_6.size + 1
    header = HEADER_6 if short_form else HEADER_10
    if len(data) < header.size:
        raise IndexError
    longlba = 0
    if short_form:
        _, medium_type, _, descriptor_length = header.unpack_from(data)
    else:
        _, medium_type, _, longlba, descriptor_length = header.unpack_from(data)
    if medium_type:
        raise invalid_parameter(1 if short_form else 2, 7)
    layout, none_told, all_told = SHORT_BLOCK_DESCRIPTOR, 0, 0xFFFFFFFF
    if longlba & LONGLBA:
        layout, all_told = LONG_BLOCK_DESCRIPTOR, 0xFFFFFFFFFFFFFFFF
    if descriptor_length not in (0, layout.size):
        raise invalid_parameter(header.size - (1 if short_form else 2), 7)
    if not descriptor_length:
        return header.size
    if len(data) < header.size + layout.size:
        raise IndexError
    blocks, block_size = layout.unpack_from(data, header.size)
    if blocks not in (none_told, all_told, min(unit.blocks, all_told)):
        raise invalid_parameter(header.size, 7)
    if block_size != unit.block_size:
        raise invalid_parameter(header.size + layout.size - 4, 7)
    return header.size + layout.size


def _check_page(unit: LogicalUnit, first: int, page_length: int, body: bytes, at: int) -> None:
    """Refuse a page that the unit has not, one of another length, and values that cannot be had."""
    if first & _SPF:
        raise invalid_parameter(at, 6)
    told = current(unit, first & _PAGE_CODE)
    if told is None:
        raise invalid_parameter(at, 5)
    if page_length != len(told):
        raise invalid_parameter(at + 1, 7)
    for byte, (asked, is_now, mask) in enumerate(zip(body, told, changeable(first & _PAGE_CODE), strict=False)):
        wrong = (asked ^ is_now) & ~mask
        if wrong:
            raise invalid_parameter(at + 2 + byte, wrong.bit_length() - 1)
