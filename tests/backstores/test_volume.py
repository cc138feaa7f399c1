"""A volume as a backstore, on a store in memory."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.interfaces import IDiscard, IResizable, IVectoredBackstore, IWriteZeroes
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.testing.contract import BackstoreContract
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume


class DeadStore:
    """A store as its user saw it until he died: requests that he makes now are never answered."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **options: Deferred() if self.dead else method(*args, **options)


class VolumeContractTests(BackstoreContract, TestCase):
    companions = frozenset({IVectoredBackstore, IDiscard, IWriteZeroes, IResizable})
    geometry = Geometry(batch_blocks=32, leaf_blocks=64)
    tuning = Tuning(checkpoint_objects=7, cache_blocks=100)

    async def make_backstore(self, size: int) -> Any:
        self.objects = MemoryObjectStore()
        await create_volume(self.objects, "disk/", size, self.writer(), os.urandom, self.geometry)
        return await self.open()

    async def open(self) -> VolumeDisk:
        from twisted.internet import reactor

        self.store = DeadStore(self.objects)
        keeper, replay = await take_over(self.store, "disk/", self.writer(), os.urandom, reactor, forced=False)
        return VolumeDisk(Volume(self.store, keeper, replay, reactor, self.tuning), lambda: None)

    def writer(self) -> Writer:
        return Writer(os.urandom(16), "machine", "host", 1, "today")

    async def reopen(self, backstore: VolumeDisk) -> VolumeDisk:
        await backstore.close()
        return await self.open()

    async def crash(self, backstore: VolumeDisk) -> VolumeDisk:
        self.store.dead = True
        backstore.abandon()
        return await self.open()
