"""Running one seed, and what came of it."""

from __future__ import annotations

import gc
from collections import Counter
from functools import cache
from typing import Any

from attrs import define
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogBeginner
from zope.interface import implementer

from tests.simulation.history import History
from tests.simulation.oracle import Violation
from tests.simulation.scenario import Scenario

__all__ = ["Outcome", "run"]


@define
class Outcome:
    """What became of a seed.

    :ivar wrong: what is wrong, or ``None``.
    :ivar counts: what happened how often.
    """

    seed: int
    wrong: Exception | None
    counts: Counter[str]
    history: History


@implementer(ILogObserver)
class _Watch:
    """Where all that is logged goes: an error that is only logged is an error of the seed that is run."""

    def __init__(self) -> None:
        self.history: History | None = None
        globalLogBeginner.beginLoggingTo([self], discardBuffer=True, redirectStandardIO=False)

    def __call__(self, event: dict[str, Any]) -> None:
        """See one event."""
        if self.history is not None and event["log_level"] is LogLevel.critical:
            failure = event.get("log_failure")
            what = f"logged: {formatEvent(event)}: {failure and failure.value!r}"
            self.history.fail(Violation("6 (completion)", what))


@cache
def _watch() -> _Watch:
    return _Watch()


def run(seed: int) -> Outcome:
    """Run one seed."""
    scenario = Scenario(seed)
    watch = _watch()
    watch.history = history = scenario.history
    # Collecting garbage may finish off what waits in a process that is dead, and that is never quite the same.
    gc.disable()
    try:
        scenario.run(scenario.live())
    finally:
        watch.history = None
        gc.enable()
    counts = scenario.counts + scenario.network.counts
    counts["commands"] = sum(user.commands for user in scenario.users)
    return Outcome(seed, history.wrong, counts, history)
