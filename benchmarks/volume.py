"""``make bench-volume``: what a volume takes that is not reads and writes, on a real S3 server 20 ms away.

- ``open_s``: to open one after its daemon was killed with 8,192 objects that no checkpoint holds.
- ``unmap_empty_s``, ``unmap_64g_s``: from the first UNMAP of all of a disk of 2 TiB, in commands as large as page B0h
  allows, to the end of a flush behind them; empty, and with 64 GiB of small writes mapped (the larger of two: with the
  map in memory, and with none of it).
- ``idle_requests``: that the store has seen in the seconds after a flush.

The objects of the 64 GiB are not made: only their headers, which are all that an opening reads, and the checkpoint.
Each measurement has a process of its own, through the handler ``s3`` with its defaults.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from benchmarks.s3.store import Store, on_processor, processors
from txtcmu.backstores.s3 import S3Factory
from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.backstores.volumes import new_writer
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.results import as_deferred
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.logobject import ENTRY, Header, Kind
from txtcmu.volume.names import Names
from txtcmu.volume.replay import Replay
from txtcmu.volume.slots import BLOCK
from txtcmu.volume.takeover import replace_head, take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

OBJECTS: Final = 8192
DISK: Final = 2 << 40
MAPPED: Final = 64 << 30
IDLE_SECONDS: Final = 20.0
RESULTS: Final = Path(__file__).parent / "results" / "volume.json"

_NEVER: Final = Tuning(checkpoint_objects=1 << 40, checkpoint_age=1e9, pending=64, flushes=64)
#: Blocks in the objects of the log that is replayed, in turn: mostly what flushes make, and some full ones.
_SIZES: Final = (1, 1, 2, 1, 8, 1, 3, 1)
_LARGE, _LARGE_EVERY = 1024, 256
_DEPTH: Final = 32


class Measurement:
    """One process; :attr:`volume` is the path of the volume that it is about."""

    def __init__(self, reactor: Any, options: dict[str, str], path: str) -> None:
        self.reactor = reactor
        self.factory = S3Factory()
        self.config = DeviceConfig("s3", path).with_defaults(options)

    def rig(self, size: int) -> Rig:
        """Return a device on the volume, not yet open."""
        return Rig(
            None,
            size=size,
            block_size=512,
            reactor=self.reactor,
            start=False,
            factory=self.factory,
            config=self.config,
        )

    async def fill(self) -> None:
        """Write the objects that the opening will replay, and be killed."""
        store, prefix = await as_deferred(self.factory.connect(self.config, self.reactor))
        await create_volume(store, prefix, 64 << 30, new_writer(), os.urandom, Geometry())
        taken = await take_over(store, prefix, new_writer(), os.urandom, self.reactor, forced=False)
        volume = Volume(store, *taken, self.reactor, _NEVER)
        random, flushed = Random(1), []
        for number in range(OBJECTS):
            count = _SIZES[number % len(_SIZES)] if number % _LARGE_EVERY else _LARGE
            for block in random.sample(range(1, volume.size // BLOCK), count):
                volume.write(block * BLOCK, memoryview(number.to_bytes(8, "little") * (BLOCK // 8)))
            volume.write(0, memoryview(number.to_bytes(8, "little") * (BLOCK // 8)))
            flushed.append(volume.flush())
            if len(flushed) >= _NEVER.flushes:
                await flushed.pop(0)
        for each in flushed:
            await each
        assert taken[1].next - 1 + OBJECTS == volume._log.durable, "flushes have shared objects"
        os.kill(os.getpid(), signal.SIGKILL)

    async def open(self) -> dict[str, float]:
        """Open it."""
        began, spent = self.reactor.seconds(), sum(os.times()[:2])
        disk = await as_deferred(
            self.factory.open(DeviceParameters(self.config, 64 << 30, 512, self.reactor, Logger()))
        )
        seconds, spent = self.reactor.seconds() - began, sum(os.times()[:2]) - spent
        assert isinstance(disk, VolumeDisk)
        data = await as_deferred(disk.read(0, 8))
        if int.from_bytes(data, "little") != OBJECTS - 1:
            raise AssertionError("what was flushed last is not there")
        return {"open_s": seconds, "open_cpu_s": spent}

    async def map(self) -> dict[str, float]:
        """Make a volume of which :data:`MAPPED` bytes are mapped, in random order."""
        await self._mapped()
        return {}

    async def unmap_loaded(self) -> dict[str, float]:
        """Make one, and unmap all of it while its map is in memory."""
        volume = await self._mapped()
        rig = Rig(VolumeDisk(volume, lambda: None), size=DISK, reactor=self.reactor, start=False)
        return {"s": await self._unmapped(rig), "mib": _peak()}

    async def _mapped(self) -> Volume:
        store, prefix = await as_deferred(self.factory.connect(self.config, self.reactor))
        await create_volume(store, prefix, DISK, new_writer(), os.urandom, Geometry())
        found = await read_head(store, prefix)
        assert found is not None
        head, etag = found
        replay = Replay(store, Names(prefix, head.uuid), head, self.reactor)
        random = np.random.default_rng(1)
        blocks = random.permutation(MAPPED // BLOCK).astype(np.uint64).reshape(-1, head.geometry.batch_blocks)
        for each in blocks:
            entries = np.zeros(len(each), ENTRY)
            entries["block"], entries["count"] = np.sort(each), 1
            header = Header(head.uuid, 1, replay.next, bytes(16), Kind.DATA, entries, len(entries))
            entries["slot"] = header.slots + np.arange(len(entries))
            replay.apply(header)
        keeper = await replace_head(store, prefix, head, etag, new_writer(), replay.next + 1, os.urandom)
        assert keeper is not None
        replay.state.epochs.append(keeper.head.epoch)
        replay.next += 1
        volume = Volume(store, keeper, replay, self.reactor, _NEVER)
        await volume.checkpoint()
        return volume

    async def unmap(self) -> dict[str, float]:
        """Unmap all of it."""
        return {"s": await self._unmapped(self.rig(DISK)), "mib": _peak()}

    async def _unmapped(self, rig: Rig) -> float:
        await rig.device.open()
        limits = (await _done(rig.initiator.inquiry(0xB0), self.reactor)).data
        blocks, most = DISK // 512, int.from_bytes(limits[20:24], "big")
        extents = [(lba, min(most, blocks - lba)) for lba in range(0, blocks, most)]
        began = self.reactor.seconds()
        under_way: list[FakeCommand] = []
        for extent in extents:
            under_way.append(rig.initiator.unmap(extent))
            if len(under_way) >= _DEPTH:
                await _done(under_way.pop(0), self.reactor)
        for each in under_way:
            await _done(each, self.reactor)
        await _done(rig.initiator.sync(), self.reactor)
        return float(self.reactor.seconds() - began)

    async def idle(self) -> dict[str, float]:
        """Write a little, flush, and do nothing for a while; say when that begins and when it ends."""
        rig = self.rig(1 << 30)
        await rig.device.open()
        await _done(rig.initiator.write(8, bytes(BLOCK)), self.reactor)
        await _done(rig.initiator.sync(), self.reactor)
        for word in ("idle", "over"):
            print(word, flush=True)
            sys.stdin.readline()
            await deferLater(self.reactor, IDLE_SECONDS if word == "idle" else 0)
        return {}


async def _done(command: FakeCommand, reactor: Any) -> FakeCommand:
    await command.when_done()
    await deferLater(reactor, 0)  # out of the kernel's own loop over completions
    if command.status:
        raise AssertionError(f"{command} ended with {command.sense_code}")
    return command


def _peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(role: str, options: dict[str, str], path: str) -> None:
    """Be the process that does one thing, and print its figures."""
    from twisted.internet import reactor

    twisted: Any = reactor
    work: Callable[[], Coroutine[Any, Any, Any]] = getattr(Measurement(twisted, options, path), role)

    def ended(result: Any) -> None:
        if isinstance(result, dict):
            print(json.dumps(result), flush=True)
            os._exit(0)
        result.printTraceback()
        os._exit(1)

    twisted.callWhenRunning(lambda: Deferred.fromCoroutine(work()).addBoth(ended))
    twisted.run()


def _start(role: str, store: Store, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.volume", role, json.dumps(store.options), f"{store.bucket}/{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _run(role: str, store: Store, path: str, status: int = 0) -> dict[str, float]:
    """Have a process do one thing; return its figures."""
    process = _start(role, store, path)
    output, _ = process.communicate()
    if process.returncode != status:
        raise RuntimeError(f"{role}: exit status {process.returncode}")
    figures: dict[str, float] = json.loads(output) if output else {}
    print(f"{role} {path}: {figures}", flush=True)
    return figures


def _idle_requests(store: Store, path: str) -> int:
    process = _start("idle", store, path)
    assert process.stdin is not None
    assert process.stdout is not None
    counts = []
    for _ in ("idle", "over"):
        process.stdout.readline()
        counts.append(store.counts())
        process.stdin.write("\n")
        process.stdin.flush()
    process.communicate()
    return sum(count for kind, count in (counts[1] - counts[0]).items() if kind != "bytes")


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    if sys.argv[1:]:
        role, options, path = sys.argv[1:]
        _measure(role, json.loads(options), path)
        return
    beside, ours = processors()
    with tempfile.TemporaryDirectory(prefix="bench-volume-") as directory, Store(Path(directory), beside) as store:
        with on_processor(ours):
            _run("fill", store, "log", -signal.SIGKILL)
            figures = _run("open", store, "log")
            _run("map", store, "mapped")
            for name, role, path in (
                ("unmap_empty", "unmap", "empty"),
                ("unmap_64g_unloaded", "unmap", "mapped"),
                ("unmap_64g_loaded", "unmap_loaded", "mapped-in-memory"),
            ):
                figures |= {f"{name}_{unit}": value for unit, value in _run(role, store, path).items()}
            requests = _idle_requests(store, "idle")
        figures["round_trip_s"] = store.round_trip()
    figures["idle_requests"] = requests
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    slower = max(figures["unmap_64g_loaded_s"], figures["unmap_64g_unloaded_s"])
    print(
        f"bench-volume: open_s={figures['open_s']:.2f} objects={OBJECTS} unmap_empty_s={figures['unmap_empty_s']:.2f}"
        f" unmap_64g_s={slower:.2f} idle_requests={requests}"
    )


if __name__ == "__main__":
    main()
