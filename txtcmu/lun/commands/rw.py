"""Reads and writes of a backstore, as commands want them: scattered, durable where they must be, never out of order."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from txtcmu.interfaces import IForceUnitAccess, IVectoredBackstore, IWriteCache
from txtcmu.iovec import gather, scatter, zero_from
from txtcmu.lun.ranges import BusyRanges
from txtcmu.results import all_of, as_deferred
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["BlockIO", "cache_writes", "ended"]

_BEHIND_ANY_MEDIUM: Final = 1 << 96


def _nothing(_: Any) -> None:
    return None


def ended(result: Any, then: Callable[[Any], Any] = _nothing) -> Deferred[None] | None:
    """Return ``None`` when ``result`` is there already, else a Deferred of ``None``: no value is a status.

    :param then: called with a value that comes later, instead of forgetting it.
    """
    if result is None:
        return None
    if isinstance(result, Deferred):
        return result.addCallback(then)
    if iscoroutine(result):
        return as_deferred(result).addCallback(then)
    return None


def cache_writes(unit: LogicalUnit, backstore: Any, on: bool) -> None:
    """Switch the write cache; what has to be flushed before it is off has been."""
    unit.write_cache = on
    if IWriteCache.providedBy(backstore):
        backstore.cache_writes(on)


class BlockIO:
    """A backstore behind the interface that commands use; offsets and lengths in bytes.

    Every method returns ``None`` when it is done at once, else a Deferred of ``None``.  What changes the same bytes
    goes to the backstore one after the other.  Without a write cache (WCE) every change is durable when it ends: that
    is asked when a change begins and when it ends, so that one under way while the cache is switched off is too.

    :param unit: whose ``write_cache`` is heeded.
    """

    def __init__(self, unit: LogicalUnit, backstore: Any) -> None:
        self._unit = unit
        self._backstore = backstore
        self._vectored = IVectoredBackstore.providedBy(backstore)
        self._forced = IForceUnitAccess.providedBy(backstore)
        self._busy = BusyRanges()
        # Compare and write, and the reads that came while there was one.
        self._atomic = BusyRanges()
        self._comparing = 0
        #: Fills ``buffers``, of ``length`` bytes, from ``offset`` on; what the backstore does not give reads as zeroes.
        self.read: Callable[[int, int, list[memoryview]], Deferred[None] | None] = self.fetch

    def _read_apart(self, offset: int, length: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """As :meth:`fetch`, but not between the two halves of a compare and write."""
        result: Deferred[None] | None = self._atomic.run(offset, offset + length, self.fetch, offset, length, buffers)
        return result

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
        return None if self._backstore.read_only else ended(self._backstore.flush())

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
        return self.settled(all_of(waiting) if waiting else None)

    def write_zeroes(self, offset: int, length: int) -> Deferred[None] | None:
        """Have the backstore write zeroes; for one that provides ``IWriteZeroes``."""
        return self.alone(offset, length, self._write_zeroes, offset, length)

    # What longer commands are made of.

    def alone(self, offset: int, length: int, function: Callable[..., Any], *args: Any) -> Deferred[None] | None:
        """Call ``function`` when no other change of these bytes is under way; until its result fires none begins."""
        result: Deferred[None] | None = self._busy.run(offset, offset + length, function, *args)
        return result

    def alone_everywhere(self, function: Callable[[], Any]) -> Deferred[None] | None:
        """As :meth:`alone`, with all of the medium."""
        return self.alone(0, _BEHIND_ANY_MEDIUM, function)

    def atomic(self, offset: int, length: int, function: Callable[..., Any], *args: Any) -> Deferred[None] | None:
        """As :meth:`alone`, and reads of these bytes that come meanwhile wait, too."""
        self._comparing += 1
        self.read = self._read_apart
        try:
            result = self.alone(offset, length, self._atomic.run, offset, offset + length, function, *args)
        except BaseException:
            self._compared(None)
            raise
        if result is None:
            self._compared(None)
            return None
        return result.addBoth(self._compared)

    def fetch(self, offset: int, length: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """As :attr:`read`, for who has the bytes to himself."""
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

    def store(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """Store ``buffers``, for who has the bytes to himself and sees to durability."""
        if self._vectored:
            return ended(self._backstore.writev(offset, buffers))
        return ended(self._backstore.write(offset, gather(buffers)))

    def settled(self, result: Deferred[None] | None) -> Deferred[None] | None:
        """Return when a change is over that ends with ``result``: without a write cache, when it is durable."""
        if result is None:
            return None if self._unit.write_cache else self.flush()
        return result.addCallback(self._settled)

    def _settled(self, _: Any) -> Any:
        return None if self._unit.write_cache else self.flush()

    def _compared(self, result: Any) -> Any:
        self._comparing -= 1
        if not self._comparing:
            self.read = self.fetch
        return result

    def _write(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        if not self._unit.write_cache:
            return self._write_fua(offset, buffers)
        # Not through `store`: this is on the path of every WRITE.
        if self._vectored:
            return ended(self._backstore.writev(offset, buffers), self._settled)
        return ended(self._backstore.write(offset, gather(buffers)), self._settled)

    def _write_fua(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        if self._forced:
            return ended(self._backstore.write_fua(offset, buffers))
        written = self.store(offset, buffers)
        if written is None:
            return self.flush()
        return written.addCallback(lambda _: self.flush())

    def _write_zeroes(self, offset: int, length: int) -> Deferred[None] | None:
        return self.settled(ended(self._backstore.write_zeroes(offset, length)))

    def _discard(self, offset: int, length: int) -> Deferred[None] | None:
        return ended(self._backstore.discard(offset, length))
