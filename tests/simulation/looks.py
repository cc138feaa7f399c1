"""Looking at what the store holds: the volume that somebody would find who opened it now, and nothing arrived any more.

All that is done to the store is done to a copy of it.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

import numpy as np
from attrs import evolve
from twisted.internet import task
from twisted.internet.defer import Deferred

from tests.simulation.history import History
from tests.simulation.network import result_of
from tests.simulation.oracle import Violation
from tests.simulation.reachable import reachable
from tests.simulation.stamps import LOST, SECTOR, Stamps, read_stamps, runs
from tests.simulation.user import PREFIX
from txtcmu.errors import ConfigError, MediumError, TCMUError
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.results import as_deferred
from txtcmu.volume.fsck import check_volume
from txtcmu.volume.head import Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

__all__ = ["Looks"]

_BLOCK: Final = 8  # sectors


class Looks:
    """Looks at one store.

    :param destroyed: some of it may be damaged for good.
    """

    def __init__(self, store: MemoryObjectStore, history: History, random: Random, *, destroyed: bool) -> None:
        self._store = store
        self._history = history
        self._random = random
        self._destroyed = destroyed
        # All there were: none is to be finished off by the garbage collector.
        self._volumes: list[Volume] = []

    def look(self, event: str, **facts: Any) -> None:
        """Record what somebody would find who opened the volume now, and nothing arrived any more."""
        try:
            copy = MemoryObjectStore()
            copy.objects = dict(self._store.objects)
            volume = self._open_copy(copy)
            self._history.record(event, **facts, size=volume.size // SECTOR, image=runs(_read(volume)))
            if self._random.random() < 0.2:
                self._check(copy)
        except TCMUError as error:
            self._history.fail(Violation("1 (prefix)", f"the volume cannot be opened: {error}"))
        except Exception as error:  # it would go to whatever event this is part of
            self._history.fail(error)

    def look_at_damage(self) -> None:
        """Damage the header of an object of the log in a copy: either that is noticed, or it is not needed."""
        keys = [key for key in sorted(self._store.objects) if "/d/" in key]
        if not keys:
            return
        copy = MemoryObjectStore()
        copy.objects = dict(self._store.objects)
        found = copy.objects[self._random.choice(keys)]
        data = bytearray(found.data)
        data[self._random.randrange(100)] ^= 1 << self._random.randrange(8)
        copy.objects[found.key] = evolve(found, data=bytes(data))
        try:
            volume = self._open_copy(copy)
        except ConfigError as error:
            self._history.note("refused", why=str(error))
        else:
            self._history.record("image", size=volume.size // SECTOR, image=runs(_read(volume)))

    def _open_copy(self, copy: MemoryObjectStore) -> Volume:
        """Open the volume in a store that answers at once."""
        random = Random(self._random.random())
        clock = task.Clock()
        writer = Writer(random.randbytes(16), "looker", "looker", 0, "now")
        opening = Deferred.fromCoroutine(take_over(copy, PREFIX, writer, random.randbytes, clock, forced=True))
        keeper, replay = result_of(opening)
        volume = Volume(copy, keeper, replay, clock, Tuning())
        self._volumes.append(volume)
        return volume

    def _check(self, store: Any) -> list[str]:
        """Check the volume; return what cannot be reached."""
        report = result_of(
            Deferred.fromCoroutine(
                check_volume(store, PREFIX, task.Clock(), data=not self._destroyed, progress=_no_progress)
            )
        )
        if report.problems:
            raise Violation("5 (leftovers)", f"a check finds: {report.problems}")
        return list(report.orphans)

    def compare(self) -> None:
        """Compare what is in the store with what can be reached."""
        objects = {key: found.data for key, found in self._store.objects.items()}
        try:
            needed = reachable(objects, f"{PREFIX}head")
        except KeyError as error:
            raise Violation("5 (leftovers)", f"missing: {error}") from None
        if objects.keys() != needed:
            raise Violation(
                "5 (leftovers)",
                f"needless: {sorted(objects.keys() - needed)}; missing: {sorted(needed - objects.keys())}",
            )
        if orphans := self._check(self._store):
            raise Violation("5 (leftovers)", f"a check finds what cannot be reached: {orphans}")


def _read(volume: Volume) -> Stamps:
    """Read a whole disk, at once; LOST where it cannot be read."""
    stamps: Stamps = np.zeros(volume.size // SECTOR, np.int64)
    buffer = bytearray(volume.size)
    try:
        result_of(as_deferred(volume.read(0, [memoryview(buffer)])))
        return read_stamps(buffer, 0)
    except MediumError:
        pass
    for sector in range(0, len(stamps), _BLOCK):
        block = bytearray(_BLOCK * SECTOR)
        try:
            result_of(as_deferred(volume.read(sector * SECTOR, [memoryview(block)])))
            stamps[sector : sector + _BLOCK] = read_stamps(block, sector)
        except MediumError:
            stamps[sector : sector + _BLOCK] = LOST
    return stamps


def _no_progress(*_: Any) -> None:
    return None
