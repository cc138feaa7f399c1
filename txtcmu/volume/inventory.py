"""The objects of the log: how large each is, and how many blocks of the disk still live in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from txtcmu.volume.slots import Locations, seqs_of

__all__ = ["RECORD", "Inventory"]

#: What a checkpoint stores of an object; ``death`` is for the snapshots of later versions.
RECORD: Final = np.dtype([("seq", "<u8"), ("size", "<u4"), ("live", "<u4"), ("death", "<u8")])

_FIRST_ROOM: Final = 1024


class Inventory:
    """Sizes and live blocks, by sequence number.

    An object is there from :meth:`add` to :meth:`forget`, which its deletion is followed by.  One whose live blocks are
    all gone is *dead*: nothing in the present map refers to it.
    """

    def __init__(self) -> None:
        self._first = 0
        self._end = 0
        self._live: NDArray[np.int64] = np.zeros(0, np.int64)
        self._sizes: NDArray[np.int64] = np.zeros(0, np.int64)  # 0: there is no such object

    def add(self, seq: int, size: int, live: int) -> None:
        """An object was written: ``size`` bytes, ``live`` blocks.  Sequence numbers rise."""
        self._make_room(seq)
        self._live[seq - self._first] = live
        self._sizes[seq - self._first] = size

    def displaced(self, where: Locations) -> None:
        """These locations are referred to no more."""
        if len(where):
            np.subtract.at(self._live, seqs_of(where).astype(np.int64) - self._first, 1)

    def size(self, seq: int) -> int:
        """Return the bytes of an object, 0 when there is none."""
        return int(self._sizes[seq - self._first]) if self._first <= seq < self._end else 0

    def live(self, seq: int) -> int:
        """Return how many blocks live in an object."""
        return int(self._live[seq - self._first])

    def dead(self, reached: int) -> list[int]:
        """Return the dead objects with sequence numbers up to ``reached``."""
        return [
            int(seq) for seq in self._first + np.flatnonzero((self._live == 0) & (self._sizes > 0)) if seq <= reached
        ]

    def forget(self, seq: int) -> None:
        """An object was deleted."""
        self._sizes[seq - self._first] = 0

    def objects(self) -> Iterator[tuple[int, int]]:
        """Return sequence number and size of every object, in order."""
        there = np.flatnonzero(self._sizes)
        return zip((there + self._first).tolist(), self._sizes[there].tolist(), strict=True)

    @property
    def bytes(self) -> int:
        """Bytes of all objects."""
        return int(self._sizes.sum())

    @property
    def blocks(self) -> int:
        """Live blocks of all objects."""
        return int(self._live.sum())

    def copy(self) -> Inventory:
        """Return what is there now, unmoved by what comes."""
        copy = Inventory()
        copy._first, copy._end = self._first, self._end
        copy._live, copy._sizes = self._live.copy(), self._sizes.copy()
        return copy

    def records(self, reached: int) -> NDArray[Any]:
        """Return the objects up to ``reached``, an array of :data:`RECORD`."""
        there = np.flatnonzero(self._sizes[: max(0, reached + 1 - self._first)])
        records = np.zeros(len(there), RECORD)
        records["seq"] = there + self._first
        records["size"] = self._sizes[there]
        records["live"] = self._live[there]
        return records

    def restore(self, records: NDArray[Any]) -> None:
        """Take over what :meth:`records` returned, into an inventory that is empty."""
        if not len(records):
            return
        self._first = int(records["seq"][0])
        self._make_room(int(records["seq"][-1]))
        at = records["seq"].astype(np.int64) - self._first
        self._sizes[at] = records["size"]
        self._live[at] = records["live"]

    def _make_room(self, seq: int) -> None:
        if not self._end:
            self._first = self._first or seq
        needed = seq + 1 - self._first
        if needed > len(self._live):
            room = max(_FIRST_ROOM, 2 * len(self._live), needed)
            self._live = np.concatenate((self._live, np.zeros(room - len(self._live), np.int64)))
            self._sizes = np.concatenate((self._sizes, np.zeros(room - len(self._sizes), np.int64)))
        self._end = max(self._end, seq + 1)
