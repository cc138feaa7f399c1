"""Blocks of the disk in memory, by where they are stored: objects never change, so nothing is ever out of date."""

from __future__ import annotations

from typing import Any

__all__ = ["BlockCache"]


class BlockCache:
    """The blocks that were used last.

    :param capacity: how many there are at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: dict[int, Any] = {}  # in the order of their last use

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, where: int) -> bool:
        return where in self._blocks

    def get(self, where: int) -> Any:
        """Return the bytes of the block at a location, or ``None``."""
        data = self._blocks.pop(where, None)
        if data is not None:
            self._blocks[where] = data
        return data

    def put(self, where: int, data: Any) -> None:
        """Keep the bytes of a block."""
        blocks = self._blocks
        blocks.pop(where, None)
        blocks[where] = data
        if len(blocks) > self._capacity:
            del blocks[next(iter(blocks))]
