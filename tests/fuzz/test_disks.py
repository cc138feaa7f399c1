"""Any CDB, any parameter list, any buffer: see :mod:`tests.fuzz.disks` for what must hold."""

from __future__ import annotations

from struct import pack
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.disks import BLOCK_SIZE, BLOCKS, KINDS, LARGEST, FuzzedDisk
from txtcmu.scsi.opcodes import ROWS
from txtcmu.scsi.table import Opcode


class Request(NamedTuple):
    """What an initiator sends."""

    cdb: bytes
    data_out: bytes = b""
    data_in_length: int = 0


def number(low: int, width: int) -> st.SearchStrategy[bytes]:
    """Return bytes of a big-endian number: mostly about ``low``, sometimes any."""
    near = st.integers(0, min(low + 2, 256**width - 1)).map(lambda value: value.to_bytes(width))
    return near | near | st.binary(min_size=width, max_size=width)


@st.composite
def cdbs(draw: st.DrawFn, row: Opcode) -> bytes:
    """Return a CDB of ``row``: its wide fields mostly small, of the other bits mostly those that are evaluated."""
    usage = row.usage
    cdb = bytearray(draw(st.binary(min_size=len(usage), max_size=len(usage))))
    fields, at = [], 2
    while at < len(usage):  # runs of FF are numbers: an LBA, a length
        stop = at
        while stop < len(usage) and usage[stop] == 0xFF and stop - at < 8:
            stop += 1
        if stop > at:
            fields.append((at, stop))
        at = max(stop, at + 1)
    for start, stop in fields:
        cdb[start:stop] = draw(number(BLOCKS, stop - start))
    if draw(st.integers(0, 9)):
        cdb = bytearray(byte & mask for byte, mask in zip(cdb, usage, strict=True))
        cdb[1] &= draw(st.sampled_from([0xFF, 0x1F, 0x08]))
        cdb[row.control] = 0
    cdb[0] = row.operation_code
    if row.service_action is not None:
        cdb[1] = cdb[1] & 0xE0 | row.service_action
    return bytes(cdb)


def unmap_lists() -> st.SearchStrategy[bytes]:
    """Return parameter lists of UNMAP."""
    descriptor = st.builds(lambda lba, blocks: lba + blocks + bytes(4), number(BLOCKS, 8), number(BLOCKS, 4))
    return st.builds(
        lambda header, descriptors: header[:2] + pack(">H", 16 * len(descriptors)) + header[4:] + b"".join(descriptors),
        st.binary(min_size=8, max_size=8),
        st.lists(descriptor, max_size=4),
    )


def mode_lists() -> st.SearchStrategy[bytes]:
    """Return parameter lists of MODE SELECT: headers with and without block descriptors, pages right and wrong."""
    page = st.builds(
        lambda code, body, lie: bytes([code, (len(body) + lie) & 0xFF]) + body,
        st.sampled_from([0x08, 0x0A, 0x01, 0x1C, 0x3F, 0x88, 0x48]),
        st.binary(max_size=20) | st.binary(min_size=18, max_size=18) | st.just(bytes([4, *bytes(17)])),
        st.sampled_from([0, 0, 0, 1, -1]),
    )
    header = st.sampled_from([bytes(4), bytes(8), bytes([0, 0, 0, 8]) + bytes(8)]) | st.binary(min_size=4, max_size=16)
    return st.builds(lambda header, pages: header + b"".join(pages), header, st.lists(page, max_size=3))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Return a command: often one that a disk has, mostly with as much data as it wants."""
    if draw(st.integers(0, 7)) == 0:
        cdb = draw(st.binary(min_size=1, max_size=32))
        length = draw(st.integers(0, 8192))
    else:
        row = draw(st.sampled_from(ROWS))
        cdb = draw(cdbs(row))
        length = min(row.transfer_length(cdb, BLOCK_SIZE), LARGEST)
        if draw(st.integers(0, 4)) == 0:
            length = draw(st.integers(0, 2 * length + 600))
    way = draw(st.sampled_from(["out", "in", "in", "both", "none"]))
    if way == "none" or not length:
        return Request(cdb)
    if way == "in":
        return Request(cdb, b"", length)
    lists = st.binary(max_size=64) | unmap_lists() | mode_lists()
    pattern = draw(st.sampled_from([b"\0", b"\xff"]) | lists.filter(bool))
    fit = draw(st.booleans())
    data = (pattern * (length // len(pattern) + 1))[:length] if fit else pattern
    return Request(cdb, data, length if way == "both" else 0)


@st.composite
def parameter_lists(draw: st.DrawFn) -> Request:
    """Return UNMAP, MODE SELECT and COMPARE AND WRITE whose lengths match what comes with them, more or less."""
    what = draw(st.sampled_from(["unmap", "mode 6", "mode 10", "compare"]))
    if what == "compare":
        lba, blocks = draw(st.integers(0, BLOCKS)), draw(st.integers(0, 3))
        there = bytes(range(256)) * 2 * blocks
        written = draw(st.sampled_from([b"\0", b"\xff", b"\x42"])) * (blocks * BLOCK_SIZE)
        expected = there if draw(st.booleans()) else written
        cdb = pack(">BBQxxxBBB", 0x89, draw(st.sampled_from([0, 0, 8, 0x20])), lba, blocks, 0, 0)
        data = expected + written
    else:
        data = draw(unmap_lists() if what == "unmap" else mode_lists())
        length = max(0, len(data) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, -8])))
        if what == "unmap":
            cdb = pack(">BB5xHB", 0x42, draw(st.sampled_from([0, 0, 0, 1])), length, 0)
        elif what == "mode 6":
            cdb = pack(">BBxxBB", 0x15, draw(st.sampled_from([0x10, 0x10, 0x11, 0])), length & 0xFF, 0)
        else:
            cdb = pack(">BB5xHB", 0x55, draw(st.sampled_from([0x10, 0x10, 0x11, 0])), length, 0)
    return Request(cdb, data)


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, database=None, deadline=None, max_examples=80)
@given(st.lists(requests() | parameter_lists(), min_size=1, max_size=12))
@example([Request(bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0]), b"w" * 600, 0)])
@example([Request(bytes([0x12, 0, 0, 0, 36, 0]), b"o" * 36, 0)])
@example([Request(bytes([0x41, 0, 0, 0, 0, 9, 0, 0, 0, 0]), b"s" * 512, 0)])
@example([Request(bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), b"o" * 512, 512)])
def test_any_command(kind: str, sent: list[Request]) -> None:
    """Any commands one after the other leave a disk that goes on."""
    disk = FuzzedDisk(kind)
    try:
        for request in sent:
            disk.send(*request)
        disk.go_on()
    finally:
        disk.close()
