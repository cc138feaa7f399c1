"""Results in one shape, and waiting for them: a value, a Deferred or a coroutine become a Deferred."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed

__all__ = ["as_deferred", "within"]


def as_deferred(result: object) -> Deferred[Any]:
    """Return a Deferred of what ``result`` is, stands for, or will be.

    A coroutine starts to run; a Deferred is returned itself, so that cancelling reaches whoever made it.
    """
    if isinstance(result, Deferred):
        return result
    if iscoroutine(result):
        return Deferred.fromCoroutine(result)
    return succeed(result)


def within(reactor: Any, seconds: float, awaited: Deferred[Any]) -> Deferred[bool]:
    """Tell whether ``awaited`` fires, with whatever result, before ``seconds`` are over.

    Neither is cancelled nor consumed: ``awaited`` keeps its result, and may fire later.
    """
    answer: Deferred[bool] = Deferred()
    timer = reactor.callLater(seconds, answer.callback, False)

    def fired(result: Any) -> Any:
        if timer.active():
            timer.cancel()
            answer.callback(True)
        return result

    awaited.addBoth(fired)
    return answer
