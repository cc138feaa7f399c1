"""The open batch: what was written since the last object of the log was closed.

Blocks are overwritten in place while the batch is open; a discard takes the place of a block.  Closed, it is immutable:
its blocks in order of their addresses, each in a slot of the object that it becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from txtcmu.results import Promise
from txtcmu.volume.holes import Holes
from txtcmu.volume.logobject import ENTRY, Header, Kind, encode_header, header_slots
from txtcmu.volume.slots import BLOCK, SLOT, SPOILED, Locations, SlotSeal, location

__all__ = ["SECTOR", "Batch", "ClosedBatch"]

#: What a write is a multiple of.
SECTOR: Final = 512
_SECTORS: Final = BLOCK // SECTOR
_WHOLE: Final = (1 << _SECTORS) - 1


class Batch:
    """A batch that is open.

    A block of which only some sectors were written waits for its base, the rest of it (:attr:`partial`).

    :param capacity: how many blocks it takes.
    """

    def __init__(self, capacity: int) -> None:
        self.memory = memoryview(bytearray(capacity * SLOT))
        self._rows: dict[int, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._holes = Holes()
        #: Blocks that wait for their base, and which of their sectors are there: a bit each, sector 0 lowest.
        self.partial: dict[int, int] = {}
        #: What those who wait for a base wait for, by block; kept by whoever reads it.
        self.bases: dict[int, Promise] = {}
        #: Blocks whose base is lost: until they are written as a whole they are damaged.
        self.spoiled: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._rows or self._holes)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def room(self) -> int:
        """How many more blocks it takes."""
        return len(self._free)

    def has_room(self, block: int, count: int) -> bool:
        """Tell whether ``count`` blocks from ``block`` on can be written."""
        free = len(self._free)
        return free >= count or free >= sum(each not in self._rows for each in range(block, block + count))

    def write(self, block: int, data: memoryview) -> None:
        """Store a whole block."""
        at = self._row(block) * SLOT
        self.memory[at : at + BLOCK] = data
        if self.partial or self.spoiled:
            self.partial.pop(block, None)
            self.spoiled.discard(block)

    def write_sectors(self, block: int, start: int, data: memoryview) -> bool:
        """Store a part of a block: whole sectors, from byte ``start`` of it on.

        :return: whether the base of the block has to be read now; :meth:`fill` takes it.
        """
        new = block not in self._rows
        at = self._row(block) * SLOT
        if new and block in self._holes:
            self.memory[at : at + BLOCK] = bytes(BLOCK)
            new = False
        self.memory[at + start : at + start + len(data)] = data
        if new or block in self.partial:
            written = (1 << len(data) // SECTOR) - 1 << start // SECTOR
            mask = self.partial.get(block, 0) | written
            if mask == _WHOLE:
                self.partial.pop(block, None)
                return False
            self.partial[block] = mask
        return new

    def discard(self, block: int, count: int) -> None:
        """Make a hole."""
        end = block + count
        if count < len(self._rows):
            gone: Iterable[int] = [each for each in range(block, end) if each in self._rows]
        else:
            gone = [each for each in self._rows if block <= each < end]
        for each in gone:
            self._free.append(self._rows.pop(each))
            self.partial.pop(each, None)
            self.spoiled.discard(each)
        self._holes.add(block, end)

    def fill(self, block: int, base: Any) -> None:
        """Put the base of a block where nothing newer is; nothing happens unless it waits for it.

        Goes on working when the batch is closed.

        :param base: the bytes of the block, or ``None``: they are lost, and so is the block.
        """
        mask = self.partial.pop(block, None)
        if mask is None:
            return
        if base is None:
            self.spoiled.add(block)
        else:
            fill_sectors(self.memory[self._rows[block] * SLOT :][:BLOCK], mask, base)

    def find(self, block: int) -> memoryview | None:
        """Return the bytes of a block; empty for a hole, ``None`` when the batch does not touch it."""
        row = self._rows.get(block)
        if row is not None:
            return self.memory[row * SLOT : row * SLOT + BLOCK]
        return self.memory[:0] if block in self._holes else None

    def close(self, uuid: UUID, epoch: int, seq: int, nonce: bytes) -> ClosedBatch:
        """Return the object that this batch becomes; the batch must not be used any more."""
        blocks = np.array(sorted(self._rows), np.uint64)
        rows = np.array([self._rows[int(block)] for block in blocks], np.int64)
        entries = _entries(blocks, list(self._holes.without(blocks)))
        header = Header(uuid, epoch, seq, nonce, Kind.DATA, entries, len(blocks))
        return ClosedBatch(header, blocks, rows, self)

    def _row(self, block: int) -> int:
        row = self._rows.get(block)
        if row is None:
            row = self._rows[block] = self._free.pop()
        return row


class ClosedBatch:
    """A batch that will not change any more, but for the bases that its partial blocks still wait for.

    :ivar blocks: the addresses that have data, in order, and :ivar where: their locations.
    :ivar partial: and :ivar bases:, :ivar spoiled: those of the open batch that it was.
    """

    def __init__(self, header: Header, blocks: NDArray[Any], rows: NDArray[Any], batch: Batch) -> None:
        self.header = header
        self.blocks = blocks
        self.partial = batch.partial
        self.bases = batch.bases
        self.spoiled = batch.spoiled
        self._rows = rows
        self._memory = batch.memory
        first = location(header.seq, header.slots)
        self.where: Locations = np.uint64(first) + np.arange(len(blocks), dtype=np.uint64)

    @property
    def seq(self) -> int:
        """Its sequence number."""
        return self.header.seq

    def holes(self) -> Iterator[tuple[int, int]]:
        """Return address and length of each hole."""
        entries = self.header.entries
        holes = entries[entries["slot"] == 0]
        return zip(holes["block"].tolist(), holes["count"].tolist(), strict=True)

    def block(self, slot: int) -> memoryview:
        """Return the bytes of the block in a slot."""
        at = int(self._rows[slot - self.header.slots]) * SLOT
        return self._memory[at : at + BLOCK]

    def encode(self) -> bytearray:
        """Return the whole object; nothing of it may be partial."""
        memory = np.frombuffer(self._memory, np.uint8).reshape(-1, SLOT)
        header = encode_header(self.header)
        data = bytearray(len(header) + len(self._rows) * SLOT)
        data[: len(header)] = header
        stored = np.frombuffer(data, np.uint8, offset=len(header))
        np.take(memory, self._rows, axis=0, out=stored.reshape(-1, SLOT))
        slots = memoryview(data)[len(header) :]
        seal = SlotSeal(self.header.uuid, self.header.epoch, self.header.seq)
        at, slot = 0, self.header.slots
        for block in self.blocks.tolist():
            trailer = SPOILED if block in self.spoiled else seal.trailer(slot, block, slots[at : at + BLOCK])
            slots[at + BLOCK : at + SLOT] = trailer
            at, slot = at + SLOT, slot + 1
        return data


def fill_sectors(block: memoryview, mask: int, base: Any) -> None:
    """Put ``base`` into the sectors of ``block`` that ``mask`` has no bit for."""
    base = memoryview(base).cast("B")
    for sector in range(_SECTORS):
        if not mask >> sector & 1:
            at = sector * SECTOR
            block[at : at + SECTOR] = base[at : at + SECTOR]


def _entries(blocks: NDArray[Any], holes: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Return the entries of an object: runs of ``blocks``, and ``holes``, which lie between them."""
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    firsts = np.concatenate(([0], breaks)) if len(blocks) else np.zeros(0, np.int64)
    entries = np.zeros(len(firsts) + len(holes), ENTRY)
    stored = entries[: len(firsts)]
    stored["block"] = blocks[firsts]
    stored["count"] = np.diff(np.concatenate((firsts, [len(blocks)]))) if len(blocks) else 0
    stored["slot"] = header_slots(len(entries)) + firsts
    if holes:
        entries["block"][len(firsts) :], entries["count"][len(firsts) :] = zip(*holes, strict=True)
    ordered: NDArray[Any] = entries[np.argsort(entries["block"])]
    return ordered
