"""As much of an object store on WebDAV as the probe needs: what a handler of WebDAV would make of such a server."""

from __future__ import annotations

from random import random
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.objectstore.http import HTTP, Reply
from txtcmu.objectstore.objects import Receipt, StoredObject
from txtcmu.objectstore.retry import Doubts, Patience, persist
from txtcmu.objectstore.startingline import StartingLine

__all__ = ["DAVStore"]


class DAVStore:
    """Objects below a URL that ends with a slash."""

    def __init__(self, reactor: Any, url: str, agent: Any = None) -> None:
        self._reactor = reactor
        self._url = url
        self._http = HTTP(reactor, 16, agent)

    def get(self, key: str) -> Deferred[StoredObject | None]:
        """Read an object."""
        return Deferred.fromCoroutine(self._get(key))

    def put(self, key: str, data: bytes, *, if_match: str | None = None, absent: bool = False) -> Deferred[Receipt]:
        """Create or replace an object; its etag is asked for, since the reply has none."""
        return Deferred.fromCoroutine(self._put(key, data, if_match, absent))

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object."""
        return Deferred.fromCoroutine(self._change("DELETE", key, b"", _condition(if_match, False)))

    def together(self, count: int, abreast: int) -> DAVStore:
        """Return the same store for PUTs that have to be at the server at the same time."""
        return DAVStore(self._reactor, self._url, StartingLine(self._reactor, self._http.agent, count, abreast))

    def close(self) -> Deferred[None]:
        """Close connections."""
        return Deferred.fromCoroutine(self._http.close())

    async def _get(self, key: str) -> StoredObject | None:
        reply = await self._exchange("GET", key, b"", {})
        if reply.status == 404:
            return None
        return StoredObject(key, reply.headers["etag"].strip('"'), len(reply.body), reply.body)

    async def _put(self, key: str, data: bytes, if_match: str | None, absent: bool) -> Receipt:
        await self._change("PUT", key, data, _condition(if_match, absent))
        found = await self._get(key)
        return Receipt("" if found is None else found.etag)

    async def _change(self, method: str, key: str, data: bytes, condition: dict[str, str]) -> Receipt:
        reply = await self._exchange(method, key, data, condition)
        if reply.status not in (200, 201, 204) and (method, reply.status) != ("DELETE", 404):
            raise ObjectStoreError(f"{method} {key}: {reply.status}")
        return Receipt("")

    async def _exchange(self, method: str, key: str, data: bytes, headers: dict[str, str]) -> Reply:
        async def attempt(_: Doubts) -> Reply:
            reply = await self._http.exchange(method, self._url + key, headers, data, 30.0)
            if reply.status == 412:
                raise PreconditionFailed(key)
            return reply

        return await persist(Patience(self._reactor, random), f"{method} {key}", attempt, lambda _: None)


def _condition(if_match: str | None, absent: bool) -> dict[str, str]:
    if absent:
        return {"If-None-Match": "*"}
    return {} if if_match is None else {"If-Match": f'"{if_match}"'}
