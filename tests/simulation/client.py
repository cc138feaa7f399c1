"""An object store as a process sees it over the network: with deadlines, and retries that may all land in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tests.simulation.hosts import Host
from tests.simulation.network import Damaged, Network, result_of
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.objects import ObjectDamaged, Receipt, StoredObject
from txtcmu.objectstore.retry import Doubts, Later, Patience, persist

__all__ = ["StoreClient"]

#: Seconds that a request may take, and how often one body may come damaged, as with the S3 store.
_DEADLINE: Final = 8.0
_DAMAGED: Final = 4

T = TypeVar("T")


@implementer(IObjectStore)
class StoreClient:
    """The store, to one host."""

    def __init__(self, host: Host, network: Network, random: Random) -> None:
        self._host = host
        self._network = network
        self._patience = Patience(host, random.random, total=20.0, longest=5.0)

    def get(
        self, key: str, start: int = 0, length: int | None = None, *, checked: bool = True
    ) -> Deferred[StoredObject | None]:
        """Read an object or a part of it."""
        damaged = 0

        async def attempt(_: Doubts) -> StoredObject | None:
            nonlocal damaged
            try:
                found: StoredObject | None
                found, _start, _checked = await self._exchange(
                    "get", key, lambda: (result_of(self._network.store.get(key, start, length)), start, checked)
                )
            except Damaged as error:
                damaged += 1
                if damaged < _DAMAGED:
                    raise Later("damaged", doubtful=False) from error
                raise ObjectDamaged(f"{key} is damaged") from error
            return found

        return self._persist(f"GET {key}", attempt)

    def head(self, key: str) -> Deferred[StoredObject | None]:
        """Read what is known of an object."""
        return self.get(key, 0, 0)

    def put(
        self,
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        absent: bool = False,
        checked: bool = True,
    ) -> Deferred[Receipt]:
        """Create or replace an object."""
        body = bytes(data)
        put = self._network.store.put

        async def attempt(doubts: Doubts) -> Receipt:
            receipt: Receipt = await self._exchange(
                "put", key, lambda: result_of(put(key, body, metadata=metadata, if_match=if_match, absent=absent))
            )
            return Receipt(receipt.etag, doubts.count)

        return self._persist(f"PUT {key}", attempt)

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object."""

        async def attempt(doubts: Doubts) -> Receipt:
            await self._exchange("delete", key, lambda: result_of(self._network.store.delete(key, if_match=if_match)))
            return Receipt("", doubts.count)

        return self._persist(f"DELETE {key}", attempt)

    def list(self, prefix: str, after: str = "") -> Deferred[Any]:
        """Return one page of keys."""

        async def attempt(_: Doubts) -> Any:
            return await self._exchange("list", prefix, lambda: result_of(self._network.store.list(prefix, after)))

        return self._persist(f"LIST {prefix}", attempt)

    def close(self) -> Deferred[None]:
        """See :class:`~txtcmu.interfaces.IObjectStore`: there are no connections."""
        return self._network.store.close()

    def _persist(self, what: str, attempt: Callable[[Doubts], Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(persist(self._patience, what, attempt, lambda _: None))

    async def _exchange(self, kind: str, key: str, apply: Callable[[], Any]) -> Any:
        request = self._network.send(self._host, kind, key, apply)

        def give_up() -> None:
            request.given_up = True
            request.answer.errback(Later("no answer", doubtful=True))

        timer = self._host.callLater(_DEADLINE, give_up)
        try:
            return await request.answer
        finally:
            if timer.active():
                timer.cancel()
