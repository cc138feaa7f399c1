"""Trying again: which outcomes deserve it, how long to wait in between, and when to give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.internet.task import deferLater

from txtcmu.errors import PreconditionFailed, StoreUnavailable
from txtcmu.objectstore.objects import MaybeMine

__all__ = ["Doubts", "Hung", "Later", "Patience", "persist"]

T = TypeVar("T")


class Later(Exception):  # noqa: N818 - the store's answer, not an error of ours
    """One attempt failed in a way that another may not.

    :ivar doubtful: the request may have been applied, or may be applied later.
    :ivar wait: seconds that the store asked for (Retry-After), or ``None``.
    """

    def __init__(self, reason: str, *, doubtful: bool, wait: float | None = None) -> None:
        super().__init__(reason)
        self.doubtful = doubtful
        self.wait = wait


class Hung(Later):
    """An attempt was not answered in time: nothing is known of it, but that its connection is of no use."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer in {seconds:.0f} s", doubtful=True)


@frozen
class Patience:
    """How to retry: full jitter between zero and a bound that doubles.

    :ivar clock: the reactor.
    :ivar random: returns a float from 0 to 1.
    :ivar total: seconds from the first attempt on, after which no further one is begun; but a wait that the store asks
        for before that is granted, for who gives up instead is soon back.
    :ivar most_asked: seconds of a wait that the store asks for that are granted; a clock of its may be wrong.
    """

    clock: Any
    random: Callable[[], float]
    total: float = 30.0
    first: float = 0.05
    longest: float = 20.0
    most_asked: float = 120.0

    def delay(self, attempts: int) -> float:
        """Return how many seconds to wait after ``attempts`` attempts, if the store does not ask for more."""
        bound: float = min(self.longest, self.first * 2.0 ** min(attempts - 1, 30))
        return bound * self.random()

    def granted(self, asked: float | None) -> float:
        """Return how many seconds of a wait that the store asks for are granted."""
        return min(asked or 0.0, self.most_asked)


@define
class Doubts:
    """How many attempts of one call have an unknown outcome so far, and :ivar hung: how many were just not answered."""

    count: int = 0
    hung: int = 0


async def persist(
    patience: Patience, what: str, attempt: Callable[[Doubts], Awaitable[T]], trouble: Callable[[str], None]
) -> T:
    """Call ``attempt`` until it does not raise :class:`Later`.

    :param what: names the request in the final error.
    :param attempt: is told of the doubts that earlier attempts left.
    :param trouble: told the reason of each failed attempt.
    :raise StoreUnavailable: the patience is over.
    :raise MaybeMine: a condition failed, perhaps because of an earlier attempt.
    """
    started = patience.clock.seconds()
    doubts = Doubts()
    attempts = 0
    while True:
        try:
            return await attempt(doubts)
        except Later as later:
            attempts += 1
            doubts.count += later.doubtful
            doubts.hung += isinstance(later, Hung)
            trouble(str(later))
            delay = patience.delay(attempts)
            waited = patience.clock.seconds() - started
            if waited + delay > patience.total:
                raise StoreUnavailable(
                    f"{what}: {later} ({attempts} attempts in {waited:.0f} s); see whether the store is up"
                ) from None
            await deferLater(patience.clock, max(delay, patience.granted(later.wait)))
        except PreconditionFailed as refused:
            if doubts.count:
                raise MaybeMine(str(refused), doubts.count) from None
            raise
