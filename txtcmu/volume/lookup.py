"""Finding blocks, wherever they are: in the open batch, in one that is on its way, in memory, or in the store."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import numpy as np
from twisted.internet.defer import Deferred

from txtcmu.errors import MediumError
from txtcmu.results import all_of, as_deferred, gathered
from txtcmu.volume.batch import Batch
from txtcmu.volume.cache import BlockCache
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import Log
from txtcmu.volume.reader import NotThere, Reader
from txtcmu.volume.slots import BLOCK, HOLE, seq_of, seqs_of, slot_of
from txtcmu.volume.state import State

__all__ = ["Lookup"]

_ZEROES: Final = bytes(BLOCK)


class Lookup:
    """Finds the bytes of blocks."""

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

    def find(self, blocks: list[int], batch: Batch | None = None) -> list[Any] | Deferred[list[Any]]:
        """Return the bytes of adjacent blocks, or a Deferred of them.

        What is returned at once may change with the next write.

        :param batch: the open one; ``None``: as they were when it was begun.
        """
        locations = self._state.blocks.locations(blocks[0], len(blocks)).tolist()
        if not batch:
            batch = None  # asked once, not for each block
        found = []
        wanted = []
        for block, where in zip(blocks, locations, strict=True):
            data = None if batch is None else _in_batch(block, batch)
            if data is None:
                data = self._in_memory(block, where)
                if data is None:
                    wanted.append((block, where))
            found.append(data)
        if not wanted and not any(isinstance(each, Deferred) for each in found):
            return found
        return Deferred.fromCoroutine(self._complete(found, wanted))

    async def _complete(self, found: list[Any], wanted: list[tuple[int, int]]) -> list[Any]:
        """Return blocks with those in their places that only the store has, and those that wait for their base."""
        based = [number for number, each in enumerate(found) if isinstance(each, Deferred)]
        # What comes from the open batch is copied now, before it is overwritten.
        found = [bytes(each) if isinstance(each, memoryview) else each for each in found]
        stored, *bases = await gathered([self._stored(wanted), *(found[number] for number in based)])
        for number, data in zip(based, bases, strict=True):
            found[number] = data
        there = iter(stored)
        return [next(there) if each is None else each for each in found]

    async def _stored(self, wanted: list[tuple[int, int]]) -> list[Any]:
        """Return the bytes of blocks that only the store has; what is not there any more is looked up again."""
        found = await self._reader.fetch(wanted)
        gone = [(block, where) for block, where in wanted if isinstance(found[where], NotThere)]
        again = await gathered([self._read_again(block, where, found[where]) for block, where in gone])
        found.update(zip((where for _, where in gone), again, strict=True))
        return [found[where] for _, where in wanted]

    def _in_memory(self, block: int, where: int) -> Any:
        """Return the bytes of a block, or a Deferred of them, or ``None`` when only the store has them."""
        if where == HOLE:
            return _ZEROES
        data = self._cache.get(where)
        if data is not None:
            return data
        seq = seq_of(where)
        if seq <= self._log.durable:
            return None
        batch = self._log[seq]
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
        locations = self._state.blocks.locations(block, count)
        stored = np.flatnonzero((locations != HOLE) & (seqs_of(locations) <= self._log.durable))
        wanted = [
            (number, where)
            for number, where in zip((block + stored).tolist(), locations[stored].tolist(), strict=True)
            if where not in self._cache
        ]
        self._reader.begin(wanted)  # whoever wants the blocks will see for himself what becomes of that

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
            data = (await self._reader.fetch([(block, where)]))[where]
            if isinstance(data, NotThere):  # the block cannot have moved, before this batch is durable
                await self._lost(block, data)
        return await as_deferred(data)

    async def _read_again(self, block: int, where: int, error: NotThere) -> Any:
        """The block is not where it was: look it up again."""
        await self.load([block])
        if self._state.blocks.location(block) == where:
            await self._lost(block, error)
        [found] = await as_deferred(self.find([block]))
        return found

    async def _lost(self, block: int, error: NotThere) -> NoReturn:
        """Say why a block is not there: another has taken the volume over, and deleted the object; or it is lost."""
        await self._keeper.check()
        raise MediumError(str(error), block * BLOCK) from error


def _in_batch(block: int, batch: Batch) -> Any:
    """Return the bytes of a block, or a Deferred of them, or ``None`` when the open batch does not touch it."""
    data = batch.find(block)
    if data is None:
        return None
    if block in batch.partial:
        return batch.bases[block].wait().addCallback(_whole, batch, block)
    if block in batch.spoiled:
        raise MediumError("the block is damaged", block * BLOCK)
    return data or _ZEROES


def _whole(_: Any, batch: Batch, block: int) -> bytes:
    data = batch.find(block)
    return bytes(data) if data else _ZEROES
