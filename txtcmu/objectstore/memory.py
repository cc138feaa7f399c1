"""An object store in memory, exact about conditions: for tests, and for trying things out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from txtcmu.errors import PreconditionFailed
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.objects import Receipt, StoredObject

__all__ = ["MemoryObjectStore"]


@implementer(IObjectStore)
class MemoryObjectStore:
    """Objects in a dict; every Deferred has fired when it is returned.

    :ivar objects: the objects by key.
    :ivar page: how many keys :meth:`list` returns at a time.
    """

    page = 1000

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}

    def get(
        self, key: str, start: int = 0, length: int | None = None, *, checked: bool = True
    ) -> Deferred[StoredObject | None]:
        """Read an object or a part of it."""
        found = self.objects.get(key)
        if found is None:
            return succeed(None)
        end = found.size if length is None else start + length
        return succeed(evolve(found, data=found.data[start:end]))

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
        found = self.objects.get(key)
        if (absent and found is not None) or not _matches(found, if_match):
            return fail(PreconditionFailed(f"{key}: the object is not as the condition says"))
        body = bytes(data)
        etag = md5(body, usedforsecurity=False).hexdigest()
        self.objects[key] = StoredObject(key, etag, len(body), body, dict(metadata or {}))
        return succeed(Receipt(etag))

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object."""
        if not _matches(self.objects.get(key), if_match):
            return fail(PreconditionFailed(f"{key}: the object is not as the condition says"))
        self.objects.pop(key, None)
        return succeed(Receipt(""))

    def list(self, prefix: str, after: str = "") -> Deferred[Sequence[StoredObject]]:
        """Return one page of keys."""
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        first = bisect_right(keys, after)
        page = keys[first : first + self.page]
        return succeed([evolve(self.objects[key], data=b"", metadata={}) for key in page])

    def close(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)


def _matches(found: StoredObject | None, etag: str | None) -> bool:
    return etag is None or (found is not None and found.etag == etag)
