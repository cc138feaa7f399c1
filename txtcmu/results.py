"""Results in one shape, and waiting for them: a value, a Deferred or a coroutine become a Deferred."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed

__all__ = ["Promise", "all_of", "as_deferred", "gathered", "within"]


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


def gathered(results: list[Any]) -> Deferred[list[Any]]:
    """Return a Deferred of ``results``, each of them a value or what becomes one; or of the first failure.

    It fires when every one has fired.  Cancelling it cancels them all; even then it waits for the last.
    """

    def ended(outcomes: list[tuple[bool, Any]]) -> list[Any]:
        for succeeded, value in outcomes:
            if not succeeded:
                value.raiseException()
        return [value for _, value in outcomes]

    return DeferredList([as_deferred(each) for each in results], consumeErrors=True).addCallback(ended)


def all_of(results: list[Deferred[Any]]) -> Deferred[None]:
    """As :func:`gathered`, for results whose values nobody wants."""
    return gathered(results).addCallback(lambda _: None)


class Promise:
    """A result that comes once, and for which any number may wait, before and after."""

    def __init__(self) -> None:
        #: Whether the result is there.
        self.come = False
        self._result: Any = None
        self._waiting: list[Deferred[Any]] = []

    def wait(self) -> Deferred[Any]:
        """Return a Deferred of the result."""
        waiting: Deferred[Any] = Deferred()
        if self.come:
            waiting.callback(self._result)
        else:
            self._waiting.append(waiting)
        return waiting

    def resolve(self, result: Any) -> None:
        """Give everybody ``result``; a Failure fails their Deferreds.  Fit for :meth:`Deferred.addBoth`."""
        self.come = True
        self._result = result
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(result)
