"""Time, and those who live in it: processes that may be paused for an hour, or die, at any moment."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

__all__ = ["Host", "Timeline", "Timer"]


class Timer:
    """A call that is due at some time: as much of Twisted's IDelayedCall as is used."""

    def __init__(self, time: float, call: Callable[[], Any]) -> None:
        self._time = time
        self._call: Callable[[], Any] | None = call

    def active(self) -> bool:
        """Tell whether it is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Let it not happen."""
        assert self._call is not None, "a timer that is over cannot be cancelled"
        self._call = None

    def getTime(self) -> float:  # noqa: N802 - Twisted's name
        """Return when it is due."""
        return self._time

    def fire(self) -> None:
        """Make the call, unless it was cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Timeline:
    """What happens, in the order of time; what is due at one time, in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Timer]] = []
        self._count = 0

    def call(self, delay: float, call: Callable[[], Any]) -> Timer:
        """Have ``call`` made in ``delay`` seconds."""
        timer = Timer(self.now + delay, call)
        self._count += 1
        heappush(self._due, (timer.getTime(), self._count, timer))
        return timer

    def step(self) -> bool:
        """Go on to what is due next.  :return: whether there was anything."""
        while self._due:
            time, _, timer = heappop(self._due)
            if timer.active():
                self.now = time
                timer.fire()
                return True
        return False


class Host:
    """A process, as its own reactor sees it (IReactorTime).

    :ivar dead: nothing happens in it any more.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._paused = False
        self._missed: list[Callable[[], Any]] = []
        self.dead = False

    def seconds(self) -> float:
        """See Twisted's IReactorTime."""
        return self._timeline.now

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Timer:  # noqa: N802
        """See Twisted's IReactorTime."""
        timer = Timer(self._timeline.now + delay, lambda: call(*args, **kwargs))
        self._timeline.call(delay, lambda: self.run(timer.fire))
        return timer

    def run(self, call: Callable[[], Any]) -> None:
        """Have something happen in this process: now, when it goes on, or never."""
        if self.dead or self._paused:
            self._missed.append(call)  # of the dead as well: what waits in there must not be woken by its own end
        else:
            call()

    def pause(self) -> None:
        """Stop, as by SIGSTOP."""
        self._paused = True

    def resume(self) -> None:
        """Go on, with all that was missed."""
        if self.dead:
            return
        self._paused = False
        missed, self._missed = self._missed, []
        for call in missed:
            self.run(call)

    def kill(self) -> None:
        """Die, as by SIGKILL."""
        self.dead = True
