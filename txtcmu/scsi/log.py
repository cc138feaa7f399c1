"""LOG SENSE (SPC-5).

The unit keeps no log: nothing counts its errors, measures its temperature or foresees its failure.  So it has the
pages that list the pages, and says so, instead of pages with numbers that nobody has counted.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["log_sense"]

_HEADER: Final = Struct(">BBH")
_SPF: Final = 0x40
_SUPPORTED_PAGES: Final = (0x00, 0x00)
_SUPPORTED_PAGES_AND_SUBPAGES: Final = (0x00, 0xFF)


def log_sense(_unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return a log page, whole; its values are the same under every PC.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for PPC and SP (nothing changes, nothing is saved), for a page or
        subpage that the unit has not, and for a PARAMETER POINTER: these pages have no parameters.
    """
    if cdb[1] & 0x02:
        raise invalid_field(1, 1)
    if cdb[1] & 0x01:
        raise invalid_field(1, 0)
    page_code, subpage_code = cdb[2] & 0x3F, cdb[3]
    if page_code != 0x00:
        raise invalid_field(2, 5)
    if (page_code, subpage_code) not in (_SUPPORTED_PAGES, _SUPPORTED_PAGES_AND_SUBPAGES):
        raise invalid_field(3, 7)
    if cdb[5:7] != b"\0\0":
        raise invalid_field(5, 7)
    if subpage_code:
        pages = bytes((*_SUPPORTED_PAGES, *_SUPPORTED_PAGES_AND_SUBPAGES))
        return _HEADER.pack(_SPF | page_code, subpage_code, len(pages)) + pages
    return _HEADER.pack(page_code, subpage_code, 1) + bytes((page_code,))
