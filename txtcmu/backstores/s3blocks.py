"""A disk of one object for each block: slow at small random writes, and simple; s3backer's layout.

A write is acknowledged when its objects are stored, so there is nothing to flush and FUA costs nothing.  How it
stays whole whatever becomes of requests is told where it is done: :mod:`.blockwriter`, :mod:`.blockstates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txtcmu.backstores.blockformat import ABSENT, BlockFormat
from txtcmu.backstores.blocksession import Session
from txtcmu.backstores.blockstates import BlockStates
from txtcmu.backstores.blockwriter import BlockWriter, translated
from txtcmu.errors import ObjectStoreError, WriteProtectedError
from txtcmu.interfaces import IBackstore, IDiscard, IForceUnitAccess, IVectoredBackstore, IWriteZeroes
from txtcmu.iovec import gather, scatter
from txtcmu.results import all_of
from txtcmu.threads import uncancellable

__all__ = ["S3Blocks"]

_FEW = 16  # to ask for so many blocks one by one is no more work than to list them
_BATCH = 256  # blocks discarded at a time: each is a coroutine and a request


@implementer(IBackstore, IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes)
class S3Blocks:
    """A disk in a bucket.

    :param writer: of the same store, layout and states.
    :param closed: called once, when it is closed.
    """

    discard_zeroes = True

    def __init__(
        self,
        store: Any,
        layout: BlockFormat,
        states: BlockStates,
        writer: BlockWriter,
        session: Session,
        log: Any,
        closed: Callable[[], None],
        read_only: bool = False,
    ) -> None:
        self._store = store
        self._layout = layout
        self._states = states
        self._writer = writer
        self._session = session
        self._log = log
        self._closed = closed
        self.read_only = read_only
        self.size = layout.size
        self.physical_block_size = self.discard_granularity = layout.block_size

    def read(self, offset: int, length: int) -> Deferred[bytearray]:
        """Return ``length`` bytes."""
        data = bytearray(length)
        return self.readv(offset, [memoryview(data)]).addCallback(lambda _: data)

    def readv(self, offset: int, buffers: list[memoryview]) -> Deferred[int]:
        """Fill ``buffers``, from all blocks at the same time."""
        length = sum(map(len, buffers))
        windows = _windows(buffers, [piece for _, _, piece in self._pieces(offset, length)])
        reads = [
            Deferred.fromCoroutine(self._read(block, start, count, into))
            for (block, start, count), into in zip(self._pieces(offset, length), windows, strict=True)
        ]
        # Not all can be cancelled, and the buffers are somebody else's as soon as this fires: it waits for the last.
        return all_of(reads).addCallback(lambda _: length)

    def write(self, offset: int, data: memoryview) -> Deferred[None]:
        """Store ``data``; it is copied at once."""
        self._refuse_read_only()
        at = 0
        changes = []
        for block, start, count in self._pieces(offset, len(data)):
            changes.append(self._writer.change(block, start, bytes(data[at : at + count])))
            at += count
        return _all(changes)

    def writev(self, offset: int, buffers: list[memoryview]) -> Deferred[None]:
        """Store ``buffers``."""
        return self.write(offset, gather(buffers))

    write_fua = writev

    def flush(self) -> Deferred[Any] | None:
        """Wait for the writes that are under way; those acknowledged are durable."""
        return self._writer.ended()

    def discard(self, offset: int, length: int) -> Deferred[None]:
        """Remove whole blocks, overwrite parts of blocks with zeroes."""
        self._refuse_read_only()
        return uncancellable(Deferred.fromCoroutine(self._discard(offset, length)))

    write_zeroes = discard

    async def close(self) -> None:
        """End the session and the connections."""
        try:
            await self._session.end(self._states.settled, self._log)
            await self._store.close()
        finally:
            self._closed()

    def _refuse_read_only(self) -> None:
        """Keep those out who do not look at :attr:`read_only`: there is no session to write in."""
        if self.read_only:
            raise WriteProtectedError(f"{self._layout.prefix}: the disk was opened for reading only; open it anew")

    async def _read(self, block: int, start: int, length: int, into: list[memoryview]) -> None:
        states = self._states
        content: bytes | None = None
        if states.get(block) != ABSENT:
            version = states.version
            try:
                found = await self._store.get(self._layout.key(block), start, length)
            except ObjectStoreError as error:
                raise translated(error, block * self._layout.block_size + start) from None
            content = self._layout.content(found, start, length)
            if version == states.version and states.get(block) is None and not self._writer.busy(block):
                states.learn(block, found)
        scatter(content or b"", into)

    async def _discard(self, offset: int, length: int) -> None:
        size = self._layout.block_size
        first, last = -(-offset // size), (offset + length) // size
        if last - first <= _FEW:
            await _all([self._writer.change(*piece) for piece in self._pieces(offset, length)])
            return
        whole = range(first * size, last * size)
        edges = [*self._pieces(offset, whole.start - offset), *self._pieces(whole.stop, offset + length - whole.stop)]
        await _all([self._writer.change(*piece) for piece in edges])
        removed: set[int] = set()
        try:
            # The list may lack what was written a moment ago; and nothing but TLS protects it on its way, so what the
            # first lacks is sought in a second.
            await self._remove(self._states.present(first, last), removed)
            for _ in range(2):
                after = self._layout.key(first - 1) if first else self._layout.prefix
                while page := await self._store.list(self._layout.prefix, after):
                    blocks = [self._layout.block(found.key) for found in page]
                    present = [block for block in blocks if block is not None and first <= block < last]
                    await self._remove(present, removed)
                    after = page[-1].key
                    if after >= self._layout.key(last - 1):
                        break
        except ObjectStoreError as error:
            raise translated(error) from None

    async def _remove(self, blocks: Sequence[int], removed: set[int]) -> None:
        blocks = [block for block in blocks if block not in removed]
        for at in range(0, len(blocks), _BATCH):
            batch = blocks[at : at + _BATCH]
            await _all([self._writer.change(block, 0, self._layout.block_size) for block in batch])
            removed.update(batch)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the blocks' edges: number of the block, start in it, length."""
        size = self._layout.block_size
        end = offset + length
        while offset < end:
            block, start = divmod(offset, size)
            count = min(size - start, end - offset)
            yield block, start, count
            offset += count


def _all(changes: list[Deferred[None]]) -> Deferred[None]:
    """Return what fires when the last of them has, and fails when one did; it cannot be cancelled."""
    return changes[0] if len(changes) == 1 else all_of(changes)


def _windows(buffers: list[memoryview], lengths: list[int]) -> Iterator[list[memoryview]]:
    """Cut a list of buffers into lists of the given total lengths."""
    rest = iter(buffers)
    current = memoryview(b"")
    for length in lengths:
        windows = []
        while length:
            if not current:
                current = next(rest)
            windows.append(current[:length])
            current, length = current[length:], length - len(windows[-1])
        yield windows
