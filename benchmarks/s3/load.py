"""One load on one disk, as a process: the generator beside the engine, on the same processor.

``python -m benchmarks.s3.load JSON`` prints what it measured as one line of JSON.  Then it waits for a line: an engine
that is to be killed is written to again, and killed while it is; ``expected`` is what it has to have then.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.s3.generator import Front, Generator
from benchmarks.s3.sequences import AtRandom, Chosen, InOrder, Sequence
from benchmarks.s3.stamps import Stamps
from benchmarks.s3.verify import verify

_TAIL = 0.5  # seconds of writing before the kill


def _front(options: dict[str, Any], depth: int, unit: int) -> Front:
    kind = options["kind"]
    if kind == "ring":
        from benchmarks.s3.ringfront import RingFront, SharedRing

        return RingFront(SharedRing(**options["ring"]), depth, unit)
    if kind == "nbd":
        from benchmarks.s3.nbdfront import NbdFront  # only Debian's own Python has it

        return NbdFront(options["path"], depth, unit)
    from benchmarks.s3.filefront import FileFront

    return FileFront(options["path"], depth, unit)


def _sequence(options: dict[str, Any]) -> Sequence:
    """Return which units the load is for; ``among``: only what so many operations wrote is read."""
    units, among, seed = options["area"] // options["unit"], options.get("among"), options["seed"]
    if not options["random"]:
        return InOrder(units if among is None else min(units, among))
    written = AtRandom(units, seed, max(1, -(-options["operations"] // units)))
    if among is None:
        return written
    return Chosen(written, AtRandom(min(units, among), seed + 1))


def _enough(seconds: float, operations: int) -> Callable[[int], bool]:
    """Return a function that tells when a load has lasted long enough, and done enough."""
    end = time.monotonic() + seconds

    def enough(begun: int) -> bool:
        return begun >= operations and time.monotonic() >= end

    return enough


def _measure(options: dict[str, Any], front: Front) -> None:
    stamps = Stamps(options["seed"])
    generator = Generator(front, _sequence(options), stamps, options["unit"], options["flushes"])
    kind = generator.write if options["writes"] else generator.read
    began = time.monotonic()
    seconds = kind(_enough(options["seconds"], options["operations"]))
    figures = {
        "began": began,
        "operations": generator.operations,
        "units": len(generator.flushed),
        "seconds": seconds,
        "latency": statistics.median(generator.latencies),
        "wrong": generator.wrong,
    }
    print(json.dumps(figures), flush=True)
    sys.stdin.readline()
    if options.get("kill"):
        generator.write_until_killed(_TAIL, lambda: os.kill(options["kill"], signal.SIGKILL))
        expected = array("Q", (generator.flushed.get(unit, 0) for unit in range(options["area"] // options["unit"])))
        Path(options["expected"]).write_bytes(expected.tobytes())
    front.close()


def main() -> None:
    """Carry out the load that the first argument describes."""
    options = json.loads(sys.argv[1])
    front = _front(options["front"], options["depth"], options["unit"] if "unit" in options else options["window"])
    if "window" in options:
        expected = array("Q", Path(options["expected"]).read_bytes())
        print(json.dumps(verify(front, expected, Stamps(options["seed"]), options["per_unit"], options["window"])))
    else:
        _measure(options, front)


if __name__ == "__main__":
    main()
