"""Time, and those who live in it: processes that may be paused for an hour, or die, at any moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Any

__all__ = ["Host", "Timeline", "Timer"]


class Timer:
    """A call that is due at some time: as much of Twisted's IDelayedCall as is used.

    :param run: does with the call what is to be done when it is due: makes it, now or later or never.
    """

    __slots__ = ("_call", "_run", "_time")

    def __init__(
        self,
        time: float,
        call: Callable[[], Any],
        run: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self._time = time
        self._call: Callable[[], Any] | None = call
        self._run = run

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
        """Let its time have come."""
        if self._run is None:
            self._make()
        else:
            self._run(self._make)

    def _make(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Timeline:
    """What happens, in the order of time; what is due at one time, in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Timer]] = []
        self._count = 0

    def call(
        self, delay: float, call: Callable[[], Any], run: Callable[[Callable[[], Any]], Any] | None = None
    ) -> Timer:
        """Have ``call`` made in ``delay`` seconds: by ``run``, if there is one."""
        timer = Timer(time := self.now + delay, call, run)
        self._count += 1
        heappush(self._due, (time, self._count, timer))
        return timer

    def step(self) -> bool:
        """Go on to what is due next.  :return: whether there was anything."""
        due = self._due
        while due:
            time, _, timer = heappop(due)
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
        return self._timeline.call(delay, partial(call, *args, **kwargs) if args or kwargs else call, self.run)

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
