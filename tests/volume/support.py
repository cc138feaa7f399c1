"""A volume on a store in memory, for tests: nothing takes time that a test does not let pass."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.results import as_deferred
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

BLOCK = 4096
SIZE = 1 << 20


class CountingStore(MemoryObjectStore):
    """A store that notes which requests are made of it.

    :ivar requests: name and key of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str]] = []

    def get(self, key: str, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        self.requests.append(("get", key))
        return super().get(key, *args, **options)

    def put(self, key: str, *args: Any, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        self.requests.append(("put", key))
        return super().put(key, *args, **options)

    def delete(self, key: str, **options: Any) -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        self.requests.append(("delete", key))
        return super().delete(key, **options)

    def list(self, prefix: str, after: str = "") -> Any:
        """See :class:`~txtcmu.interfaces.IObjectStore`."""
        self.requests.append(("list", prefix))
        return super().list(prefix, after)


class VolumeCase(SynchronousTestCase):
    tuning = Tuning(cache_blocks=1)

    def setUp(self) -> None:
        """Have an empty volume."""
        self.store = CountingStore()
        self.clock = Clock()
        making = create_volume(self.store, "", SIZE, self.writer("maker"), os.urandom, Geometry(16, 64))
        self.done(making)

    def done(self, coroutine: Any) -> Any:
        """Return a result that is there at once."""
        return self.successResultOf(as_deferred(coroutine))

    def writer(self, host: str) -> Writer:
        """Return a writer."""
        return Writer(os.urandom(16), host, host, 1, "today")

    def open(self, host: str = "here") -> Volume:
        """Take the volume over."""
        taking = take_over(self.store, "", self.writer(host), os.urandom, self.clock, forced=True)
        keeper, replay = self.done(taking)
        return Volume(self.store, keeper, replay, self.clock, self.tuning)

    def write(self, volume: Volume, block: int) -> Deferred[None]:
        """Write a block, and flush."""
        volume.write(block * BLOCK, memoryview(bytes([block]) * BLOCK))
        return volume.flush()

    def read(self, volume: Volume, block: int, count: int = 1) -> Any:
        """Read blocks."""
        return as_deferred(volume.read(block * BLOCK, [memoryview(bytearray(count * BLOCK))]))

    def sleep(self, seconds: float) -> None:
        """Let time pass, in steps too small for a process that was stopped."""
        self.clock.pump([1.0] * round(seconds))
