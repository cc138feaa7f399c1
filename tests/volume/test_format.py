"""What is stored, byte for byte: golden files of version 1, round trips, and damage of every kind."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import numpy as np
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.errors import ConfigError
from txtcmu.volume.batch import Batch
from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.head import Checkpoint, Epoch, Geometry, Head, Writer
from txtcmu.volume.inventory import RECORD
from txtcmu.volume.leaves import Part, Place, decode_leaf, encode_leaf
from txtcmu.volume.logobject import Header, Kind, decode_header, encode_header, header_bytes_needed, seal
from txtcmu.volume.root import LEAF, PART, Root
from txtcmu.volume.slots import BLOCK, SLOT, SPOILED, SlotSeal, location

GOLDEN = Path(__file__).parent / "golden"
VOLUME = UUID("00112233-4455-6677-8899-aabbccddeeff")
NONCE = bytes(range(16))

HEAD = Head(
    VOLUME,
    64 << 20,
    Geometry(16, 64),
    7,
    "0123456789abcdef",
    (Epoch(2, 5), Epoch(3, 9)),
    Writer(NONCE, "machine", "host", 42, "2026-01-02T03:04:05+00:00"),
    Checkpoint(2, 6, 1234),
)
ROOT = Root(
    VOLUME,
    2,
    6,
    64 << 20,
    64,
    np.array([(0, 0, 0), (3, 0, 528)], LEAF),
    np.array([(6, 2, 1, 1056)], PART),
    np.array([(1, 8224, 1, 0), (4, 4112, 0, 0), (6, 12336, 2, 0)], RECORD),
    (Epoch(1, 1), Epoch(2, 5)),
)


def batch() -> Batch:
    """Return a batch of three blocks, of which one is damaged, and a hole."""
    made = Batch(16)
    for block in (9, 3, 4):
        made.write(block, memoryview(bytes([block]) * BLOCK))
    made.discard(4, 3)
    made.write_sectors(20, 512, memoryview(b"s" * 1024))
    made.fill(20, None)
    return made


def header() -> Header:
    return batch().close(VOLUME, 2, 6, NONCE).header


def decode(data: bytes) -> Header:
    return decode_header(data, VOLUME, 2, 6, len(data))


class GoldenTests(SynchronousTestCase):
    def check(self, name: str, data: bytes) -> None:
        self.assertEqual((GOLDEN / name).read_bytes(), data)

    def test_head(self) -> None:
        """The head of version 1 is what it was, and is read as it was meant."""
        self.check("head", HEAD.encode())
        self.assertEqual(Head.decode((GOLDEN / "head").read_bytes()), HEAD)

    def test_object(self) -> None:
        """An object of the log of version 1 is what it was, trailers and all."""
        self.check("object", bytes(batch().close(VOLUME, 2, 6, NONCE).encode()))
        found = decode((GOLDEN / "object").read_bytes())
        runs = [(run.block, run.count, run.slot) for run in found.runs()]
        self.assertEqual(runs, [(3, 1, 1), (4, 3, 0), (9, 1, 2), (20, 1, 3)])
        self.assertEqual((found.kind, found.nonce, found.size), (Kind.DATA, NONCE, 4 * SLOT))

    def test_seal(self) -> None:
        """A seal of version 1 is what it was."""
        self.check("seal", encode_header(seal(VOLUME, 2, 6, NONCE)))
        self.assertIs(decode((GOLDEN / "seal").read_bytes()).kind, Kind.SEAL)

    def test_checkpoint(self) -> None:
        """Root and leaf of a checkpoint of version 1 are what they were."""
        self.check("root", ROOT.encode())
        found = Root.decode((GOLDEN / "root").read_bytes(), VOLUME, 2, 6)
        self.assertEqual((found.size, found.leaf_blocks, found.epochs), (ROOT.size, 64, ROOT.epochs))
        for name in ("leaves", "parts", "objects"):
            self.assertEqual(getattr(found, name).tolist(), getattr(ROOT, name).tolist())
        leaf = np.arange(64, dtype=np.uint64) << np.uint64(16)
        self.check("leaf", encode_leaf(VOLUME, 2, 6, 1, 3, leaf))
        stored = decode_leaf(VOLUME, Place(Part(2, 6, 1, 528), 0), 3, 64, (GOLDEN / "leaf").read_bytes())
        self.assertEqual(stored.tolist(), leaf.tolist())


class DamageTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.data())
    def test_any_byte(self, data: st.DataObject) -> None:
        """A byte that is wrong anywhere in what counts of header, root, leaf or head is noticed."""
        counts = 112 + 16 * len(header().entries)
        for whole, end, read in (
            (encode_header(header()), counts, lambda bad: decode_header(bad, VOLUME, 2, 6, header().size)),
            (ROOT.encode(), None, lambda bad: Root.decode(bad, VOLUME, 2, 6)),
            (
                encode_leaf(VOLUME, 2, 6, 1, 3, np.zeros(64, np.uint64)),
                None,
                lambda bad: decode_leaf(VOLUME, Place(Part(2, 6, 1, 528), 0), 3, 64, bad),
            ),
            (HEAD.encode(), None, Head.decode),
        ):
            at = data.draw(st.integers(0, (end or len(whole)) - 1))
            bad = bytearray(whole)
            bad[at] ^= data.draw(st.integers(1, 255))
            try:
                found = read(bytes(bad))
            except (Damaged, ConfigError):
                continue
            # White space, and what is equal to JSON, is all that may differ.
            self.assertEqual(found, HEAD)

    def test_another_object(self) -> None:
        """An object, a slot or a leaf in a place that is not its own is not taken for what should be there."""
        data = encode_header(header())
        for uuid, epoch, seq in ((UUID(int=1), 2, 6), (VOLUME, 3, 6), (VOLUME, 2, 7)):
            self.assertRaises(Damaged, decode_header, data, uuid, epoch, seq, header().size)
        slot = b"x" * BLOCK
        trailer = SlotSeal(VOLUME, 2, 6).trailer(1, 3, slot)
        self.assertTrue(SlotSeal(VOLUME, 2, 6).intact(1, 3, slot + trailer))
        for seal_, place in (
            (SlotSeal(VOLUME, 2, 7), (1, 3)),
            (SlotSeal(VOLUME, 3, 6), (1, 3)),
            (SlotSeal(UUID(int=1), 2, 6), (1, 3)),
            (SlotSeal(VOLUME, 2, 6), (2, 3)),
            (SlotSeal(VOLUME, 2, 6), (1, 4)),
        ):
            self.assertFalse(seal_.intact(*place, slot + trailer))
        self.assertFalse(SlotSeal(VOLUME, 2, 6).intact(1, 3, slot + SPOILED))

    def test_size(self) -> None:
        """An object that the store lists with another size than its header's is damaged."""
        data = encode_header(header())
        self.assertRaises(Damaged, decode_header, data, VOLUME, 2, 6, header().size + 1)
        self.assertEqual(header_bytes_needed(data[:112]), 112 + 16 * len(header().entries))
        self.assertRaises(Damaged, header_bytes_needed, data[:111])

    def test_too_new(self) -> None:
        """What a later version wrote is refused with a line that says so, and nothing is guessed."""
        for old, new in ((b'"incompatible": []', b'"incompatible": ["x"]'), (b'"version": 1', b'"version": 2')):
            body = HEAD.encode().replace(old, new)
            error = self.assertRaises(FormatTooNew, Head.decode, _with_crc(body))
            self.assertIn("upgrade", str(error))
        harmless = Head.decode(_with_crc(HEAD.encode().replace(b'"compatible": []', b'"compatible": ["x"]')))
        self.assertEqual(harmless, evolve(HEAD, compatible=("x",)))
        self.assertIn(b'"x"', harmless.encode())


