"""Reading blocks of the disk that are neither in the open batch nor holes.

From a batch that is on its way, from memory, or from the store: slots that lie close together in one object are read
by one request, and nobody asks for a slot that is being read already.  Every slot is checked by its trailer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.results import Promise
from txtcmu.volume.cache import BlockCache
from txtcmu.volume.persistent import ATTEMPTS, PersistentStore
from txtcmu.volume.slots import BLOCK, SLOT, SlotSeal, seq_of, slot_of
from txtcmu.volume.state import State

__all__ = ["NotThere", "Reader"]

#: Slots in between that are read along rather than made two requests of, and most slots in one request.
_GAP: Final = 15
_LONGEST: Final = 1024

_log = Logger()


class NotThere(Exception):  # noqa: N818
    """What was written is not there any more: the block has been written elsewhere, or is lost.

    So it is with an object that is missing, and with one that is not what it was: where a dead object was deleted there
    may be the seal of somebody who could not know.
    """


class Reader:
    """Reads stored blocks.

    :param cache: of blocks by location.
    """

    def __init__(self, store: PersistentStore, state: State, cache: BlockCache) -> None:
        self._store = store
        self._state = state
        self._cache = cache
        # The run that each slot is in, of those that are being read: what it will be is what :meth:`_read` returns.
        self._reading: dict[int, Promise] = {}

    def begin(self, wanted: list[tuple[int, int]]) -> list[Promise]:
        """Begin to read blocks that are not in the cache, and see to it that they come there.

        :param wanted: block and location of each.
        :return: what they come in, each once.
        """
        reading = self._reading
        fresh = sorted((where, block) for block, where in wanted if where not in reading)
        begun = [(run, Promise()) for run in _runs(fresh)]
        for run, promise in begun:
            for where, _ in run:
                reading[where] = promise
        promises = list(dict.fromkeys(reading[where] for _, where in wanted))
        for run, promise in begun:
            Deferred.fromCoroutine(self._read(run)).addBoth(self._ended, run, promise)
        return promises

    async def fetch(self, wanted: list[tuple[int, int]]) -> dict[int, Any]:
        """Read blocks that are not in the cache.

        Cancelling it does not stop the requests, which others may wait for.

        :param wanted: block and location of each.
        :return: the bytes of each by location, or the :class:`NotThere` in their place; and others.
        """
        found: dict[int, Any] = {}
        for promise in self.begin(wanted):
            found |= await promise.wait()
        return found

    def _ended(self, result: Any, run: list[tuple[int, int]], promise: Promise) -> None:
        for where, _ in run:
            del self._reading[where]
        promise.resolve(result)

    async def _read(self, run: list[tuple[int, int]]) -> dict[int, Any]:
        """Return the blocks of a run of slots by location; instead of what is not there, the error."""
        first, last = slot_of(run[0][0]), slot_of(run[-1][0])
        seq = seq_of(run[0][0])
        key = self._state.key_of(seq)
        seal = SlotSeal(self._state.names.uuid, self._state.epoch_of(seq), seq)
        found: dict[int, Any] = {}
        missing = run
        for attempt in range(ATTEMPTS):
            try:
                stored = await self._store.get(key, first * SLOT, (last + 1 - first) * SLOT)
            except ObjectDamaged as damaged:
                _log.error("{error}", error=damaged)
                if len(run) > 1:  # the others may be whole
                    return {where: data for each in run for where, data in (await self._read([each])).items()}
                break
            if stored is None:
                return dict.fromkeys((where for where, _ in run), NotThere(f"object {key} is missing"))
            view = memoryview(stored.data)
            for where, block in missing:
                slot = slot_of(where)
                at = (slot - first) * SLOT
                if seal.intact(slot, block, view[at : at + SLOT]):
                    found[where] = data = bytes(view[at : at + BLOCK])
                    self._cache.put(where, data)
            missing = [each for each in missing if each[0] not in found]
            if not missing:
                return found
            _log.error(
                "{key}: {count} slots have wrong checksums (attempt {attempt})",
                key=key,
                count=len(missing),
                attempt=attempt + 1,
            )
        return found | dict.fromkeys((where for where, _ in missing), NotThere(f"object {key} is damaged"))


def _runs(fresh: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Return what is read by one request each."""
    run: list[tuple[int, int]] = []
    for each in fresh:
        if run and (seq_of(each[0]) != seq_of(run[-1][0]) or slot_of(each[0]) - slot_of(run[-1][0]) > _GAP + 1):
            yield run
            run = []
        run.append(each)
        if len(run) >= _LONGEST:
            yield run
            run = []
    if run:
        yield run
