"""``make bench-s3``; see docs/benchmarks.md.

ROTATIONS, ROW_SECONDS, AREA, ROWS, ENGINES and WHOLE make it shorter or longer; then it is a trial.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.s3.engines import ENGINES
from benchmarks.s3.report import line
from benchmarks.s3.rows import ROWS, Scale
from benchmarks.s3.store import Store, processors
from tools.servers.process import ServerError
from txtcmu.devconfig import parse_size
from txtcmu.errors import ConfigError

_RESULTS: Final = Path(__file__).parents[1] / "results" / "s3.json"


def _chosen(variable: str, names: list[str]) -> list[str]:
    """Return which of ``names`` the environment asks for, all of them by default."""
    asked = os.environ.get(variable, "").split()
    for name in asked:
        if name not in names:
            raise ConfigError(f"{variable}: there is no {name}; there are {', '.join(names)}")
    return [name for name in names if name in asked] or names


def _number(variable: str, default: float) -> float:
    """Return what the environment asks for."""
    text = os.environ.get(variable, str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{variable}={text} is no number above 0")
    return number


def _rows() -> list[str]:
    """Return the rows that are asked for, and those whose data they read."""
    asked = _chosen("ROWS", list(ROWS))
    return [name for name in ROWS if name in asked or any(ROWS[each].reads == name for each in asked)]


def _rotation(number: int, names: list[str], rows: list[str], scale: Scale) -> dict[str, Any]:
    """Measure every engine, on a store of its own."""
    store_processor, processor = processors()
    found: dict[str, Any] = {"rtt": [], "engines": {}}
    first = number % len(names)
    order = names[first:] + names[:first]
    engines = {engine.name: engine for engine in ENGINES}
    for name in order:
        with tempfile.TemporaryDirectory(prefix="bench-s3-") as scratch:
            directory = Path(scratch)
            with Store(directory, store_processor) as store:
                found["rtt"].append(store.round_trip())
                engine = engines[name](store, directory / "engine", processor, scale)
                found["engines"][name] = {}
                for row in rows:
                    if row in engine.rows:
                        figures = engine.measure(ROWS[row])
                        found["engines"][name][row] = figures
                        _tell(number, name, row, figures)
    return {**found, "rtt": statistics.median(found["rtt"])}


def _tell(rotation: int, engine: str, row: str, figures: dict[str, Any]) -> None:
    rate = figures["operations"] / figures["seconds"]
    megabytes = rate * ROWS[row].unit / 1e6
    requests = " ".join(f"{method}={count}" for method, count in sorted(figures["requests"].items()))
    verified = f", {figures['verified']} blocks verified, {figures['lost']} lost" if "lost" in figures else ""
    print(
        f"rotation {rotation + 1}: {engine:8} {row:7} {rate:8.1f}/s {megabytes:7.2f} MB/s"
        f" {figures['latency'] * 1000:7.2f} ms {figures['seconds']:6.1f} s  {requests}{verified}",
        flush=True,
    )


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    environment = os.environ
    try:
        names, rows = _chosen("ENGINES", [engine.name for engine in ENGINES]), _rows()
        scale = Scale(
            seconds=_number("ROW_SECONDS", 20),
            area=parse_size(environment.get("AREA", "512M")),
            whole=environment.get("WHOLE", "no") == "yes",
        )
        count = max(1, int(_number("ROTATIONS", 3)))
        rotations = [_rotation(number, names, rows, scale) for number in range(count)]
    except (ConfigError, ServerError) as error:
        sys.exit(f"bench-s3: {error}")
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps({"rotations": rotations, "python": sys.version}, indent=1) + "\n")
    print(line(rotations))


if __name__ == "__main__":
    main()
