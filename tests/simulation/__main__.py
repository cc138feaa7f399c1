"""``make simulate``: seeds, and mutants; docs/simulation.md says what the variables are."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from tests.simulation.mutants import hunt, patches
from tests.simulation.seeds import Outcome, run

#: What the last line tells.
_COUNTED: Final = ("crashes", "takeovers", "late_puts", "late_deletes", "head_conflicts")
#: Seeds that a process runs before it looks for more.
_BATCH: Final = 10


def _report(outcome: Outcome) -> str:
    """Say what is wrong with a seed, in as few lines as show it; ``""`` for nothing."""
    wrong = outcome.wrong
    if wrong is None:
        return ""
    excerpt = outcome.history.excerpt(getattr(wrong, "operation", None), getattr(wrong, "sector", None))
    what = str(wrong) if getattr(wrong, "rule", None) else f"{type(wrong).__name__}: {wrong}"
    lines = [f"seed {outcome.seed}: {what}", *(f"    {json.dumps(event)}" for event in excerpt)]
    return "\n".join([*lines, f"    all of it: SEED={outcome.seed} HISTORY=history.jsonl make simulate"])


def _run(seeds: list[int]) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    reports = []
    for seed in seeds:
        outcome = run(seed)
        counts += outcome.counts
        if report := _report(outcome):
            reports.append(report)
    return counts, reports


def _one(seed: int, history: str | None) -> tuple[Counter[str], list[str]]:
    outcome = run(seed)
    if history is not None:
        Path(history).write_text(outcome.history.lines())
    print(f"seed {seed}: digest {outcome.history.digest}")
    return outcome.counts, [report for report in [_report(outcome)] if report]


def _batches(first: int, seeds: int) -> Iterator[list[int]]:
    end = first + seeds
    for start in range(first, end, _BATCH):
        yield list(range(start, min(end, start + _BATCH)))


def main() -> int:
    """Run what the environment says.  :return: the exit status."""
    environment = os.environ.get
    one = environment("SEED")
    mutants = patches(environment("MUTANTS") or "tests/mutants") if not one or environment("MUTANTS") else []
    seeds = 1 if one else int(environment("SEEDS") or 500)
    counts: Counter[str] = Counter()
    failed = missed = 0
    with ProcessPoolExecutor(int(environment("JOBS") or os.cpu_count() or 1)) as pool:
        hunts = {pool.submit(hunt, patch, int(environment("HUNT") or 500)) for patch in mutants}
        runs: set[Future[tuple[Counter[str], list[str]]]]
        if one:
            runs = {pool.submit(_one, int(one), environment("HISTORY"))}
        else:
            runs = {pool.submit(_run, batch) for batch in _batches(int(environment("FIRST") or 0), seeds)}
        for done in as_completed(runs):
            counted, reports = done.result()
            counts += counted
            failed += len(reports)
            for report in reports:
                print(report, flush=True)
        for hunted in as_completed(hunts):
            if escaped := hunted.result():
                missed += 1
                print(escaped, flush=True)
    told = " ".join(f"{name}={counts[name]}" for name in _COUNTED)
    print(f"simulate: seeds={seeds} failed={failed} mutants={len(mutants)} missed={missed} {told}")
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
