"""Loading leaves of the map from the checkpoint: each once, however many wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import MediumError
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.results import Promise
from txtcmu.volume.errors import Damaged
from txtcmu.volume.leaves import Place, decode_leaf, leaf_bytes
from txtcmu.volume.persistent import PersistentStore, read_again
from txtcmu.volume.slots import BLOCK, Locations
from txtcmu.volume.state import State

__all__ = ["Loader"]


class Loader:
    """Brings leaves into the map.

    :param check: of a writer: fails with FencedError when another has taken the volume over, who may delete leaves.
    """

    def __init__(
        self, store: PersistentStore, state: State, check: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._store = store
        self._state = state
        self._check = check
        self._loading: dict[int, Promise] = {}

    def load(self, leaf: int) -> Deferred[Locations]:
        """Bring a leaf into the map, unless it is there already.

        :return: Deferred of the leaf as it was stored, without what is newer.
        """
        promise = self._loading.get(leaf)
        if promise is None:
            promise = self._loading[leaf] = Promise()
            Deferred.fromCoroutine(self._load(leaf)).addBoth(self._loaded, leaf)
        return promise.wait()

    async def _load(self, leaf: int) -> Locations:
        state = self._state
        while (stored := await self._read(leaf, place := state.directory[leaf])) is None:
            if state.directory[leaf] == place:  # else a checkpoint has put it elsewhere meanwhile
                if self._check is not None:
                    await self._check()
                part = place.part
                key = state.names.part(part.epoch, part.seq, part.part)
                raise MediumError(f"object {key} is missing", leaf * state.blocks.leaf_blocks * BLOCK)
        state.inventory.displaced(state.blocks.load(leaf, stored.copy()))
        return stored

    def _loaded(self, result: Any, leaf: int) -> None:
        self._loading.pop(leaf).resolve(result)

    async def _read(self, leaf: int, place: Place) -> Locations | None:
        """Return a leaf as it is stored, ``None`` when it is not there.  :raise MediumError: it is damaged."""
        part, leaf_blocks = place.part, self._state.blocks.leaf_blocks
        key = self._state.names.part(part.epoch, part.seq, part.part)
        offset = leaf * leaf_blocks * BLOCK

        async def read() -> Locations | None:
            found = await self._store.get(key, place.offset, leaf_bytes(leaf_blocks))
            if found is None:
                return None
            return decode_leaf(self._state.names.uuid, place, leaf, leaf_blocks, found.data)

        try:
            return await read_again(read)
        except ObjectDamaged as damaged:
            raise MediumError(str(damaged), offset) from damaged
        except Damaged as damaged:
            raise MediumError(f"object {key} is damaged: {damaged}", offset) from damaged
