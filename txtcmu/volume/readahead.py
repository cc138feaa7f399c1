"""Guessing what will be read next: several streams, each with a window that grows while it is right.

Addresses are those of the disk, so that a stream goes on from one object of the log to the next.
"""

from __future__ import annotations

from typing import Final

from attrs import define

__all__ = ["ReadAhead"]

_STREAMS: Final = 8
_FIRST_WINDOW: Final = 32
_LONGEST_WINDOW: Final = 2048


@define(eq=False)
class _Stream:
    next: int  # the block that comes next, if it goes on
    window: int = 0  # 0: nothing has followed yet
    ahead: int = 0  # what was asked for up to now


class ReadAhead:
    """Watches the reads of one disk; everything in blocks.

    :param longest: most blocks to be ahead of a stream.
    """

    def __init__(self, longest: int = _LONGEST_WINDOW) -> None:
        self._longest = longest
        self._streams: list[_Stream] = []  # in the order of their last use

    def read(self, block: int, count: int) -> tuple[int, int] | None:
        """Note a read of ``count`` blocks from ``block`` on; return the range to read ahead now, if any."""
        end = block + count
        stream = next((each for each in self._streams if each.next == block), None)
        if stream is None:
            self._streams.append(_Stream(end))
            del self._streams[:-_STREAMS]
            return None
        self._streams.remove(stream)
        self._streams.append(stream)
        stream.next = end
        stream.window = min(self._longest, max(_FIRST_WINDOW, 2 * stream.window, 2 * count))
        if stream.ahead - end > stream.window // 2:
            return None
        start = max(stream.ahead, end)
        stream.ahead = end + stream.window
        return start, stream.ahead - start
