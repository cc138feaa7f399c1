"""Blocking calls in the reactor's thread pool, which let go of their buffers only when they have really ended.

An ordinary Deferred that is cancelled fires at once, although the thread behind it goes on reading from or
writing to a command's memory.  The Deferreds made here fire when the work has ended, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")
P = ParamSpec("P")


class _Uncancellable(Deferred[T]):
    """Fires when its source does; a coroutine or Deferred that waits for it goes on waiting when cancelled."""

    def cancel(self) -> None:
        pass


def uncancellable(work: Deferred[T]) -> Deferred[T]:
    """Return a Deferred of ``work``'s result on which ``cancel`` has no effect; ``work`` belongs to it."""
    held: Deferred[T] = _Uncancellable()
    work.addCallbacks(held.callback, held.errback)
    return held


def run(reactor: Any, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
    """Call ``function`` in the reactor's thread pool; cancelling the Deferred waits for the call to end."""
    return Threads(reactor, reactor.getThreadPool()).run(function, *args, **kwargs)


class Threads:
    """A thread pool for one kind of work, which calls of another kind that hang cannot starve.

    :param pool: as :class:`twisted.python.threadpool.ThreadPool`.
    """

    def __init__(self, reactor: Any, pool: Any) -> None:
        self._reactor = reactor
        self._pool = pool

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call ``function`` in the pool; cancelling the Deferred waits for the call to end."""
        return uncancellable(deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs))
