"""A set of ranges of blocks: where a batch makes holes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Holes"]

_LONGEST = 0xFFFF_FFFF  # what an entry of a header can say


class Holes:
    """Disjoint ranges, in order; those that touch are one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __contains__(self, block: int) -> bool:
        at = bisect_right(self._starts, block) - 1
        return at >= 0 and block < self._ends[at]

    def add(self, start: int, end: int) -> None:
        """Include the blocks from ``start`` up to ``end``, without it."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def without(self, blocks: NDArray[Any]) -> Iterator[tuple[int, int]]:
        """Return start and length of what is left without ``blocks``, which are in order; none is longer than 2**32."""
        for start, end in zip(self._starts, self._ends, strict=True):
            inside = blocks[np.searchsorted(blocks, np.uint64(start)) : np.searchsorted(blocks, np.uint64(end))]
            for block in [*inside.tolist(), end]:
                while start < block:
                    count = min(block - start, _LONGEST)
                    yield start, count
                    start += count
                start = block + 1
