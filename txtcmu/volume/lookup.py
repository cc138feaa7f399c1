"""Finding blocks, wherever they are: in the open batch, in one that is on its way, in memory, or in the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np
from twisted.internet.defer import Deferred

from txtcmu.errors import MediumError
from txtcmu.results import Promise, all_of, as_deferred, gathered
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
        if not wanted and not any(map(callable, found)):
            return found
        return Deferred.fromCoroutine(self._complete(found, wanted))

    async def _complete(self, found: list[Any], wanted: list[tuple[int, int]]) -> list[Any]:
        """Return blocks with those in their places that only the store has, and those that wait for their base."""
        # What comes from the open batch is copied now, before it is overwritten.
        found = [bytes(each) if isinstance(each, memoryview) else each for each in found]
        stored = iter(await self._stored(wanted))
        return [next(stored) if each is None else await each() if callable(each) else each for each in found]

    async def _stored(self, wanted: list[tuple[int, int]]) -> list[Any]:
        """Return the bytes of blocks that only the store has; what is not there any more is looked up again."""
        found = await self._reader.fetch(wanted)
        gone = [(block, where) for block, where in wanted if isinstance(found[where], NotThere)]
        if gone:
            again = await gathered([self._read_again(block, where, found[where]) for block, where in gone])
            found.update(zip((where for _, where in gone), again, strict=True))
        return [found[where] for _, where in wanted]

    def _in_memory(self, block: int, where: int) -> Any:
        """Return the bytes of a block, ``None`` when only the store has them, or what waits for them when called."""
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
            return partial(_based, batch.bases[block], batch.block, slot_of(where))
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
        return await data() if callable(data) else data

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
    """Return the bytes of a block, ``None`` when the batch does not touch it, or what waits for them when called."""
    data = batch.find(block)
    if data is None:
        return None
    if block in batch.partial:
        return partial(_based, batch.bases[block], batch.find, block)
    if block in batch.spoiled:
        raise MediumError("the block is damaged", block * BLOCK)
    return data or _ZEROES


async def _based(base: Promise, find: Callable[[int], Any], place: int) -> bytes:
    """Return the bytes of a block that waits for its base; of one that was discarded meanwhile, zeroes."""
    await base.wait()
    return bytes(find(place)) or _ZEROES
