"""Changes of blocks: one request at a time for each block, always conditional, always with the whole block.

While a block's object is being replaced, further changes of that block gather and become one following request.
A condition that does not hold means that something else landed: an earlier attempt of ours, a request of a dead
predecessor, or a foreign writer.  Then the block is read again and the same change applied to what is there.

A block of zeroes is removed in two steps: a hole replaces it, a short object with an etag that never occurs again,
and only the hole is deleted.  A DELETE that lands late therefore finds its hole or nothing, never newer data.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import md5
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.backstores.blockformat import ABSENT, BlockFormat
from txtcmu.backstores.blockstates import BlockStates
from txtcmu.errors import (
    BackstoreError,
    MediumError,
    NotReadyError,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)
from txtcmu.objectstore.objects import MaybeMine, ObjectDamaged, StoredObject
from txtcmu.threads import uncancellable

__all__ = ["BlockWriter", "translated"]

_CONFLICTS = 8
_IMAGES = 4 << 20  # bytes of blocks written last that are kept: small writes mostly return to the same blocks


def translated(error: ObjectStoreError, offset: int | None = None) -> BackstoreError:
    """Return what a device makes of a store's error: it is away, until somebody mends it or it comes back.

    A damaged object alone is no reason not to be ready: the other blocks are.

    :param offset: on the device, of what was to be read.
    """
    return MediumError(str(error), offset) if isinstance(error, ObjectDamaged) else NotReadyError(str(error))


@define
class _Change:
    """Patches of one block, in order, and who waits for them.

    :ivar patches: where each begins, and its bytes, or how many zeroes it is.
    """

    patches: list[tuple[int, bytes | int]] = field(factory=list)
    waiters: list[Deferred[None]] = field(factory=list)

    def covers(self, size: int) -> bool:
        """Tell whether nothing of the block's old content is left."""
        end = 0
        for start, patch in sorted((start, _length(patch)) for start, patch in self.patches):
            if start > end:
                return False
            end = max(end, start + patch)
        return end >= size

    def apply(self, image: bytearray) -> None:
        """Carry out the patches on a block's content."""
        for start, patch in self.patches:
            image[start : start + _length(patch)] = bytes(patch)  # of a number: so many zeroes


def _length(patch: bytes | int) -> int:
    return patch if isinstance(patch, int) else len(patch)


