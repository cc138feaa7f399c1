"""Writing checkpoints, and deleting what they make needless.

A checkpoint is the map after one object of the log.  What has changed in the map is frozen when that object is closed,
and stored when it is durable: a leaf that knew of a later object would point at nothing if that one never landed.

Deleted is only what cannot be reached from the head that this writer was the last to replace.  That never becomes
untrue, so a delete may land however late.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from attrs import define, field
from twisted.logger import Logger

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.volume.blockmap import Frozen, merge
from txtcmu.volume.head import Checkpoint, Head
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.inventory import Inventory
from txtcmu.volume.leaves import Directory, Part, Place, encode_leaf, leaf_bytes
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import Log
from txtcmu.volume.root import Root
from txtcmu.volume.slots import HOLE, Locations
from txtcmu.volume.state import State

__all__ = ["Checkpointer"]

#: Bytes of leaves that go into one part.
PART_BYTES: Final = 4 << 20

_logger = Logger()


@define(eq=False)
class _Parts:
    """The parts of one checkpoint as they are written; number 0 is the root's."""

    number: int = 1
    leaves: list[tuple[int, int]] = field(factory=list)  # leaf, offset
    data: bytearray = field(factory=bytearray)


class Checkpointer:
    """Writes checkpoints of one volume, one at a time."""

    def __init__(self, store: Any, state: State, keeper: HeadKeeper, log: Log, loader: Loader) -> None:
        self._store = store
        self._state = state
        self._keeper = keeper
        self._log = log
        self._loader = loader
        self._needless: set[str] = set()

    async def write(self, seq: int) -> None:
        """Make the checkpoint at ``seq``, the newest batch that was closed; called in the turn in which it was.

        :raise txtcmu.errors.FencedError: another has taken the volume over.
        :raise ObjectStoreError: the store fails; nothing is lost, and the next one includes this.
        """
        state = self._state
        size = self._keeper.head.size
        frozen, inventory = state.blocks.freeze(), state.inventory.copy()
        stored = False
        try:
            await self._log.wait(seq)
            directory = await self._store_leaves(frozen, inventory, seq)
            checkpoint = await self._store_root(directory, inventory, seq, size)
            await self._keeper.replace(lambda head: _naming(checkpoint, head))
            stored = True
        finally:
            state.blocks.thaw(frozen, stored=stored)
        before, state.directory = state.directory, directory
        self._needless.update(self._key(part) for part in before.parts().keys() - directory.parts().keys())
        await self._delete(inventory.dead(seq))

    async def _store_leaves(self, frozen: Frozen, inventory: Inventory, seq: int) -> Directory:
        """Store the leaves that have changed, and those of parts that are mostly out of date."""
        state = self._state
        directory = state.directory.copy()
        parts = _Parts()
        for leaf in frozen.leaves:
            if leaf in frozen.unmerged:
                # Into the map as well: what is stored now holds the overlay, and could not be told from it later.
                before = await self._loader.load(leaf)
                where = frozen.leaf(leaf)
                inventory.displaced(merge(where, before))
            else:
                where = frozen.leaf(leaf)
            await self._put(directory, parts, leaf, where, seq)
            frozen.stored(leaf)
        await self._end_part(directory, parts, seq)
        whole = leaf_bytes(state.blocks.leaf_blocks)
        for part, live in directory.parts().items():
            if part.seq != seq and live * whole * 2 < part.size:
                for leaf in directory.in_part(part):
                    await self._put(directory, parts, leaf, await self._loader.load(leaf), seq)
        await self._end_part(directory, parts, seq)
        return directory

    async def _put(self, directory: Directory, parts: _Parts, leaf: int, where: Locations, seq: int) -> None:
        if (where == HOLE).all():
            directory.drop(leaf)
            return
        epoch = self._keeper.head.epoch.number
        parts.leaves.append((leaf, len(parts.data)))
        parts.data += encode_leaf(self._state.names.uuid, epoch, seq, parts.number, leaf, where)
        if len(parts.data) >= PART_BYTES:
            await self._end_part(directory, parts, seq)

    async def _end_part(self, directory: Directory, parts: _Parts, seq: int) -> None:
        if not parts.leaves:
            return
        part = Part(self._keeper.head.epoch.number, seq, parts.number, len(parts.data))
        await self._create(self._key(part), bytes(parts.data))
        for leaf, offset in parts.leaves:
            directory.put(leaf, Place(part, offset))
        parts.number += 1
        parts.leaves.clear()
        parts.data.clear()

    async def _store_root(self, directory: Directory, inventory: Inventory, seq: int, size: int) -> Checkpoint:
        state, epoch = self._state, self._keeper.head.epoch
        leaves, parts = directory.arrays()
        objects = inventory.records(seq)
        needed = {state.epoch_of(int(each)) for each in np.unique(objects["seq"])} | {epoch.number}
        root = Root(
            state.names.uuid,
            epoch.number,
            seq,
            size,
            state.blocks.leaf_blocks,
            leaves,
            parts,
            objects,
            tuple(each for each in state.epochs if each.number in needed),
        )
        size = await self._create(state.names.part(epoch.number, seq, 0), root.encode())
        return Checkpoint(epoch.number, seq, size)

    async def _create(self, key: str, data: bytes) -> int:
        """Create an object of this writer's alone: if it is there already, an earlier attempt has landed.

        :return: how many bytes are there: the root of an earlier attempt may name objects that have been deleted since.
        """
        try:
            await self._store.put(key, data, absent=True, checked=False)
        except PreconditionFailed:
            found = await self._store.head(key)
            if found is None:
                raise ObjectStoreError(f"object {key} was there, and is not any more") from None
            return int(found.size)
        return len(data)

    def _key(self, part: Part) -> str:
        return self._state.names.part(part.epoch, part.seq, part.part)

    async def _delete(self, dead: list[int]) -> None:
        """Delete objects of the log without a live block, and what is left of earlier checkpoints."""
        state = self._state
        for seq in dead:
            if await self._deleted(state.key_of(seq)):
                state.inventory.forget(seq)
        for key in sorted(self._needless):
            if await self._deleted(key):
                self._needless.discard(key)

    async def _deleted(self, key: str) -> bool:
        try:
            await self._store.delete(key)
        except ObjectStoreError as error:
            _logger.warn("{key} is not deleted yet: {error}", key=key, error=error)
            return False
        return True


def _naming(checkpoint: Checkpoint, head: Head) -> dict[str, Any]:
    """Return what changes in the head: nobody needs the epochs before the checkpoint's any more."""
    return {"checkpoint": checkpoint, "epochs": (head.epoch,)}
