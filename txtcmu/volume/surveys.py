"""Looking through a store for volumes, without looking at every object of theirs."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar
from uuid import UUID

from attrs import define, field
from twisted.internet.defer import Deferred

from txtcmu.results import as_deferred
from txtcmu.volume.names import Names, head_key

__all__ = ["Progress", "Survey", "in_order", "listed", "survey", "trees_at"]

#: Told how much is done of what, for people who wait; 0 when nobody knows of how much.
Progress = Callable[[str, int, int], None]

T = TypeVar("T")
R = TypeVar("R")

_TREE: Final = re.compile(r"(?:.*?/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/[cd]/", re.DOTALL)


@define
class Survey:
    """What there is below a prefix.

    :ivar heads: the prefixes below which there is an object that has the name of a head.
    :ivar trees: prefix and UUID of everything that has the names of a volume's other objects.
    """

    heads: list[str] = field(factory=list)
    trees: list[Names] = field(factory=list)


async def survey(store: Any, prefix: str, progress: Progress) -> Survey:
    """Find the volumes at ``prefix`` and everywhere below: about one request for each, and for each thousand others."""
    found = Survey()
    async for key, tree in _keys(store, prefix, deep=True, progress=progress):
        if tree is not None:
            found.trees.append(tree)
        elif key == head_key(prefix) or key.endswith("/" + head_key("")):
            found.heads.append(key.removesuffix(head_key("")))
    return found


async def trees_at(store: Any, prefix: str, progress: Progress) -> list[Names]:
    """Find what volumes have left at ``prefix`` itself: that of the present one, and of those that were removed."""
    keys = _keys(store, prefix, deep=False, progress=progress)
    return [tree async for _, tree in keys if tree is not None]


async def _keys(store: Any, prefix: str, *, deep: bool, progress: Progress) -> AsyncIterator[tuple[str, Names | None]]:
    """Yield the keys below ``prefix``, but only the first of each volume's tree, and of each folder unless ``deep``."""
    after, seen = "", 0
    while page := await store.list(prefix, after):
        for key in (each.key for each in page):
            after, seen = key, seen + 1
            match = _TREE.match(key, len(prefix))
            folder = key.find("/", len(prefix))
            if match is not None and (deep or match.start(1) == len(prefix)):
                tree = Names(key[: match.start(1)], UUID(match[1]))
                yield key, tree
                after = f"{tree.root}d0"  # what follows "/": behind all of its objects
                break
            yield key, None
            if folder >= 0 and not deep:
                after = f"{key[:folder]}0"
                break
        progress("looking", seen, 0)


async def listed(store: Any, prefix: str, after: str = "") -> AsyncIterator[Any]:
    """Yield all objects whose keys have ``prefix`` and sort behind ``after``."""
    while page := await store.list(prefix, after):
        for each in page:
            yield each
        after = page[-1].key


async def in_order(function: Callable[[T], Awaitable[R]], items: Iterable[T], limit: int) -> AsyncIterator[R]:
    """Yield what ``function`` returns for each of ``items``, of which up to ``limit`` are under way."""
    under_way: deque[Deferred[R]] = deque()
    try:
        for item in items:
            under_way.append(as_deferred(function(item)))
            if len(under_way) >= limit:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for rest in under_way:
            rest.addErrback(lambda _: None)
            rest.cancel()
