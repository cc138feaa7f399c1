"""Replacing the head: only under the condition that it is still the one that was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredLock

from txtcmu.errors import ConfigError, FencedError, PreconditionFailed, StoreUnavailable
from txtcmu.volume.errors import Damaged
from txtcmu.volume.head import MAX_BYTES, Head
from txtcmu.volume.names import head_key
from txtcmu.volume.persistent import read_again

__all__ = ["HeadKeeper", "read_head"]


async def read_head(store: Any, prefix: str) -> tuple[Head, str] | None:
    """Return the head of the volume at ``prefix`` and its etag, or ``None`` when there is no volume.

    :raise txtcmu.errors.ConfigError: there is something else, or it is damaged.
    """
    key = head_key(prefix)

    async def read() -> tuple[Head, str] | None:
        found = await store.get(key, 0, MAX_BYTES + 1, checked=False)
        return None if found is None else (Head.decode(found.data), found.etag)

    try:
        return await read_again(read)
    except Damaged as damaged:
        raise ConfigError(f"object {key} is damaged: {damaged}") from damaged


class HeadKeeper:
    """The head, as its writer sees it.

    :param random: returns so many random bytes.
    :ivar head: the one that this writer has read or written last.
    """

    def __init__(self, store: Any, prefix: str, head: Head, etag: str, random: Callable[[int], bytes]) -> None:
        self.head = head
        self._store = store
        self._prefix = prefix
        self._etag = etag
        self._random = random
        self._lock = DeferredLock()

    async def replace(self, change: Callable[[Head], dict[str, Any]]) -> Head:
        """Replace the head; replacements come one after the other.

        :param change: called with the head as it is now, returns what is to be different; called again when somebody
            else has replaced it meanwhile without taking the volume over.
        :raise FencedError: another has taken the volume over.
        """
        # One name for all attempts: whichever of them lands, and however late, is known again.
        operation = self._random(8).hex()
        await self._lock.acquire()
        try:
            while True:
                head = self.head.replaced(operation, **change(self.head))
                try:
                    receipt = await self._store.put(
                        head_key(self._prefix), head.encode(), if_match=self._etag, checked=False
                    )
                except (PreconditionFailed, StoreUnavailable):
                    if await self._reread(operation):
                        return self.head
                else:
                    self.head, self._etag = head, receipt.etag
                    return head
        finally:
            self._lock.release()

    async def check(self) -> None:
        """Read the head anew.  :raise FencedError: another has taken the volume over."""
        await self._lock.acquire()
        try:
            await self._reread("")
        finally:
            self._lock.release()

    async def _reread(self, operation: str) -> bool:
        """Take over what is there, and tell whether it is what ``operation`` wrote."""
        while True:
            found = await read_head(self._store, self._prefix)
            if found is None:
                raise FencedError("the volume was removed")
            head, etag = found
            if head.uuid != self.head.uuid or head.generation >= self.head.generation:
                break  # else the store has answered with an older one
        ours = head.operation == operation
        if not ours and (head.uuid, head.epoch, head.writer) != (self.head.uuid, self.head.epoch, self.head.writer):
            raise FencedError(f"{head.writer} has taken the volume over")
        self.head, self._etag = head, etag
        return ours
