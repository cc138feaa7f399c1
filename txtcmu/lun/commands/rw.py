"""Reads and writes of a backstore, as commands want them: scattered, forced, and never out of order."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, fail

from txtcmu.interfaces import IForceUnitAccess, IVectoredBackstore
from txtcmu.iovec import gather, scatter, zero_from
from txtcmu.lun.ranges import BusyRanges
from txtcmu.results import all_of, as_deferred

__all__ = ["BlockIO"]


def _ended(result: Any) -> Deferred[None] | None:
    """Return ``None`` when ``result`` is there already, else a Deferred of ``None``: no value is a status."""
    if result is None:
        return None
    if isinstance(result, Deferred) or iscoroutine(result):
        return as_deferred(result).addCallback(_nothing)
    return None


def _nothing(_: Any) -> None:
    return None


class BlockIO:
    """A backstore behind the interface that commands use; offsets and lengths in bytes.

    Every method returns ``None`` when it is done at once, else a Deferred of ``None``.  Writes and discards that
    overlap go to the backstore one after the other.
    """

    def __init__(self, backstore: Any) -> None:
        self._backstore = backstore
        self._vectored = IVectoredBackstore.providedBy(backstore)
        self._forced = IForceUnitAccess.providedBy(backstore)
        self._busy = BusyRanges()

    def read(self, offset: int, length: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """Fill ``buffers``, of ``length`` bytes in total; what the backstore does not give reads as zeroes."""
        if self._vectored:
            result = self._backstore.readv(offset, buffers)
            if isinstance(result, int):
                if result < length:
                    zero_from(buffers, result)
                return None
            return as_deferred(result).addCallback(lambda count: zero_from(buffers, count))
        result = self._backstore.read(offset, length)
        if isinstance(result, Deferred) or iscoroutine(result):
            return as_deferred(result).addCallback(scatter, buffers)
        scatter(result, buffers)
        return None

    def write(self, offset: int, length: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """Store ``buffers``."""
        result: Deferred[None] | None = self._busy.run(offset, offset + length, self._write, offset, buffers)
        return result

    def write_through(self, offset: int, length: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """Store ``buffers`` durably (FUA)."""
        result: Deferred[None] | None = self._busy.run(offset, offset + length, self._write_fua, offset, buffers)
        return result

    def flush(self) -> Deferred[None] | None:
        """Make durable what was written, which is nothing when the backstore is read-only."""
        return None if self._backstore.read_only else _ended(self._backstore.flush())

    def discard(self, extents: list[tuple[int, int]]) -> Deferred[None] | None:
        """Give back each ``(offset, length)``; the first failure is reported when all have ended."""
        waiting = []
        for offset, length in extents:
            try:
                result = self._busy.run(offset, offset + length, self._discard, offset, length)
            except Exception:
                result = fail()  # the command must not end before the extents that are under way
            if result is not None:
                waiting.append(result)
        return all_of(waiting) if waiting else None

    def _write(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        if self._vectored:
            return _ended(self._backstore.writev(offset, buffers))
        return _ended(self._backstore.write(offset, gather(buffers)))

    def _write_fua(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        if self._forced:
            return _ended(self._backstore.write_fua(offset, buffers))
        written = self._write(offset, buffers)
        if written is None:
            return self.flush()
        return written.addCallback(lambda _: as_deferred(self.flush()))

    def _discard(self, offset: int, length: int) -> Deferred[None] | None:
        return _ended(self._backstore.discard(offset, length))
