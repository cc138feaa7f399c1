"""The map of a disk: for each block, where it is stored.

One sparse anonymous mapping of 8 bytes a block, seen through numpy, in leaves that are loaded from the checkpoint when
they are first needed.  A commit never waits for that: in a leaf that is not loaded it takes its place among entries
that say *not known yet*, and is merged when the leaf comes.

A checkpoint freezes the leaves that have changed; one that changes again before it was stored is copied first.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from txtcmu.volume.slots import HOLE, Locations

__all__ = ["UNKNOWN", "BlockMap", "Frozen"]

#: What stands for an entry of a leaf that is not loaded; no location has this value.
UNKNOWN: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_ENTRY: Final = 8
_MAP_NORESERVE: Final = 0x4000  # Linux; the mmap module has no name for it before Python 3.13
_NOTHING: Final[Locations] = np.zeros(0, np.uint64)


class _Leaf:  # no IntEnum: comparing one with what comes out of numpy takes microseconds, and every read does so
    EMPTY = 0  # holes, and no memory
    LOADED = 1
    UNLOADED = 2  # in the checkpoint, and no memory
    OVERLAID = 3  # in the checkpoint, with newer entries here; the others are UNKNOWN


class Frozen:
    """The changed leaves of a map, as they were at one moment.

    :ivar leaves: their numbers, in order.
    :ivar unmerged: those of them that were not loaded.
    """

    def __init__(self, blocks: BlockMap, leaves: list[int], unmerged: set[int]) -> None:
        self.leaves = leaves
        self.unmerged = unmerged
        self._map = blocks
        self._awaited = set(leaves)
        self._copies: dict[int, Locations] = {}

    def leaf(self, leaf: int) -> Locations:
        """Return a copy of a leaf as it was; entries may be :data:`UNKNOWN` in one that was not loaded then."""
        copy = self._copies.get(leaf)
        return self._map.leaf(leaf) if copy is None else copy

    def stored(self, leaf: int) -> None:
        """Note that a leaf needs no keeping any more."""
        self._awaited.discard(leaf)
        self._copies.pop(leaf, None)

    def keep(self, leaf: int) -> None:
        """Keep what is in a leaf now: it is about to change."""
        if leaf in self._awaited and leaf not in self._copies:
            self._copies[leaf] = self._map.leaf(leaf)


class BlockMap:
    """Where the blocks of a disk are stored.

    Methods that replace entries return the locations that are referred to no more, for the accounting; those hidden in
    leaves that are not loaded come from :meth:`load`.

    :param blocks: of the disk.
    :param leaf_blocks: how many of them a leaf has.
    """

    def __init__(self, blocks: int, leaf_blocks: int) -> None:
        self.blocks = blocks
        self.leaf_blocks = leaf_blocks
        self.leaves = -(-blocks // leaf_blocks)
        self._memory = mmap.mmap(
            -1,
            max(1, self.leaves) * leaf_blocks * _ENTRY,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
        )
        self._where: Locations = np.frombuffer(self._memory, np.uint64)
        self._states: NDArray[np.uint8] = np.zeros(self.leaves, np.uint8)
        self._dirty: NDArray[np.bool_] = np.zeros(self.leaves, np.bool_)
        self._frozen: Frozen | None = None

    # Loading

    def in_checkpoint(self, leaves: Any) -> None:
        """Note which leaves are in the checkpoint, and so to be loaded; for a map that is new."""
        self._states[leaves] = _Leaf.UNLOADED

    def missing(self, block: int, count: int) -> list[int]:
        """Return the leaves that must be loaded before the locations of these blocks are known."""
        if not count:
            return []
        first, last = block // self.leaf_blocks, (block + count - 1) // self.leaf_blocks
        missing = []
        for leaf in range(first, last + 1):
            state = self._states[leaf]
            if state == _Leaf.UNLOADED:
                missing.append(leaf)
            elif state == _Leaf.OVERLAID:
                start, end = self._within(leaf, block, count)
                if (self._where[start:end] == UNKNOWN).any():
                    missing.append(leaf)
        return missing

    def overlaid(self) -> list[int]:
        """Return the leaves that have changed without having been loaded."""
        return [int(leaf) for leaf in np.flatnonzero(self._states == _Leaf.OVERLAID)]

    def load(self, leaf: int, stored: Locations) -> Locations:
        """Merge a leaf with what the checkpoint has of it.

        :return: the stored locations that newer entries had replaced.
        """
        state = self._states[leaf]
        if state not in (_Leaf.UNLOADED, _Leaf.OVERLAID):
            return _NOTHING
        if self._frozen is not None:
            self._frozen.keep(leaf)  # whoever stores it does the accounting of that moment
        there = self._span(leaf)
        self._states[leaf] = _Leaf.LOADED
        if state == _Leaf.UNLOADED:
            there[:] = stored
            return _NOTHING
        return merge(there, stored)

    # Reading

    def locations(self, block: int, count: int) -> Locations:
        """Return a copy of the locations of blocks that are not :meth:`missing`."""
        return self._where[block : block + count].copy()

    def location(self, block: int) -> int:
        """Return the location of one block that is not :meth:`missing`."""
        return int(self._where[block])

    def leaf(self, leaf: int) -> Locations:
        """Return a copy of a leaf; :data:`UNKNOWN` where it is not loaded."""
        if self._states[leaf] == _Leaf.UNLOADED:
            return np.full(self.leaf_blocks, UNKNOWN)
        return self._span(leaf).copy()

    def contents(self) -> Iterator[tuple[int, Locations]]:
        """Return the first block and the locations of every leaf that is wholly known and not empty; not copied."""
        for leaf in np.flatnonzero(self._states == _Leaf.LOADED).tolist():
            yield leaf * self.leaf_blocks, self._span(leaf)

    # Changing

    def commit(self, blocks: NDArray[Any], where: Locations) -> Locations:
        """Replace the locations of ``blocks``, each of them named once."""
        if not len(blocks):
            return _NOTHING
        for leaf in set((blocks // self.leaf_blocks).tolist()):
            self._touch(leaf)
        replaced = self._where[blocks]
        self._where[blocks] = where
        return _known(replaced)

    def discard(self, block: int, count: int) -> Locations:
        """Make holes of ``count`` blocks from ``block`` on."""
        if not count:
            return _NOTHING
        replaced = []
        first, last = block // self.leaf_blocks, (block + count - 1) // self.leaf_blocks
        # Of a huge range most leaves are empty: they are not even looked at.
        for leaf in first + np.flatnonzero(self._states[first : last + 1]):
            start, end = self._within(int(leaf), block, count)
            self._touch(int(leaf))
            replaced.append(_known(self._where[start:end]))
            self._where[start:end] = HOLE
            if end - start == self.leaf_blocks and self._states[leaf] == _Leaf.LOADED:
                self._empty(int(leaf))
        return np.concatenate(replaced) if replaced else _NOTHING

    def resize(self, blocks: int) -> None:
        """Become the map of a larger disk, whose new blocks are holes, or of a smaller one, which loses only holes."""
        other = BlockMap(blocks, self.leaf_blocks)
        kept = min(self.leaves, other.leaves)
        other._states[:kept] = self._states[:kept]
        other._dirty[:kept] = self._dirty[:kept]
        for leaf in np.flatnonzero((other._states == _Leaf.LOADED) | (other._states == _Leaf.OVERLAID)):
            other._span(int(leaf))[:] = self._span(int(leaf))
        self.blocks, self.leaves, self._memory = other.blocks, other.leaves, other._memory
        self._where, self._states, self._dirty = other._where, other._states, other._dirty

    # Checkpoints

    @property
    def dirty(self) -> int:
        """How many leaves have changed since they were frozen."""
        return int(np.count_nonzero(self._dirty))

    def freeze(self) -> Frozen:
        """Return what has changed; from now on changes are for the next time.  One at a time."""
        leaves = [int(leaf) for leaf in np.flatnonzero(self._dirty)]
        self._dirty[:] = False
        self._frozen = Frozen(self, leaves, set(self.overlaid()))
        return self._frozen

    def thaw(self, frozen: Frozen, *, stored: bool) -> None:
        """Forget what was frozen; unless it was stored it counts as changed again."""
        self._frozen = None
        if not stored:
            self._dirty[frozen.leaves] = True

    def _touch(self, leaf: int) -> None:
        """Make a leaf ready to be changed."""
        if self._frozen is not None:
            self._frozen.keep(leaf)
        state = self._states[leaf]
        if state == _Leaf.UNLOADED:
            self._span(leaf)[:] = UNKNOWN
            self._states[leaf] = _Leaf.OVERLAID
        elif state == _Leaf.EMPTY:
            self._states[leaf] = _Leaf.LOADED
        self._dirty[leaf] = True

    def _empty(self, leaf: int) -> None:
        """Give the memory of a leaf of nothing but holes back, as far as it is whole pages."""
        self._states[leaf] = _Leaf.EMPTY
        start = leaf * self.leaf_blocks * _ENTRY
        length = self.leaf_blocks * _ENTRY
        if not start % mmap.PAGESIZE and not length % mmap.PAGESIZE:
            self._memory.madvise(mmap.MADV_DONTNEED, start, length)

    def _span(self, leaf: int) -> Locations:
        return self._where[leaf * self.leaf_blocks : (leaf + 1) * self.leaf_blocks]

    def _within(self, leaf: int, block: int, count: int) -> tuple[int, int]:
        """Return the part of a leaf that is in a range of blocks."""
        start = leaf * self.leaf_blocks
        return max(start, block), min(start + self.leaf_blocks, block + count)


def merge(newer: Locations, older: Locations) -> Locations:
    """Put ``older`` where ``newer`` is :data:`UNKNOWN`, in place; return the rest of ``older``, without holes."""
    known = newer != UNKNOWN
    np.copyto(newer, older, where=~known)
    return _known(older[known])


def _known(where: Locations) -> Locations:
    """Return a copy of those locations that say where something is."""
    known: Locations = where[(where != HOLE) & (where != UNKNOWN)]
    return known
