"""Waiting for several results at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed

__all__ = ["gathered"]


def gathered(results: list[Any]) -> Deferred[list[Any]]:
    """Return a Deferred of ``results`` in which no Deferreds are left, or of the first failure."""

    def ended(outcomes: list[tuple[bool, Any]]) -> list[Any]:
        for success, value in outcomes:
            if not success:
                value.raiseException()
        return [value for _, value in outcomes]

    deferreds = [each if isinstance(each, Deferred) else succeed(each) for each in results]
    return DeferredList(deferreds, consumeErrors=True).addCallback(ended)
