"""As much of an object store on WebDAV as the probe needs: what a handler of WebDAV would make of such a server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.objectstore.http import HTTP, Reply
from txtcmu.objectstore.objects import Receipt, StoredObject

__all__ = ["DAVStore"]


class DAVStore:
    """Objects below a URL that ends with a slash; nothing is tried again."""

    def __init__(self, reactor: Any, url: str, connections: int = 16) -> None:
        self._url = url
        self._http = HTTP(reactor, connections)

    def get(self, key: str) -> Deferred[StoredObject | None]:
        """Read an object."""
        return Deferred.fromCoroutine(self._get(key))

    def put(self, key: str, data: bytes, *, if_match: str | None = None, absent: bool = False) -> Deferred[Receipt]:
        """Create or replace an object; its etag is asked for, since the reply has none."""
        return Deferred.fromCoroutine(self._put(key, data, if_match, absent))

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object."""
        return Deferred.fromCoroutine(self._change("DELETE", key, b"", _condition(if_match, False)))

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
        if reply.status == 412:
            raise PreconditionFailed(key)
        if reply.status not in (200, 201, 204):
            raise ObjectStoreError(f"{method} {key}: {reply.status}")
        return Receipt("")

    async def _exchange(self, method: str, key: str, data: bytes, headers: dict[str, str]) -> Reply:
        return await self._http.exchange(method, self._url + key, headers, data, 30.0)


def _condition(if_match: str | None, absent: bool) -> dict[str, str]:
    if absent:
        return {"If-None-Match": "*"}
    return {} if if_match is None else {"If-Match": f'"{if_match}"'}
