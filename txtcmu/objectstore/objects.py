"""What passes between an object store and its users."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, field, frozen

from txtcmu.errors import ObjectStoreError, PreconditionFailed

__all__ = ["MaybeMine", "ObjectDamaged", "Receipt", "StoreBroken", "StoredObject"]


@frozen
class StoredObject:
    """An object, or what is known of one.

    :ivar size: of the whole object, whatever part of it :attr:`data` is.
    :ivar metadata: user metadata, names in lower case without ``x-amz-meta-``.
    :ivar encoding: its Content-Encoding, ``""`` for none.
    """

    key: str
    etag: str
    size: int
    data: bytes = field(default=b"", repr=False)
    metadata: Mapping[str, str] = Factory(dict)
    encoding: str = ""


@frozen
class Receipt:
    """A write that happened.

    :ivar etag: of the object now; ``""`` after a delete.
    :ivar doubts: how many earlier attempts of the same call have an unknown outcome: each may still be applied,
        under the same condition.
    """

    etag: str
    doubts: int = 0


class MaybeMine(PreconditionFailed):
    """The condition failed, and an earlier attempt of the same call may be the reason: read what is there.

    :ivar doubts: as in :class:`Receipt`.
    """

    def __init__(self, message: str, doubts: int) -> None:
        super().__init__(message)
        self.doubts = doubts


class ObjectDamaged(ObjectStoreError):  # noqa: N818
    """An object's bytes are not those that were stored, however often they are read."""


class StoreBroken(ObjectStoreError):  # noqa: N818
    """The store does not know any more what of the latest changes is durable, and will not: every other one fails so.

    Trying again is vain, and worse: it might succeed, and mean nothing.
    """
