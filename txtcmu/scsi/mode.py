"""MODE SENSE (6) and (10), and the mode pages (SPC-5 and SBC-4, Mode parameters).

MODE SELECT (:mod:`txtcmu.scsi.mode_select`) can switch the write cache, and nothing else.  Defaults are what is, and
nothing can be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from txtcmu.scsi.refusals import invalid_field, saving_not_supported
from txtcmu.scsi.unit import LogicalUnit

__all__ = [
    "HEADER_6",
    "HEADER_10",
    "LONGLBA",
    "LONG_BLOCK_DESCRIPTOR",
    "SHORT_BLOCK_DESCRIPTOR",
    "WCE",
    "changeable",
    "current",
    "mode_sense_6",
    "mode_sense_10",
]

# As MODE SELECT has them too: MODE DATA LENGTH, MEDIUM TYPE, DEVICE-SPECIFIC PARAMETER, LONGLBA (in the longer one),
# BLOCK DESCRIPTOR LENGTH.
HEADER_6: Final = Struct(">BBBB")
HEADER_10: Final = Struct(">HBBBxH")
SHORT_BLOCK_DESCRIPTOR: Final = Struct(">II")  # the byte before LOGICAL BLOCK LENGTH is reserved: it is zero
LONG_BLOCK_DESCRIPTOR: Final = Struct(">Q4xI")

_WP: Final = 0x80
_DPOFUA: Final = 0x10
LONGLBA: Final = 0x01

_ALL_PAGES: Final = 0x3F
_ALL_SUBPAGES: Final = 0xFF
_CHANGEABLE: Final = 0b01
_SAVED: Final = 0b11

WCE: Final = 0x04
_GLTSD: Final = 0x02
_UNRESTRICTED_REORDERING: Final = 0x10
_TAS: Final = 0x40


def mode_sense_6(unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return header, short block descriptor unless DBD, and the pages asked for.

    :raise txtcmu.errors.CheckCondition: 05/39/00 for saved values; 05/24/00 for a page or subpage the unit has not.
    """
    pages = _mode_pages(unit, cdb)
    descriptor = b"" if cdb[1] & 0x08 else _short_block_descriptor(unit)
    length = HEADER_6.size + len(descriptor) + len(pages)
    return HEADER_6.pack(length - 1, 0, _device_specific_parameter(unit), len(descriptor)) + descriptor + pages


def mode_sense_10(unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return header, block descriptor (long with LLBAA) unless DBD, and the pages asked for.

    :raise txtcmu.errors.CheckCondition: as :func:`mode_sense_6`.
    """
    pages = _mode_pages(unit, cdb)
    longlba = 0
    descriptor = b""
    if not cdb[1] & 0x08:
        longlba = LONGLBA if cdb[1] & 0x10 else 0
        descriptor = _long_block_descriptor(unit) if longlba else _short_block_descriptor(unit)
    length = HEADER_10.size + len(descriptor) + len(pages)
    header = HEADER_10.pack(length - 2, 0, _device_specific_parameter(unit), longlba, len(descriptor))
    return header + descriptor + pages


def _device_specific_parameter(unit: LogicalUnit) -> int:
    return (_WP if unit.read_only else 0) | (_DPOFUA if unit.dpofua else 0)


def _short_block_descriptor(unit: LogicalUnit) -> bytes:
    return SHORT_BLOCK_DESCRIPTOR.pack(min(unit.blocks, 0xFFFFFFFF), unit.block_size)


def _long_block_descriptor(unit: LogicalUnit) -> bytes:
    return LONG_BLOCK_DESCRIPTOR.pack(min(unit.blocks, 0xFFFFFFFFFFFFFFFF), unit.block_size)


def _mode_pages(unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return the pages that PC, PAGE CODE and SUBPAGE CODE ask for; both MODE SENSEs have them in bytes 2 and 3."""
    page_control = cdb[2] >> 6
    page_code = cdb[2] & 0x3F
    subpage_code = cdb[3]
    if page_control == _SAVED:
        raise saving_not_supported()
    if page_code != _ALL_PAGES and page_code not in _PAGES:
        raise invalid_field(2, 5)
    if subpage_code not in (0x00, _ALL_SUBPAGES):
        raise invalid_field(3)
    codes = _PAGES if page_code == _ALL_PAGES else (page_code,)
    return b"".join(_page(unit, code, page_control) for code in codes)


def _page(unit: LogicalUnit, page_code: int, page_control: int) -> bytes:
    """Return one page: PAGE CODE and PAGE LENGTH are themselves under every PC, the rest is a mask under 01b."""
    body = changeable(page_code) if page_control == _CHANGEABLE else _PAGES[page_code](unit)
    return bytes((page_code, len(body))) + body


def current(unit: LogicalUnit, page_code: int) -> bytes | None:
    """Return a page without its header, or ``None`` when the unit has no such page."""
    build = _PAGES.get(page_code)
    return None if build is None else build(unit)


def changeable(page_code: int) -> bytes:
    """Return the mask of what MODE SELECT can change in a page, without its header."""
    return _CHANGEABLE_VALUES[page_code]


def _read_write_error_recovery(_unit: LogicalUnit) -> bytes:
    """Return page 01h without header: no retries, no early recovery, no time limit; all is the backstore's."""
    return bytes(10)


def _caching(unit: LogicalUnit) -> bytes:
    """Return page 08h without header: WCE; reads may be cached."""
    return bytes((WCE if unit.write_cache else 0, *bytes(17)))


def _control(_unit: LogicalUnit) -> bytes:
    """Return page 0Ah without header.

    Fixed format sense data (D_SENSE zero).  Commands on overlapping blocks that are outstanding together may be
    carried out in any order.  The kernel ends commands that another initiator aborts with TASK ABORTED (TAS).
    """
    return bytes((_GLTSD, _UNRESTRICTED_REORDERING, 0, _TAS)) + bytes(6)


_PAGES: Final[dict[int, Callable[[LogicalUnit], bytes]]] = {
    0x01: _read_write_error_recovery,
    0x08: _caching,
    0x0A: _control,
}

_CHANGEABLE_VALUES: Final[dict[int, bytes]] = {
    0x01: bytes(10),
    0x08: bytes((WCE, *bytes(17))),
    0x0A: bytes(10),
}
