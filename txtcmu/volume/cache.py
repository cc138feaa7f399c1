"""Blocks of the disk in memory, by where they are stored: objects never change, so nothing is ever out of date."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

__all__ = ["BlockCache"]


class BlockCache:
    """The blocks that were used last.

    :param capacity: how many there are at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # In the order of their last use; a plain dict is slow to find its first after many were taken from there.
        self._blocks: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, where: int) -> bool:
        return where in self._blocks

    def get(self, where: int) -> Any:
        """Return the bytes of the block at a location, or ``None``."""
        data = self._blocks.get(where)
        if data is not None:
            if isinstance(data, memoryview):
                data = self._blocks[where] = bytes(data)
            self._blocks.move_to_end(where)
        return data

    def put(self, where: int, data: Any) -> None:
        """Keep the bytes of a block.

        :param data: of a memoryview a copy is made when it is used: what stays for long shall not keep all of the
            object in memory that it is a part of.
        """
        self._blocks[where] = data
        if len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
