"""Long commands in pieces: between two of them the reactor has its turn, and an abort ends the command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

__all__ = ["PIECE", "Piecewise", "pieces"]

PIECE: Final = 1 << 20
"""Most bytes of a piece: as much as the reactor can be kept busy with, and a command keep in memory."""


def pieces(length: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of the pieces of ``length`` bytes, each of whole blocks."""
    most = max(block_size, PIECE // block_size * block_size)
    for start in range(0, length, most):
        yield start, min(most, length - start)


class Piecewise(Deferred[None]):
    """The Deferred of a coroutine that awaits :meth:`step` after each piece of its work.

    Cancelled, it has the piece under way cancelled, and begins no other even if that piece succeeds all the same.

    :param function: called with this Deferred and ``args``, returns the coroutine.
    """

    def __init__(self, reactor: Any, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._stopped = False
        self._work: Deferred[None] = Deferred.fromCoroutine(function(self, *args))
        self._work.addCallbacks(self.callback, self.errback)

    async def step(self, result: Deferred[None] | None) -> None:
        """Wait for a piece; after one that was done at once, let others have their turn."""
        await (deferLater(self._reactor, 0) if result is None else result)
        if self._stopped:
            raise CancelledError

    def cancel(self) -> None:
        """Stop; fires when the piece under way has let go."""
        if self.called:
            super().cancel()
            return
        self._stopped = True
        self._work.cancel()
