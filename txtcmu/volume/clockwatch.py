"""Noticing that this process has not run for a while: a virtual machine that was suspended, SIGSTOP.

Somebody else may have taken the volume over meanwhile.  Safety does not rest on noticing it here, but on the seal.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred

from txtcmu.results import Promise

__all__ = ["ClockWatch"]

#: Seconds between two looks at the clock, and how many between them are a jump.
_EVERY: Final = 5.0
_JUMP: Final = 10.0


class ClockWatch:
    """Looks at the clock by itself, and whenever it is asked to.

    :param clock: the reactor.
    :param jumped: returns a coroutine, which must not fail: what is to be done when the clock has jumped.
    """

    def __init__(self, clock: Any, jumped: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._clock = clock
        self._jumped = jumped
        self._acting: Promise | None = None
        self._seen = clock.seconds()
        self._timer = clock.callLater(_EVERY, self._tick)

    def look(self) -> Deferred[None] | None:
        """Return ``None``, or, after a jump, a Deferred that fires when what is to be done is done."""
        now = self._clock.seconds()
        jump, self._seen = now - self._seen, now
        if jump > _JUMP and self._acting is None:
            self._acting = Promise()
            Deferred.fromCoroutine(self._jumped()).addBoth(self._acted)
        return None if self._acting is None else self._acting.wait()

    def stop(self) -> None:
        """Look no more."""
        if self._timer.active():
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._clock.callLater(_EVERY, self._tick)
        self.look()

    def _acted(self, result: Any) -> Any:
        acting, self._acting = self._acting, None
        if acting is not None:
            acting.resolve(None)
        return result
