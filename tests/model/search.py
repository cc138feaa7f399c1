"""Every state that a system can reach, breadth first, and the shortest way to one that must not be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from attrs import frozen

__all__ = ["Outcome", "explore"]

State = TypeVar("State", bound=Hashable)


@frozen
class Outcome(Generic[State]):
    """What a search found.

    :ivar states: how many states it saw; all there are when there is no violation.
    :ivar violation: what is wrong with the last state, ``""`` when nothing is wrong anywhere.
    :ivar trace: the steps from the start to it, as few as possible.
    """

    states: int
    violation: str
    trace: list[str]

    def __str__(self) -> str:
        steps = "".join(f"\n  {number}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.states} states, {self.violation or 'no violation'}{steps}"


def explore(
    start: State,
    steps: Callable[[State], Iterable[tuple[str, State]]],
    violation: Callable[[State], str],
    bound: int = 5_000_000,
) -> Outcome[State]:
    """Search until a state is wrong, or there are no more.

    :param steps: yields the names of what may happen next, and what the state is then.
    :param violation: says what is wrong with a state, ``""`` for nothing.
    :raise RuntimeError: there are more than ``bound`` states, so that nothing has been shown.
    """
    came: dict[State, State | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        for _, following in steps(state):
            if following not in came:
                came[following] = state
                if what := violation(following):
                    return Outcome(len(came), what, list(reversed(list(_back(following, came, steps)))))
                waiting.append(following)
        if len(came) > bound:
            raise RuntimeError(f"more than {bound} states: make the scope smaller")
    return Outcome(len(came), "", [])


def _back(
    state: State, came: dict[State, State | None], steps: Callable[[State], Iterable[tuple[str, State]]]
) -> Iterator[str]:
    while (before := came[state]) is not None:
        yield next(name for name, following in steps(before) if following == state)
        state = before
