"""From the store to the state of a disk: the checkpoint, and then the headers of every object since, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
from twisted.internet.defer import Deferred

from txtcmu.errors import ConfigError
from txtcmu.objectstore.objects import ObjectDamaged, StoredObject
from txtcmu.volume.blockmap import BlockMap
from txtcmu.volume.errors import Damaged
from txtcmu.volume.head import Head
from txtcmu.volume.inventory import Inventory
from txtcmu.volume.leaves import Directory
from txtcmu.volume.listing import Listing
from txtcmu.volume.logobject import Header, Kind, decode_header, header_bytes_needed, header_slots
from txtcmu.volume.names import Names
from txtcmu.volume.persistent import PersistentStore, read_again
from txtcmu.volume.root import Root
from txtcmu.volume.slots import BLOCK, SLOT, location
from txtcmu.volume.state import State

__all__ = ["Gone", "Outgrown", "Replay", "read_header"]

#: Headers that are read at a time, and how much of an object of unknown size is read at first: enough for most.
_AT_A_TIME: Final = 64
_FIRST_READ: Final = 5 * SLOT


class Gone(Exception):  # noqa: N818 - it says what happened
    """An object that had to be there is not: the head has changed meanwhile, or the volume is damaged."""


class Outgrown(ConfigError):  # noqa: N818
    """An object of the log goes beyond the end of the disk, of which the head says how large it is."""


class Replay:
    """The state of a volume, built up from its store.

    :param clock: the reactor.
    :ivar state: what was replayed.
    :ivar next: the sequence number that was not, and :ivar replayed: how many objects were since
        the checkpoint.
    """

    def __init__(self, store: Any, names: Names, head: Head, clock: Any) -> None:
        self._store = store
        # One of thousands of requests that fails must not be the end of all.
        self._persistent = PersistentStore(store, clock)
        self._names = names
        self._head = head
        self.state = State(
            names,
            BlockMap(head.size // BLOCK, head.geometry.leaf_blocks),
            Inventory(),
            Directory(),
            list(head.epochs),
        )
        self.next = head.epochs[0].first
        self.replayed = 0

    async def load_checkpoint(self) -> None:
        """Begin with the checkpoint that the head names, if there is one.

        :raise Gone: it is not there.  :raise txtcmu.errors.ConfigError: it is damaged.
        """
        checkpoint = self._head.checkpoint
        if checkpoint is None:
            return
        key = self._names.part(checkpoint.epoch, checkpoint.seq, 0)

        async def read() -> Root:
            found = await self._persistent.get(key, 0, checkpoint.size)
            if found is None:
                raise Gone(key)
            return Root.decode(found.data, self._names.uuid, checkpoint.epoch, checkpoint.seq)

        try:
            root = await read_again(read)
        except (Damaged, ObjectDamaged) as damaged:
            raise ConfigError(f"object {key} is damaged: {damaged}; run `txtcmu volume fsck`") from damaged
        state = self.state
        state.directory = Directory.of(root)
        state.blocks.in_checkpoint(list(state.directory))
        state.inventory.restore(root.objects)
        known = {epoch.number for epoch in state.epochs}
        state.epochs[:0] = [epoch for epoch in root.epochs if epoch.number not in known]
        self.next = checkpoint.seq + 1

    async def replay_sealed(self) -> None:
        """Replay the epochs that are over: each up to its seal, without a gap."""
        for epoch, successor in zip(self._head.epochs, self._head.epochs[1:], strict=False):
            await self.replay(epoch.number, successor.first - 1)
            if self.next < successor.first - 1:
                raise Gone(self._names.log(epoch.number, self.next))
            self.next = successor.first

    async def replay(self, epoch: int, end: int, *, full: int = 1) -> bool:
        """Replay the objects of an epoch from :attr:`next` up to ``end``, without it, or to the first that is missing.

        :param full: a page of the store's list with fewer objects is taken for the last, whatever a writer adds.
        :return: whether that was a seal.
        :raise Gone: an object that was listed is not there.  :raise txtcmu.errors.ConfigError: one is damaged.
        """
        listing = Listing(self._store, self._names, epoch, self.next, full)
        reading: deque[Deferred[Header]] = deque()
        seq = self.next
        try:
            while True:
                while len(reading) < _AT_A_TIME and seq < end and (size := await listing.size(seq)) is not None:
                    reading.append(Deferred.fromCoroutine(self.header(epoch, seq, size)))
                    seq += 1
                if not reading:
                    return False
                header = await reading.popleft()
                if header.kind is Kind.SEAL:
                    return True
                self.apply(header)
        finally:
            listing.close()
            for rest in reading:
                rest.addErrback(lambda _: None)
                rest.cancel()

    async def header(self, epoch: int, seq: int, size: int | None = None) -> Header:
        """Read the header of an object.

        :param size: of the object, as the store has listed it.
        :raise Gone: it is not there.  :raise txtcmu.errors.ConfigError: it is damaged.
        """
        try:
            return await read_again(lambda: read_header(self._persistent.get, self._names, epoch, seq, size))
        except (Damaged, ObjectDamaged) as damaged:
            raise ConfigError(
                f"object {self._names.log(epoch, seq)} is damaged: {damaged}; `txtcmu volume fsck --drop-from {seq}`"
                " gives up what was written since"
            ) from damaged

    def apply(self, header: Header) -> None:
        """Take the next object into the map.  :raise Outgrown: it is of a larger disk."""
        assert header.seq == self.next
        entries, blocks_map, inventory = header.entries, self.state.blocks, self.state.inventory
        if len(entries) and int(entries["block"][-1]) + int(entries["count"][-1]) > blocks_map.blocks:
            raise Outgrown(f"object {header.seq} of the log goes beyond the end of the disk")
        inventory.add(header.seq, header.size, header.data_slots)
        stored = entries[entries["slot"] > 0]
        for run in entries[entries["slot"] == 0]:
            inventory.displaced(blocks_map.discard(int(run["block"]), int(run["count"])))
        if len(stored):
            # The slots of an object's runs follow one another.
            counts = stored["count"]
            slots = np.arange(header.data_slots, dtype=np.uint64)
            blocks = np.repeat(stored["block"] + counts - counts.cumsum(dtype=np.uint64), counts) + slots
            inventory.displaced(blocks_map.commit(blocks, np.uint64(location(header.seq, header.slots)) + slots))
        self.next += 1
        self.replayed += 1


async def read_header(
    get: Callable[[str, int, int], Awaitable[StoredObject | None]],
    names: Names,
    epoch: int,
    seq: int,
    size: int | None = None,
) -> Header:
    """Read the header of an object of the log.

    :param get: reads so many bytes of an object from a place on.
    :param size: of the object, as the store has listed it: how long its header can be.
    :raise Gone: it is not there.  :raise Damaged: it is not what was written, and :raise ObjectDamaged: the store says
        so.
    """
    key = names.log(epoch, seq)
    try:
        found = await get(key, 0, _FIRST_READ if size is None else header_slots(size // SLOT) * SLOT)
    except ObjectDamaged:
        found = await get(key, 0, BLOCK)  # it may be the blocks behind the header that are damaged
    if found is None:
        raise Gone(key)
    needed = header_bytes_needed(found.data)
    if needed > len(found.data):
        found = await get(key, 0, needed)
        if found is None:
            raise Gone(key)
    if size is not None and found.size != size:
        raise Damaged(f"it has {found.size} bytes, and was listed with {size}")
    return decode_header(found.data, names.uuid, epoch, seq, found.size)
