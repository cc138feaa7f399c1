"""A disk that is an NBD export, through libnbd: Debian's binding, so this runs in Debian's own Python."""

from __future__ import annotations

from typing import Any

import nbd

__all__ = ["NbdFront"]


class NbdFront:
    """The front end of an NBD server; see :class:`benchmarks.s3.generator.Front`.

    A command is sent in pieces of the length that the server names as the most that it takes, all of them at once.
    """

    def __init__(self, path: str, depth: int, unit: int) -> None:
        self._nbd = nbd.NBD()
        self._nbd.connect_unix(path)
        self._piece = min(unit, self._nbd.get_block_size(nbd.SIZE_MAXIMUM) or unit)
        # What libnbd reads into is allocated here, for as long as the front lives.
        data = [bytearray(unit) for _ in range(depth)]
        self.buffers = [memoryview(each) for each in data]
        self._pieces = [
            [nbd.Buffer.from_buffer(each[at : at + self._piece]) for at in range(0, unit, self._piece)]
            for each in self.buffers
        ]
        self._left = [0] * depth
        self._ended: list[int] = []
        self._failed: list[int] = []

    def _begin(self, slot: int, call: Any, offset: int) -> None:
        pieces = self._pieces[slot]
        self._left[slot] = len(pieces)
        for number, piece in enumerate(pieces):
            call(piece, offset + number * self._piece, completion=lambda error: self._completed(slot, error))

    def _completed(self, slot: int, error: Any) -> int:
        """Take the end of a piece; libnbd calls this while it waits.  :return: 1, it can forget the command."""
        number = getattr(error, "value", error)
        if number:
            self._failed.append(number)
        self._left[slot] -= 1
        if not self._left[slot]:
            self._ended.append(slot)
        return 1

    def write(self, slot: int, offset: int) -> None:
        """See Front."""
        self._begin(slot, self._nbd.aio_pwrite, offset)

    def read(self, slot: int, offset: int) -> None:
        """See Front."""
        self._begin(slot, self._nbd.aio_pread, offset)

    def flush(self, slot: int) -> None:
        """See Front."""
        self._left[slot] = 1
        self._nbd.aio_flush(completion=lambda error: self._completed(slot, error))

    def wait(self) -> list[int]:
        """See Front."""
        while not self._ended and not self._failed:
            self._nbd.poll(-1)
        if self._failed:
            raise OSError(self._failed[0], "the NBD server refuses a command")
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """See Front."""
        self._nbd.shutdown()
