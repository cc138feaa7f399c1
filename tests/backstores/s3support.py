"""A disk on the fake S3, under a clock, for the tests of handler ``s3``."""

from __future__ import annotations

import os
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.backstores.s3disk import create_disk, open_disk
from txtcmu.results import as_deferred
from txtcmu.testing.fakes3 import FakeS3

BLOCK = 4096
PREFIX = "disk/"


class Bench:
    """A fake store and the disks on it.

    :ivar events: what the disks logged.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.fake = FakeS3(self.clock)
        self.events: list[dict[str, Any]] = []

    def run(self, result: object, limit: float = 300.0) -> Any:
        """Let time pass until a result is there; return it, or raise its failure."""
        results: list[Any] = []
        as_deferred(result).addBoth(results.append)
        step = 0.01
        while not results and limit > 0:
            self.clock.advance(step)
            limit -= step
            step = min(1.0, step * 1.5)
        if not results:
            raise AssertionError("no end")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def create(self, blocks: int = 8, block_size: int = BLOCK) -> None:
        """Make the disk."""
        self.run(create_disk(self.fake.connect(), PREFIX, blocks * block_size, block_size))

    def open(self, host: str = "here", **arguments: Any) -> S3Blocks:
        """Open the disk."""
        disk: S3Blocks = self.run(self.opening(host, **arguments))
        return disk

    def opening(
        self, host: str = "here", takeover: bool = False, owner: Owner | None = None, read_only: bool = False
    ) -> Any:
        """Return the coroutine that opens the disk."""
        return open_disk(
            self.fake.connect(),
            PREFIX,
            owner=owner or Owner.process(host, os.getpid()),
            takeover=takeover,
            now=self.clock.seconds,
            log=Logger(observer=cast(ILogObserver, self.events.append)),
            make="txtcmu create",
            honours_delete=self._honours_delete,
            closed=lambda: None,
            read_only=read_only,
        )

    async def _honours_delete(self) -> bool:
        return self.fake.delete_conditions

    def kill(self, disk: S3Blocks) -> None:
        """Let a disk's daemon die: what it sent is under way, but nothing follows."""

        async def dead(*_: Any) -> Any:
            raise SystemError("killed")

        disk._store._attempt = dead

    def write(self, disk: S3Blocks, offset: int, data: bytes) -> None:
        """Write, and wait for it."""
        self.run(disk.write(offset, memoryview(data)))

    def read(self, disk: S3Blocks, offset: int, length: int) -> bytes:
        """Read, and wait for it."""
        return bytes(self.run(disk.read(offset, length)))

    def stored(self, block: int) -> Any:
        """Return a block's object as it is in the store, or ``None``."""
        return self.fake.objects.objects.get(f"{PREFIX}{block:08x}")

    def requests(self, action: Any) -> list[tuple[str, str, int]]:
        """Return the requests that calling ``action`` causes."""
        before = len(self.fake.requests)
        action()
        return [(method, key.removeprefix(PREFIX), status) for method, key, status in self.fake.requests[before:]]


def start(result: object) -> tuple[Deferred[Any], list[Any]]:
    """Begin an operation; return its Deferred and the list that will hold its outcome."""
    outcome: list[Any] = []
    deferred = as_deferred(result)
    deferred.addBoth(outcome.append)
    return deferred, outcome
