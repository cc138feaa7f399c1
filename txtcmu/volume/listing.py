"""What is in the log of an epoch, page by page: the next page comes while what the last one names is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.objectstore.objects import StoredObject
from txtcmu.results import as_deferred
from txtcmu.volume.names import Names, log_place

__all__ = ["Listing"]


class Listing:
    """The sizes of an epoch's objects, from one number on; :meth:`close` it.

    :param first: the sequence number of the first object that matters.
    :param full: a page with fewer objects is taken for the last.
    """

    def __init__(self, store: Any, names: Names, epoch: int, first: int, full: int) -> None:
        self._store = store
        self._full = full
        self._prefix = names.epoch(epoch)
        self._sizes: dict[int, int] = {}
        self._coming: Deferred[Sequence[StoredObject]] | None = None
        self._ask(names.log(epoch, first - 1) if first else "")

    def _ask(self, after: str) -> None:
        self._coming = as_deferred(self._store.list(self._prefix, after))

    async def size(self, seq: int) -> int | None:
        """Return the size of an object, ``None`` when there is none.  Ask in ascending order."""
        while seq not in self._sizes and self._coming is not None:
            page, self._coming = await self._coming, None
            if len(page) >= self._full:
                self._ask(page[-1].key)
            self._sizes = {place[1]: each.size for each in page if (place := log_place(each.key)) is not None}
        return self._sizes.get(seq)

    def close(self) -> None:
        """Wait for no more pages."""
        if self._coming is not None:
            self._coming.addErrback(lambda _: None)
            self._coming.cancel()
