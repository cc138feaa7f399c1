"""Overlapping writes one after the other, in the order in which they came.

Initiators seldom have two overlapping writes outstanding, but a retry after an abort is just that: the aborted
write may still be on its way inside the backstore, and a newer one must not be overtaken by it.  A range is busy
until the backstore has let go of it, whatever became of the command.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.results import as_deferred


class _Waiting:
    __slots__ = ("deferred", "end", "start")

    def __init__(self, start: int, end: int, deferred: Deferred[Any]) -> None:
        self.start = start
        self.end = end
        self.deferred = deferred


class BusyRanges:
    """The byte ranges of one backstore that are being changed, and the calls that wait for them."""

    def __init__(self) -> None:
        # Those under way are disjoint, so both lists are sorted.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._waiting: list[_Waiting] = []

    def run(self, start: int, end: int, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``, called when no earlier call on an overlapping range is under way.

        :param start: first byte, and ``end``: the one behind the last.
        :return: what ``function`` returns, when that is at once; else a Deferred of it.  Cancelled while it
            waits, the call is never made; afterwards cancelling is ``function``'s.
        """
        if self._starts and (self._is_busy(start, end) or self._is_awaited(start, end, len(self._waiting))):
            deferred: Deferred[Any] = Deferred(self._forget)
            self._waiting.append(_Waiting(start, end, deferred))
            return deferred.addCallback(lambda _: self._call(start, end, function, args))
        return self._call(start, end, function, args)

    def _call(self, start: int, end: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = function(*args)
        if result is None:
            return None
        deferred = as_deferred(result)
        at = bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        return deferred.addBoth(self._ended, start)

    def _ended(self, result: Any, start: int) -> Any:
        at = bisect_left(self._starts, start)
        del self._starts[at]
        del self._ends[at]
        if self._waiting:
            self._resume()
        return result

    def _is_busy(self, start: int, end: int) -> bool:
        at = bisect_right(self._ends, start)
        return at < len(self._starts) and self._starts[at] < end

    def _is_awaited(self, start: int, end: int, before: int) -> bool:
        return any(each.start < end and start < each.end for each in self._waiting[:before])

    def _resume(self) -> None:
        at = 0
        while at < len(self._waiting):
            waiting = self._waiting[at]
            if self._is_busy(waiting.start, waiting.end) or self._is_awaited(waiting.start, waiting.end, at):
                at += 1
            else:
                del self._waiting[at]
                waiting.deferred.callback(None)
                at = 0  # the call may have ended already, and others begun

    def _forget(self, deferred: Deferred[Any]) -> None:
        self._waiting = [each for each in self._waiting if each.deferred is not deferred]
        self._resume()
