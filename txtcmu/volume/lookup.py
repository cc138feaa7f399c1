"""Finding blocks, wherever they are: in the open batch, in one that is on its way, in memory, or in the store."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtcmu.errors import MediumError
from txtcmu.results import all_of, as_deferred
from txtcmu.volume.batch import Batch
from txtcmu.volume.cache import BlockCache
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import Log
from txtcmu.volume.reader import NotThere, Reader
from txtcmu.volume.slots import BLOCK, HOLE, seq_of, slot_of
from txtcmu.volume.state import State

__all__ = ["Lookup"]

_ZEROES: Final = bytes(BLOCK)


class Lookup:
    """Finds the bytes of blocks.

    What it returns for a block is bytes-like, and may change with the next write; or a Deferred of bytes.
    """

    def __init__(
        self, state: State, keeper: HeadKeeper, log: Log, loader: Loader, reader: Reader, cache: BlockCache
    ) -> None:
        self._state = state
        self._keeper = keeper
        self._log = log
        self._loader = loader
        self._reader = reader
        self._cache = cache

    async def load(self, blocks: list[int]) -> None:
        """See to it that the map knows where adjacent blocks are."""
        while missing := self._state.blocks.missing(blocks[0], len(blocks)):
            await all_of([self._loader.load(leaf) for leaf in missing])

    def find(self, blocks: list[int], batch: Batch) -> list[Any]:
        """Return the bytes of adjacent blocks, or Deferreds of them."""
        found: list[Any] = []
        stored = []
        for block in blocks:
            data = batch.find(block) if batch else None
            if data is None:
                stored.append(block)
                found.append(None)
            elif block in batch.partial:
                found.append(batch.bases[block].wait().addCallback(_whole, batch, block))
            elif block in batch.spoiled:
                raise MediumError("the block is damaged", block * BLOCK)
            else:
                found.append(data or _ZEROES)
        if stored:
            there = iter(self._find_stored(stored))
            found = [next(there) if each is None else each for each in found]
        return found

    def _find_stored(self, blocks: list[int]) -> list[Any]:
        """Return the bytes of blocks as they were when the open batch was begun, or Deferreds of them."""
        first = blocks[0]
        where = self._state.blocks.locations(first, blocks[-1] + 1 - first).tolist()
        found: list[Any] = []
        wanted = []
        for block in blocks:
            at = where[block - first]
            data = self._in_memory(block, at)
            if data is None:
                wanted.append((block, at))
            found.append(data)
        if wanted:
            fetched = iter(zip(self._reader.fetch(wanted), wanted, strict=True))
            for number, data in enumerate(found):
                if data is None:
                    reading, (block, at) = next(fetched)
                    found[number] = reading.addErrback(self._look_again, block, at)
        return found

    def _in_memory(self, block: int, where: int) -> Any:
        """Return the bytes of a block, or a Deferred of them, or ``None`` when only the store has them."""
        if where == HOLE:
            return _ZEROES
        data = self._cache.get(where)
        if data is not None:
            return data
        try:
            batch = self._log[seq_of(where)]
        except KeyError:
            return None
        if block in batch.partial:
            return batch.bases[block].wait().addCallback(lambda _: bytes(batch.block(slot_of(where))))
        if block in batch.spoiled:
            raise MediumError("the block is damaged", block * BLOCK)
        return batch.block(slot_of(where))

    def read_ahead(self, block: int, count: int) -> None:
        """Begin to bring adjacent blocks into memory, as far as the map knows where they are."""
        count = min(count, self._state.blocks.blocks - block)
        if count <= 0 or self._state.blocks.missing(block, count):
            return
        wanted = [
            (block + number, where)
            for number, where in enumerate(self._state.blocks.locations(block, count).tolist())
            if where != HOLE and where not in self._cache and seq_of(where) <= self._log.durable
        ]
        for reading in self._reader.fetch(wanted):
            reading.addErrback(lambda _: None)  # whoever wants the block will see for himself

    async def base(self, block: int) -> Any:
        """Return the bytes of a block as they are before the open batch.

        Where they are is seen at once, or by the leaf as it is stored: later the map may know of this batch itself.
        """
        blocks = self._state.blocks
        missing = blocks.missing(block, 1)
        if missing:
            where = int((await self._loader.load(missing[0]))[block % blocks.leaf_blocks])
        else:
            where = blocks.location(block)
        data = self._in_memory(block, where)
        if data is None:
            [data] = self._reader.fetch([(block, where)])
        try:
            return await as_deferred(data)
        except NotThere as error:  # the block cannot have moved, before this batch is durable
            return await self._lost(block, error)

    def _look_again(self, failure: Failure, block: int, where: int) -> Any:
        """The block is not where it was: look it up again."""
        failure.trap(NotThere)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._read_again(block, where, failure.value))

    async def _read_again(self, block: int, where: int, error: BaseException | None) -> Any:
        await self.load([block])
        if self._state.blocks.location(block) == where:
            await self._lost(block, error)
        [found] = self._find_stored([block])
        return await as_deferred(found)

    async def _lost(self, block: int, error: BaseException | None) -> NoReturn:
        """Say why a block is not there: another has taken the volume over, and deleted the object; or it is lost."""
        await self._keeper.check()
        raise MediumError(str(error), block * BLOCK) from error


def _whole(_: Any, batch: Batch, block: int) -> bytes:
    data = batch.find(block)
    return bytes(data) if data else _ZEROES
