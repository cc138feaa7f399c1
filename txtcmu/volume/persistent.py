"""Requests that are made until the store answers them: whoever wants no answer any more cancels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txtcmu.errors import ObjectStoreError, PreconditionFailed, StoreUnavailable
from txtcmu.objectstore.objects import ObjectDamaged, StoreBroken, StoredObject
from txtcmu.volume.errors import Damaged

__all__ = ["ATTEMPTS", "PersistentStore", "read_again"]

#: How often what comes damaged is read before it is given up: bits flip on the way, too.
ATTEMPTS: Final = 4
#: Seconds until a request is made again that the store, after all its patience, did not answer, or that it refuses: a
#: person may mend what is wrong.
UNANSWERED_DELAY: Final = 1.0
REFUSED_DELAY: Final = 5.0

_log = Logger()

T = TypeVar("T")


async def read_again(read: Callable[[], Awaitable[T]]) -> T:
    """Return what ``read`` returns, however often it says Damaged before.

    :raise Damaged: it did so :data:`ATTEMPTS` times.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await read()
        except Damaged as damaged:
            _log.error("{error}; reading it again", error=damaged)
    return await read()


class PersistentStore:
    """What a volume cannot go on without.

    :param store: an :class:`~txtcmu.interfaces.IObjectStore`, with a patience of its own for each request.
    :param clock: the reactor.
    """

    def __init__(self, store: Any, clock: Any) -> None:
        self._store = store
        self._clock = clock

    async def get(self, key: str, start: int = 0, length: int | None = None) -> StoredObject | None:
        """Read a part of an object, whose bytes are for the caller to verify; ``None`` when there is none.

        :raise ObjectDamaged: it cannot be read, however often it is tried.
        """
        found: StoredObject | None = await self._persist(
            key, lambda: self._store.get(key, start, length, checked=False)
        )
        return found

    async def create(self, key: str, data: bytearray) -> None:
        """Create an object.

        :raise PreconditionFailed: there is one, which may be this: an attempt whose reply was lost may have landed.
        :raise StoreBroken: nothing that it takes can be relied upon any more.
        """
        await self._persist(key, lambda: self._store.put(key, data, absent=True, checked=False))

    async def _persist(self, key: str, request: Callable[[], Deferred[Any]]) -> Any:
        while True:
            try:
                return await request()
            except (PreconditionFailed, ObjectDamaged, StoreBroken):
                raise
            except StoreUnavailable as error:
                _log.warn("{key}: {error}; trying on", key=key, error=error)
                await deferLater(self._clock, UNANSWERED_DELAY)
            except ObjectStoreError as error:
                _log.error("{key}: {error}; trying on", key=key, error=error)
                await deferLater(self._clock, REFUSED_DELAY)
