"""GET LBA STATUS (SBC-4)."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from txtcmu.scsi.cdb import check_range
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["get_lba_status", "lba_status", "whole_blocks"]

_HEADER: Final = Struct(">I4x")
_DESCRIPTOR: Final = Struct(">QIB3x")
_COUNTED: Final = 4  # bytes of the header that PARAMETER DATA LENGTH counts
_MAPPED: Final = 0x0
_DEALLOCATED: Final = 0x1
_MOST: Final = 0xFFFFFFFF  # NUMBER OF LOGICAL BLOCKS has four bytes
_REPORT_TYPE: Final = 14


def get_lba_status(unit: LogicalUnit, row: Opcode, cdb: bytes) -> tuple[int, int]:
    """Decode GET LBA STATUS (16) (SBC-4, GET LBA STATUS (16) command).

    :return: STARTING LOGICAL BLOCK ADDRESS, and the number of descriptors for which there is room: at least one.
    :raise txtcmu.errors.CheckCondition: 05/24/00 for a REPORT TYPE but "all"; 05/21/00 for an LBA that is not on
        the medium.
    """
    if cdb[_REPORT_TYPE]:
        raise invalid_field(_REPORT_TYPE, 7)
    lba = int.from_bytes(cdb[2:10], "big")
    check_range(unit, lba, 1)
    room = row.transfer_length(cdb, unit.block_size) - _HEADER.size
    return lba, max(1, room // _DESCRIPTOR.size)


def whole_blocks(extents: Iterable[tuple[int, bool]], block_size: int) -> list[tuple[int, bool]]:
    """Return extents in blocks for extents in bytes, both ``(length, mapped)``; neighbours of a kind are one.

    A block of which any byte is mapped is mapped.  One of which the end is not told counts as mapped too.
    """
    merged: list[tuple[int, bool]] = []
    at = done = 0  # both in bytes; done is a whole number of blocks
    for length, mapped in extents:
        at += length
        # A mapped extent claims the block in which it ends, another leaves it to its successor.
        end = at - at % block_size if not mapped else -(-at // block_size) * block_size
        if end > done:
            before = 0
            if merged and merged[-1][1] == mapped:
                before, _ = merged.pop()
            merged.append((before + (end - done) // block_size, mapped))
            done = end
    if not merged and at:
        merged.append((1, True))
    return merged


def lba_status(lba: int, extents: list[tuple[int, bool]], room: int) -> bytes:
    """Return the parameter data: what is where from ``lba`` on, in at most ``room`` descriptors.

    :param extents: ``(blocks, mapped)``, in order and without gaps, at least one.
    """
    descriptors = []
    for blocks, mapped in extents[:room]:
        count = min(blocks, _MOST)
        descriptors.append(_DESCRIPTOR.pack(lba, count, _MAPPED if mapped else _DEALLOCATED))
        lba += count
        if count < blocks:
            break  # the initiator asks again for the rest
    data = b"".join(descriptors)
    return _HEADER.pack(_COUNTED + len(data)) + data
