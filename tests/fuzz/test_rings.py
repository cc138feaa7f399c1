"""Any bytes, and any entries, in a ring of either version: see :mod:`tests.fuzz.rings`."""

from __future__ import annotations

from struct import pack

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.rings import DATA, DATA_SIZE, RING_SIZE, FuzzedRing
from txtcmu.kernel import abi, abi_v1

BASE = abi.MAILBOX_SIZE
SETTINGS = settings(derandomize=True, database=None, deadline=None, max_examples=250)
NEAR = st.integers(0, 4)


def iovecs() -> st.SearchStrategy[list[tuple[int, int]]]:
    """Return iovecs as a kernel makes them, such as overlap, and such as cannot be."""
    possible = st.integers(0, DATA_SIZE).flatmap(
        lambda base: st.tuples(st.just(DATA + base), st.integers(0, DATA_SIZE - base))
    )
    edge = st.sampled_from([0, 1, BASE, DATA - 1, DATA, DATA + DATA_SIZE - 1, DATA + DATA_SIZE, 1 << 32, (1 << 64) - 1])
    some = st.lists(possible, max_size=8)
    return some | some | some | st.lists(possible | st.tuples(edge, edge), max_size=8)


@st.composite
def commands(draw: st.DrawFn, version: int, at: int) -> bytes:
    """Return a CMD entry for offset ``at`` of the ring, sound or with one field that is not."""
    vectors = draw(iovecs())
    cdb = draw(st.binary(min_size=16, max_size=16))
    first = abi.IOVECS_OFFSET if version == 2 else abi_v1.IOVECS_OFFSET
    cdb_at = max(abi.ENTRY_SIZE, first + 16 * len(vectors))
    size = cdb_at + 16
    count, bidi, cdb_off, cmd_id = len(vectors), 0, BASE + at + cdb_at, draw(st.integers(0, 9))
    match draw(st.sampled_from([""] * 12 + ["count", "bidi", "bidi", "cdb", "size"])):
        case "count":
            count = draw(st.integers(0, 12) | st.integers(0, 2**32 - 1))
        case "bidi":
            bidi = draw(st.integers(0, count))
            count -= bidi
        case "cdb":
            cdb_off += draw(st.integers(-200, 40)) if draw(st.booleans()) else draw(st.integers(0, 2**64 - 1)) - cdb_off
        case "size":
            size = draw(st.integers(0, 40)) * 8
    if version == 2:
        header = pack("=IHBBIIIxxxxQQQ", size | abi.OP_CMD, cmd_id, 0, 0, count, bidi, 0, cdb_off & (2**64 - 1), 0, 0)
    else:
        header = abi_v1.REQUEST.pack(size | abi.OP_CMD, cmd_id, cdb_off & (2**64 - 1), count)
    body = header + b"".join(abi.IOVEC.pack(*vector) for vector in vectors)
    return (body.ljust(cdb_at, b"\0") + cdb)[: max(size, 8)].ljust(size, b"\0")


@st.composite
def rings(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """Return version, what is in the ring, and where its head is."""
    version = draw(st.sampled_from([1, 2, 2, 2]))
    ring = b""
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["command"] * 6 + ["pad", "tmr", "tmr", "unknown", "bytes"]))
        if kind == "command":
            ring += draw(commands(version, len(ring)))
        elif kind == "tmr":
            ids = draw(st.lists(st.integers(0, 9), max_size=6))
            count = draw(st.sampled_from([len(ids), len(ids), 0, 7, 2**31]))
            size = -(-(32 + 2 * len(ids)) // 8) * 8
            entry = abi.TMR.pack(size | abi.OP_TMR, 0, 0, 0, 1, count) + b"".join(pack("=H", each) for each in ids)
            ring += entry.ljust(size, b"\0")
        elif kind == "bytes":
            ring += draw(st.binary(max_size=64).map(lambda data: data[: len(data) & ~7]))
        else:
            size = 8 * draw(st.integers(0, 6))
            op = abi.OP_PAD if kind == "pad" else draw(st.integers(3, 7))
            ring += pack("=II", size | op, 0)[: max(size, 4)].ljust(size, b"\0")
        if len(ring) >= RING_SIZE:
            break
    ring = ring[:RING_SIZE]
    head = (
        len(ring) % RING_SIZE
        if draw(st.integers(0, 15)) < 15
        else draw(st.integers(0, RING_SIZE + 64) | st.just(2**32 - 8))
    )
    return version, ring, head


@SETTINGS
@given(rings())
@example((2, b"", 8))
@example((2, b"", 4))
@example((1, pack("=I", 120 | abi.OP_TMR), 120))
def test_any_entries(ring: tuple[int, bytes, int]) -> None:
    """Entries sound and unsound: all is carried out, or the ring is broken and nothing happens any more."""
    FuzzedRing(*ring).run()


@SETTINGS
@given(st.sampled_from([1, 2]), st.binary(max_size=RING_SIZE), st.integers(0, 2 * RING_SIZE))
def test_any_bytes(version: int, ring: bytes, head: int) -> None:
    """Bytes of any kind between tail and head are no worse."""
    FuzzedRing(version, ring, head).run()


def test_sound_entries_are_taken() -> None:
    """The harness itself: what is sound is carried out, what is not breaks the ring."""
    entry = pack("=IHBBIIIxxxxQQQ", 128 | abi.OP_CMD, 1, 0, 0, 1, 0, 0, BASE + 112, 0, 0) + pack("=QQ", DATA, 512)
    assert FuzzedRing(2, entry.ljust(128, b"\0"), 128).run() is None
    why = FuzzedRing(2, entry.replace(pack("=Q", DATA), pack("=Q", DATA - 1)).ljust(128, b"\0"), 128).run()
    assert why is not None
    assert "data area" in why
