"""Letting simulated time pass until something has happened."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from txtcmu.results import as_deferred


def finish(clock: Clock, result: object, limit: float = 200.0) -> Any:
    """Let time pass until a result is there; return it, or raise its failure."""
    results: list[Any] = []
    as_deferred(result).addBoth(results.append)
    for _ in range(int(limit / 0.05)):
        if results:
            break
        clock.advance(0.05)
    else:
        raise AssertionError(f"no end after {limit:.0f} s")
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]
