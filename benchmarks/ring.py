"""``make bench-ring``: what a command costs between ring and backstore, beside a bare loop in the same run.

Each round is the same for all: the producer fills the ring (not timed), the consumer empties it (timed: CPU time of
this thread).  ``sync`` is a backstore that is done when it returns, ``deferred`` one whose Deferreds fire when the
ring has been read.  ``lag`` is the longest that the reactor kept a timer waiting while the ring was never empty.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from benchmarks.bare import BareLoop
from benchmarks.producer import BLOCK, DISK_BLOCKS, Producer
from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.interfaces import IBackstore, IVectoredBackstore
from txtcmu.kernel.uio import UIO
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import Rig

DEPTH = 32
ROUNDS = 1500
REPEATS = 7
LAG_SECONDS = 3.0
SIZE = DISK_BLOCKS * BLOCK
RESULTS = Path(__file__).parent / "results" / "ring.json"


@implementer(IBackstore, IVectoredBackstore)
class Later:
    """A backstore whose results come later, when :meth:`fire` is called."""

    read_only = False
    physical_block_size = 512
    size = SIZE

    def __init__(self) -> None:
        self._inner = MemoryBackstore(SIZE)
        self._waiting: list[tuple[Deferred[Any], Any]] = []

    def _later(self, result: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self._waiting.append((deferred, result))
        return deferred

    def readv(self, offset: int, buffers: list[memoryview]) -> Deferred[Any]:
        """Read now, tell later."""
        return self._later(self._inner.readv(offset, buffers))

    def writev(self, offset: int, buffers: list[memoryview]) -> Deferred[Any]:
        """Write now, tell later."""
        self._inner.writev(offset, buffers)
        return self._later(None)

    def read(self, offset: int, length: int) -> bytes:
        """See IBackstore; the vectored calls are used."""
        raise NotImplementedError

    def write(self, offset: int, data: memoryview) -> None:
        """See IBackstore; the vectored calls are used."""
        raise NotImplementedError

    def flush(self) -> None:
        """See IBackstore."""

    def close(self) -> None:
        """See IBackstore."""

    def fire(self) -> None:
        """Give all results."""
        waiting, self._waiting = self._waiting, []
        for deferred, result in waiting:
            deferred.callback(result)


def _serve(backstore: Any, producer: Producer, reactor: Any) -> Rig:
    rig = Rig(backstore, size=SIZE, reactor=reactor, start=False)

    def open_uio() -> UIO:
        return producer

    rig.target.open_uio = open_uio  # type: ignore[method-assign]  # the producer in the fake kernel's place
    rig.device.open()
    return rig


def _measure(producer: Producer, turn: Callable[[], None]) -> float:
    """Return CPU microseconds per command."""
    before, spent, clock = producer.completed, 0, time.thread_time_ns
    for _ in range(ROUNDS):
        producer.refill()
        start = clock()
        turn()
        spent += clock() - start
        producer.collect()
    done = producer.completed - before
    if done != DEPTH * ROUNDS:
        raise AssertionError(f"{done} of {DEPTH * ROUNDS} commands were completed")
    return spent / done / 1000


def _consumers() -> dict[str, tuple[Producer, Callable[[], None]]]:
    bare = Producer(DEPTH)
    fd = os.memfd_create("bare")
    os.ftruncate(fd, SIZE)
    sync, sync_reactor = Producer(DEPTH), FakeReactor()
    _serve(MemoryBackstore(SIZE), sync, sync_reactor)
    deferred, deferred_reactor, later = Producer(DEPTH), FakeReactor(), Later()
    _serve(later, deferred, deferred_reactor)

    def deferred_turn() -> None:
        deferred_reactor.readers[0].doRead()
        later.fire()
        deferred_reactor.advance(0)

    return {
        "bare": (bare, BareLoop(bare, fd).turn),
        "sync": (sync, sync_reactor.readers[0].doRead),
        "deferred": (deferred, deferred_turn),
    }


def _lag() -> float:
    """Return the longest wait of a timer, in milliseconds, while commands never end."""
    from twisted.internet import reactor
    from twisted.internet.task import LoopingCall

    twisted: Any = reactor
    producer = Producer(DEPTH * 4, eager=True)
    _serve(MemoryBackstore(SIZE), producer, twisted)
    waits: list[float] = []
    last = [0.0]

    def tick() -> None:
        now = time.perf_counter()
        if last[0]:
            waits.append(now - last[0])
        last[0] = now

    twisted.callLater(0, producer.refill)
    twisted.callLater(0.2, LoopingCall(tick).start, 0)
    twisted.callLater(0.2 + LAG_SECONDS, twisted.stop)
    twisted.run()
    return max(waits) * 1000


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    consumers = _consumers()
    figures: dict[str, list[float]] = {name: [] for name in consumers}
    for _ in range(REPEATS):
        # Taken in turns, so that what else the machine does hits all of them.
        for name, (producer, turn) in consumers.items():
            figures[name].append(_measure(producer, turn))
    micros = {name: statistics.median(values) for name, values in figures.items()}
    lag = _lag()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"us": figures, "lag_ms": lag, "python": sys.version}, indent=1) + "\n")
    print(f"bare loop: {micros['bare']:.2f} us per command, queue depth {DEPTH}, medians of {REPEATS} runs")
    print(
        f"bench-ring: sync_us={micros['sync']:.2f} deferred_us={micros['deferred']:.2f}"
        f" sync_ratio={micros['sync'] / micros['bare']:.2f} deferred_ratio={micros['deferred'] / micros['bare']:.2f}"
        f" lag_ms={lag:.1f}"
    )


if __name__ == "__main__":
    main()
