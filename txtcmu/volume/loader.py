"""Loading leaves of the map from the checkpoint: each once, however many wait for it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import MediumError
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.results import Promise
from txtcmu.volume.errors import Damaged
from txtcmu.volume.leaves import Place, decode_leaf, leaf_bytes
from txtcmu.volume.persistent import PersistentStore
from txtcmu.volume.slots import BLOCK, Locations
from txtcmu.volume.state import State

__all__ = ["Loader"]


class Loader:
    """Brings leaves into the map."""

    def __init__(self, store: PersistentStore, state: State) -> None:
        self._store = store
        self._state = state
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
        stored = await self._read(leaf, state.directory[leaf])
        state.inventory.displaced(state.blocks.load(leaf, stored.copy()))
        return stored

    def _loaded(self, result: Any, leaf: int) -> None:
        self._loading.pop(leaf).resolve(result)

    async def _read(self, leaf: int, place: Place) -> Locations:
        """Return a leaf as it is stored.  :raise txtcmu.errors.MediumError: it is lost, or damaged."""
        part, leaf_blocks = place.part, self._state.blocks.leaf_blocks
        key = self._state.names.part(part.epoch, part.seq, part.part)
        offset = leaf * leaf_blocks * BLOCK
        try:
            found = await self._store.get(key, place.offset, leaf_bytes(leaf_blocks))
        except ObjectDamaged as damaged:
            raise MediumError(str(damaged), offset) from damaged
        if found is None:
            raise MediumError(f"object {key} is missing", offset)
        try:
            return decode_leaf(self._state.names.uuid, place, leaf, leaf_blocks, found.data)
        except Damaged as damaged:
            raise MediumError(f"object {key} is damaged: {damaged}", offset) from damaged