def _with_crc(body: bytes) -> bytes:
    """Return a head with the checksum that its members have."""
    import json
    from zlib import crc32

    members = json.loads(body)
    del members["crc"]
    members["crc"] = crc32(json.dumps(members, sort_keys=True, separators=(",", ":")).encode())
    return json.dumps(members).encode()


class EntryTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 9)), max_size=30))
    def test_batch(self, operations: list[tuple[bool, int, int]]) -> None:
        """Whatever is written and discarded, the object says of each block what came last, once and in order."""
        made, model = Batch(64), {}
        for number, (write, block, count) in enumerate(operations):
            for each in range(block, block + count):
                model[each] = bytes([number]) * BLOCK if write else b""
                if write:
                    made.write(each, memoryview(model[each]))
            if not write:
                made.discard(block, count)
        closed = made.close(VOLUME, 1, 1, NONCE)
        data = bytes(closed.encode())
        found: dict[int, bytes] = {}
        order = []
        for run in decode_header(data, VOLUME, 1, 1, len(data)).runs():
            for number in range(run.count):
                at = (run.slot + number) * SLOT
                order.append(run.block + number)
                found[order[-1]] = data[at : at + BLOCK] if run.slot else b""
                if run.slot:
                    intact = SlotSeal(VOLUME, 1, 1).intact(run.slot + number, order[-1], data[at : at + SLOT])
                    self.assertTrue(intact)
        self.assertEqual(found, model)
        self.assertEqual(order, sorted(model))
        where = {int(block): int(place) for block, place in zip(closed.blocks, closed.where, strict=True)}
        self.assertEqual(len(where), sum(map(bool, model.values())))
        for block, place in where.items():
            slot = place - location(1, 0)
            self.assertEqual(data[slot * SLOT : slot * SLOT + BLOCK], model[block])
