"""``ROUNDS=200 JOBS=2 python -m tests.races``: daemons race for volumes on SeaweedFS; ``SEED=n``: one round."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.races.daemon import Orders, probe
from tests.races.processes import Daemons, Stuck
from tests.races.rounds import Round
from tests.simulation.oracle import Violation
from tools.servers.seaweedfs import SeaweedFS

#: What the last line tells.
_COUNTED: Final = (
    *("commands", "flushes", "takeovers", "takeovers_alive", "takeovers_asleep", "fenced"),
    *("kills", "kills_opening", "kills_sealed", "stops", "continued", "closes"),
)


@contextmanager
def _bucket() -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Give a bucket, the options to reach it, and what a daemon knows of it that has opened a disk there."""
    with TemporaryDirectory() as directory, SeaweedFS(Path(directory) / "seaweedfs") as server:
        daemons = Daemons(lambda *_: None)
        first = daemons.start(Orders(0, 0, "one", f"{server.bucket}/probe", server.options, {}), probe)
        daemons.wait("the first daemon", lambda: first.ended)
        [learnt] = [event for event in first.events if event["event"] == "probed"]
        _import(learnt["modules"])
        yield server.bucket, server.options, learnt["probed"]


def _import(names: list[str]) -> None:
    """Import what a daemon has imported, so that none has to any more; but not the reactor, which cannot be forked."""
    for name in names:
        if name not in sys.modules and name != "twisted.internet.reactor":
            import_module(name)
    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("something imports the reactor when it is imported")
    gc.freeze()  # a child that collects its own garbage must not have to copy ours


def _race(seed: int, bucket: str, options: dict[str, str], probed: dict[str, Any]) -> tuple[Counter[str], str]:
    """Run one round; return what happened how often, and what is wrong."""
    race = Round(seed, f"{bucket}/{seed}", options, probed)
    try:
        race.run()
    except (Violation, Stuck) as wrong:
        again = f"again: SEED={seed} {Path(sys.executable).name} -m tests.races"
        return race.counts, f"seed {seed}: {wrong}\n{race.story()}\n    {again}"
    return race.counts, ""


def main() -> int:
    """Run what the environment says.  :return: the exit status."""
    environment = os.environ.get
    one = environment("SEED")
    seeds = [int(one)] if one else list(range(int(environment("ROUNDS") or 200)))
    counts: Counter[str] = Counter()
    failed = 0
    jobs = int(environment("JOBS") or os.cpu_count() or 1)
    with _bucket() as where, ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        for done in [pool.submit(_race, seed, *where) for seed in seeds]:
            counted, wrong = done.result()
            counts += counted
            if wrong:
                failed += 1
                print(wrong, flush=True)
    print(f"races: rounds={len(seeds)} failed={failed}", *(f"{name}={counts[name]}" for name in _COUNTED))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
