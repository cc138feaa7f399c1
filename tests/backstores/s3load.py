"""A long list of operations on a disk in a bucket, and what the disk may hold while anything goes wrong.

The list is made from a seed; it is the same on the fake S3 under a clock and on a real server behind a proxy that
fails.  The model knows for each sector which contents are possible: one after an acknowledged write, several after
one that failed or was cut off by a crash.  A failed operation must be a clear error, and is followed by what the
device does: the disk is closed and opened anew.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.backstores.s3disk import create_disk, open_disk
from txtcmu.errors import BackstoreError, StoreUnavailable
from txtcmu.results import as_deferred

SECTOR = 512
BLOCK = 16 << 10
BLOCKS = 96
PREFIX = "disk/"
_SECTORS = BLOCKS * BLOCK // SECTOR
_IN_BLOCK = BLOCK // SECTOR
KINDS = {"read": 34, "write": 40, "fua": 10, "discard": 9, "flush": 5, "crash": 0.7, "reopen": 0.7, "idle": 0.6}


@frozen
class Operation:
    """One entry of the list.

    :ivar sectors: what it is about.
    :ivar value: which content, 0 for zeroes; for ``idle`` how much of the longest pause, in tenths.
    """

    kind: str
    sectors: range = range(0)
    value: int = 0


def operations(seed: int, count: int) -> list[Operation]:
    """Return the list of a seed."""
    random = Random(seed)
    made = []
    for kind in random.choices(list(KINDS), list(KINDS.values()), k=count):
        first = random.choice([random.randrange(_SECTORS), random.randrange(BLOCKS) * _IN_BLOCK])
        length = random.choice([1, 1, 2, 8, 8, 8, _IN_BLOCK, _IN_BLOCK, 2 * _IN_BLOCK])
        if kind == "discard" and random.random() < 0.03:
            length = 20 * _IN_BLOCK  # so many are sought by lists
        # Few values, so that blocks return to earlier states all the time.
        value = random.randrange(10 if kind == "idle" else 3)
        made.append(Operation(kind, range(first, min(_SECTORS, first + length)), value))
    return made


def content(sector: int, value: int) -> bytes:
    """Return what a sector holds after a write of a value; never the same for two sectors, but for zeroes."""
    return (sector.to_bytes(4, "big") + value.to_bytes(4, "big")) * (SECTOR // 8) if value else bytes(SECTOR)


@define(eq=False)
class Load:
    """A run over a list.

    :ivar connect: returns a new connection to the store, with a patience of a few attempts.
    :ivar clock: the reactor.
    :ivar pause: seconds that pass with nothing to do now and then, at most.
    :ivar at_once: how many operations are under way at the same time, at most; those that overlap are not.
    :ivar counts: what happened, operations and failures.
    :ivar errors: the lines of the failures, and :ivar events: what the disks logged.
    """

    connect: Callable[[], Any]
    clock: Any
    pause: float
    at_once: int
    counts: Counter[str] = field(factory=Counter)
    errors: set[str] = field(factory=set)
    events: list[dict[str, Any]] = field(factory=list)
    stores: list[Any] = field(factory=list)
    _possible: list[set[int]] = field(factory=lambda: [{0} for _ in range(_SECTORS)])
    _disk: Any = None
    _running: dict[Deferred[None], range] = field(factory=dict)
    _failed: bool = False
    _wrong: Failure | None = None

    async def run(self, work: list[Operation]) -> None:
        """Make the disk and do everything."""
        await self._persist(lambda: create_disk(self._connected(), PREFIX, BLOCKS * BLOCK, BLOCK))
        await self._open()
        for operation in work:
            while self._failed or len(self._running) == self.at_once or self._overlaps(operation.sectors):
                if self._failed and not self._running:
                    await self._reopen()
                else:
                    await DeferredList(list(self._running), fireOnOneCallback=True)
                if self._wrong is not None:
                    self._wrong.raiseException()
            await self._begin(operation)
        await self.settle()

    async def settle(self) -> None:
        """Wait for what is under way, and have the disk in working order."""
        await self._drain()
        if self._wrong is not None:
            self._wrong.raiseException()
        if self._failed:
            await self._reopen()

    async def check(self) -> None:
        """Compare all of the disk with the model, now and after it was opened anew."""
        for _ in range(2):
            await self._read(range(_SECTORS))
            await self._reopen()

    async def close(self) -> None:
        """Close the disk and all connections."""
        await self._disk.close()
        for store in self.stores:
            await store.close()

    def _overlaps(self, sectors: range) -> bool:
        return any(sectors.start < other.stop and other.start < sectors.stop for other in self._running.values())

    async def _begin(self, operation: Operation) -> None:
        kind = operation.kind
        self.counts[kind] += 1
        if kind == "crash":
            self._crash()
            await self._open()
        elif kind == "reopen":
            await self._drain()
            await self._reopen()
        elif kind == "idle":
            await deferLater(self.clock, self.pause * operation.value / 10)
        else:
            done = Deferred.fromCoroutine(self._guarded(self._disk, operation))
            if not done.called:
                self._running[done] = operation.sectors
                done.addBoth(self._ended, done)
            else:
                await done

    def _ended(self, result: Any, done: Deferred[None]) -> None:
        self._running.pop(done, None)
        if isinstance(result, Failure):
            self._wrong = result

    async def _guarded(self, disk: S3Blocks, operation: Operation) -> None:
        """Do one thing; whatever comes of it after a crash does not count."""
        try:
            await self._do(disk, operation)
        except (BackstoreError, _Killed) as error:
            if disk is self._disk:
                self.counts[type(error).__name__] += 1
                self.errors.add(str(error))
                self._failed = True

    async def _do(self, disk: S3Blocks, operation: Operation) -> None:
        sectors, value = operation.sectors, operation.value
        offset, length = sectors.start * SECTOR, len(sectors) * SECTOR
        if operation.kind == "flush":
            await as_deferred(disk.flush())
        elif operation.kind == "read":
            await self._read(sectors)
        else:
            value = 0 if operation.kind == "discard" else value
            for sector in sectors:
                self._possible[sector].add(value)
            if operation.kind == "discard":
                await disk.discard(offset, length)
            else:
                data = memoryview(b"".join(content(sector, value) for sector in sectors))
                await (disk.write_fua(offset, [data]) if operation.kind == "fua" else disk.write(offset, data))
            if disk is self._disk:
                for sector in sectors:
                    self._possible[sector] = {value}

    async def _read(self, sectors: range) -> None:
        disk = self._disk
        data = await disk.read(sectors.start * SECTOR, len(sectors) * SECTOR)
        if disk is not self._disk:
            return
        for number, sector in enumerate(sectors):
            found = bytes(data[number * SECTOR : (number + 1) * SECTOR])
            if found not in [content(sector, value) for value in self._possible[sector]]:
                raise AssertionError(f"sector {sector} holds {found[:16]!r}, not one of {self._possible[sector]}")

    def _crash(self) -> None:
        """Lose the daemon; what it sent is still under way, and nothing follows."""

        async def dead(*_: Any) -> Any:
            raise _Killed

        self._disk._store._attempt = dead
        self._disk = None
        self._running.clear()
        self._failed = False

    async def _drain(self) -> None:
        await DeferredList(list(self._running))

    async def _reopen(self) -> None:
        await self._disk.close()
        await self._open()
        self._failed = False

    async def _open(self) -> None:
        self._disk = await self._persist(
            lambda: open_disk(
                self._connected(),
                PREFIX,
                owner=Owner.process("here", os.getpid()),
                takeover=False,
                now=self.clock.seconds,
                log=Logger(observer=cast(ILogObserver, self.events.append)),
                make="txtcmu create",
                honours_delete=_yes,
                closed=lambda: None,
            )
        )

    async def _persist(self, attempt: Callable[[], Any]) -> Any:
        """Try until the store answers, as the device does."""
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                self.counts["open failed"] += 1

    def _connected(self) -> Any:
        store = self.connect()
        self.stores.append(store)
        return store


class _Killed(Exception):  # noqa: N818 - no error, an end
    """The daemon is dead."""


async def _yes() -> bool:
    return True
