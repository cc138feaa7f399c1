"""Overlapping writes one after the other, in the order in which they came.

Initiators seldom have two overlapping writes outstanding, but a retry after an abort is just that: the aborted
write may still be on its way inside the backstore, and a newer one must not be overtaken by it.  A range is busy
until the backstore has let go of it, whatever became of the command.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

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
        self._resuming = False

    def run(self, start: int, end: int, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``, called when no earlier call on an overlapping range is under way.

        :param start: first byte, and ``end``: the one behind the last.
        :return: what ``function`` returns, when that is at once; else a Deferred of it.  Cancelled while it
            waits, the call is never made; afterwards cancelling is ``function``'s.
        """
        if (self._starts or self._waiting) and self._must_wait(start, end):
            deferred: Deferred[Any] = Deferred(self._forget)
            self._waiting.append(_Waiting(start, end, deferred))
            return deferred.addCallback(self._resumed, start, end, function, args)
        result = function(*args)
        if result is None:
            return None
        self._begin(start, end)
        return as_deferred(result).addBoth(self._ended, start)

    def _resumed(self, _: None, start: int, end: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        # Under way before the call: it may end others, and so resume what waited for this one.
        self._begin(start, end)
        return maybeDeferred(function, *args).addBoth(self._ended, start)

    def _begin(self, start: int, end: int) -> None:
        at = bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, end)

    def _ended(self, result: Any, start: int) -> Any:
        at = bisect_left(self._starts, start)
        del self._starts[at]
        del self._ends[at]
        if self._waiting:
            self._resume()
        return result

    def _must_wait(self, start: int, end: int) -> bool:
        return self._is_busy(start, end) or self._is_awaited(start, end, len(self._waiting))

    def _is_busy(self, start: int, end: int) -> bool:
        at = bisect_right(self._ends, start)
        return at < len(self._starts) and self._starts[at] < end

    def _is_awaited(self, start: int, end: int, before: int) -> bool:
        return any(each.start < end and start < each.end for each in self._waiting[:before])

    def _resume(self) -> None:
        if self._resuming:
            return  # the loop below goes on; a long queue of calls that end at once must not recurse
        self._resuming = True
        at = 0
        while at < len(self._waiting):
            waiting = self._waiting[at]
            if self._is_busy(waiting.start, waiting.end) or self._is_awaited(waiting.start, waiting.end, at):
                at += 1
            else:
                del self._waiting[at]
                waiting.deferred.callback(None)
                at = 0  # the call may have ended already, and others begun
        self._resuming = False

    def _forget(self, deferred: Deferred[Any]) -> None:
        self._waiting = [each for each in self._waiting if each.deferred is not deferred]
        self._resume()
