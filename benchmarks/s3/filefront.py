"""A disk that is a file: a thread for each slot, because calls block."""

from __future__ import annotations

import os
from queue import SimpleQueue
from threading import Thread
from typing import Any

__all__ = ["FileFront"]


class FileFront:
    """The front end of a mounted file; see :class:`benchmarks.s3.generator.Front`."""

    def __init__(self, path: str, depth: int, unit: int) -> None:
        self.buffers = [memoryview(bytearray(unit)) for _ in range(depth)]
        self._file = os.open(path, os.O_RDWR)
        self._orders: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(depth)]
        self._ends: SimpleQueue[tuple[int, OSError | None]] = SimpleQueue()
        self._threads = [Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(depth)]
        for thread in self._threads:
            thread.start()

    def _serve(self, slot: int) -> None:
        orders, ends = self._orders[slot], self._ends
        while (order := orders.get()) is not None:
            call, *arguments = order
            error = None
            try:
                call(*arguments)
            except OSError as raised:
                error = raised
            ends.put((slot, error))

    def write(self, slot: int, offset: int) -> None:
        """See Front."""
        self._orders[slot].put((self._write, slot, offset))

    def _write(self, slot: int, offset: int) -> None:
        if os.pwrite(self._file, self.buffers[slot], offset) != len(self.buffers[slot]):
            raise OSError("a short write")

    def read(self, slot: int, offset: int) -> None:
        """See Front."""
        self._orders[slot].put((self._read, slot, offset))

    def _read(self, slot: int, offset: int) -> None:
        if os.preadv(self._file, [self.buffers[slot]], offset) != len(self.buffers[slot]):
            raise OSError("a short read")
        # So that a second pass finds as little in memory as the first.
        os.posix_fadvise(self._file, offset, len(self.buffers[slot]), os.POSIX_FADV_DONTNEED)

    def flush(self, slot: int) -> None:
        """See Front."""
        self._orders[slot].put((os.fsync, self._file))

    def wait(self) -> list[int]:
        """See Front."""
        slot, error = self._ends.get()
        if error is not None:
            raise error
        return [slot]

    def close(self) -> None:
        """See Front."""
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join()
        os.close(self._file)