class BlockWriter:
    """Changes the blocks of one disk.

    :param deletes: whether the store honours conditions on DELETE; else holes stay.
    """

    def __init__(self, store: Any, layout: BlockFormat, states: BlockStates, deletes: bool, log: Logger) -> None:
        self._store = store
        self._layout = layout
        self._states = states
        self._deletes = deletes
        self._log = log
        self._warned = False
        # Both have an entry for each block that is being changed.
        self._running: dict[int, _Change] = {}
        self._next: dict[int, _Change] = {}
        # What the blocks written last hold, and the state of which that is true; the oldest first.
        self._images: OrderedDict[int, tuple[str, bytearray]] = OrderedDict()

    def change(self, block: int, start: int, patch: bytes | int) -> Deferred[None]:
        """Overwrite a part of a block with bytes, or with so many zeroes.

        :return: fires when it is durable, or has failed for good; cannot be cancelled, since the request cannot.
        """
        done: Deferred[None] = Deferred()
        change = self._next.get(block)
        begins = change is None
        if change is None:
            change = self._next[block] = _Change()
        change.patches.append((start, patch))
        change.waiters.append(done)
        if begins:
            ensureDeferred(self._work(block)).addErrback(self._failed)
        return uncancellable(done)

    def busy(self, block: int) -> bool:
        """Tell whether a block is being changed."""
        return block in self._next

    def ended(self) -> Deferred[Any] | None:
        """Return ``None`` when no change is under way, or what fires when all that are now have ended, anyhow."""
        waiting = []
        for change in (*self._running.values(), *self._next.values()):
            if change.patches:
                done: Deferred[None] = Deferred()
                change.waiters.append(done)
                waiting.append(done)
        return DeferredList(waiting, consumeErrors=True) if waiting else None

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a block could not be changed", failure)

    async def _work(self, block: int) -> None:
        """Carry out changes of one block until there are none."""
        image = self._recall(block)
        while (change := self._next[block]).patches:
            self._running[block], self._next[block] = change, _Change()
            try:
                image = await self._carry_out(block, change, image)
            except Exception:
                failure = Failure()  # type: ignore[no-untyped-call]
                image = None
                self._fire(change, failure)
            else:
                self._fire(change, None)
        del self._next[block], self._running[block]
        if image is not None:
            self._remember(block, image)

    def _recall(self, block: int) -> bytearray | None:
        state, image = self._images.pop(block, (None, None))
        return image if state is not None and state == self._states.get(block) else None

    def _remember(self, block: int, image: bytearray) -> None:
        state = self._states.get(block)
        if state is not None and state != ABSENT:
            self._images[block] = state, image
            while len(self._images) * self._layout.block_size > _IMAGES:
                self._images.popitem(last=False)

    def _fire(self, change: _Change, result: Any) -> None:
        for waiter in change.waiters:
            waiter.callback(result)

    async def _carry_out(self, block: int, change: _Change, image: bytearray | None) -> bytearray:
        """Make one change durable; return the block's content.

        :param image: the content before, when it is known; it counts only while the state is known, too.
        """
        try:
            found: bytes | None = None
            refused: PreconditionFailed | None = None
            for _ in range(_CONFLICTS):
                # The change before this one may have ended with a DELETE of unknown outcome.
                if image is None or self._states.get(block) is None:
                    foreign = refused is not None and not isinstance(refused, MaybeMine)
                    image = await self._base(block, whole=not foreign and change.covers(self._layout.block_size))
                    found = bytes(image) if foreign else None
                change.apply(image)
                if found is not None:
                    if found == bytes(image):
                        return image  # a proxy sent the request twice, and the reply was to the second
                    self._warn(block)
                try:
                    await self._store_image(block, image)
                    return image
                except PreconditionFailed as error:
                    refused, image = error, None
        except ObjectStoreError as error:
            raise translated(error, block * self._layout.block_size) from None
        raise BackstoreError(f"{self._layout.key(block)}: another writer keeps changing it; stop that one")

    async def _base(self, block: int, whole: bool) -> bytearray:
        """Return what a block holds, or anything if it is to be overwritten as a whole; know its state then."""
        layout = self._layout
        state = self._states.get(block)
        if state is None or (state != ABSENT and not whole):
            key = layout.key(block)
            found: StoredObject | None = await (self._store.head(key) if whole else self._store.get(key))
            if state is not None and (found is None or found.etag != state):
                self._warn(block)
            self._states.learn(block, found)
            content = None if whole else layout.content(found, 0, layout.block_size)
            if content is not None:
                return bytearray(content)
        return bytearray(layout.block_size)

    async def _store_image(self, block: int, image: bytearray) -> None:
        if block and image.count(0) == len(image):
            await self._clear(block)
            return
        body = bytes(image)
        # Where etags are not MD5 they are as good as random, and never come back.
        haunted = self._states.haunted(block)
        if haunted and md5(body, usedforsecurity=False).hexdigest() in haunted:
            body = self._layout.with_tail(body)
        await self._put(block, body, hole=False)

    async def _clear(self, block: int) -> None:
        if self._states.get(block) == ABSENT:
            return
        etag = await self._put(block, b"", hole=True)
        if not self._deletes or self._states.haunted(block):
            return
        # Whatever becomes of it, the block reads as zeroes.
        self._states.forget(block)
        try:
            await self._store.delete(self._layout.key(block), if_match=etag)
        except ObjectStoreError:
            return
        self._states.changed(block, etag, ABSENT, 0)

    async def _put(self, block: int, body: bytes, hole: bool) -> str:
        """Replace the state last known; return the new one."""
        states, layout = self._states, self._layout
        was = states.get(block)
        assert was is not None
        metadata = layout.metadata(block, was, states.haunted(block), states.session)
        if hole:
            body, metadata = layout.hole(metadata)
        try:
            receipt = await self._store.put(
                layout.key(block), body, metadata=metadata, if_match=was or None, absent=was == ABSENT
            )
        except PreconditionFailed as refused:
            states.forget(block)
            if isinstance(refused, MaybeMine):
                states.doubt(block, was)
            raise
        except Exception as error:
            # Whatever it is, an earlier attempt may be under way.
            states.forget(block)
            states.doubt(block, was)
            if isinstance(error, ObjectStoreError) and not isinstance(error, StoreUnavailable):
                self._log.error("{error}", error=error)
            raise
        states.changed(block, was, receipt.etag, receipt.doubts)
        etag: str = receipt.etag
        return etag

    def _warn(self, block: int) -> None:
        if not self._warned:
            self._warned = True
            self._log.warn(
                "{key} was changed by somebody else: a late request of an earlier daemon, or another writer on this"
                " disk, which must then be stopped",
                key=self._layout.key(block),
            )
