"""Mutants: the code with one rule left out.  A simulation that does not notice proves nothing about that rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import txtcmu
from tests.simulation.seeds import run

__all__ = ["hunt", "patches"]

_TREE: Final = Path(__file__).parents[2]
_CAUGHT, _MISSED = 0, 3


def patches(directory: str) -> list[Path]:
    """Return the patches of a directory, in order; ``none`` has none."""
    found = sorted(Path(directory).glob("*.patch"))
    if not found and directory != "none":
        sys.exit(f"{directory}: there is no patch in this directory; MUTANTS=none runs seeds alone")
    return found


def hunt(patch: Path, seeds: int) -> str:
    """Apply a patch to a copy of the tree, and simulate with that until something is wrong.

    :param seeds: after so many it has got away.
    :return: what went wrong with the hunt: it was not caught, or could not be tried; ``""`` when it was caught.
    """
    with TemporaryDirectory() as directory:
        for part in ("txtcmu", "tests/simulation"):
            shutil.copytree(_TREE / part, Path(directory) / part, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(directory).parent)}
        applied = subprocess.run(
            ["git", "apply", patch.resolve()], cwd=directory, env=environment, capture_output=True, text=True
        )
        if applied.returncode:
            return f"{patch.name}: does not apply: {applied.stderr.strip()}"
        command = [sys.executable, "-m", "tests.simulation.mutants", str(seeds)]
        hunted = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if hunted.returncode == _CAUGHT:
            print(f"{patch.stem}: {hunted.stdout.strip()}", flush=True)
            return ""
        if hunted.returncode == _MISSED:
            return f"{patch.name}: is not noticed in {seeds} seeds"
        return f"{patch.name}: does not run: {hunted.stderr.strip()[-500:]}"


def _main(seeds: int) -> int:
    assert Path(txtcmu.__file__).is_relative_to(Path.cwd()), "this is not the copy"
    for seed in range(seeds):
        outcome = run(seed)
        if outcome.wrong is not None:
            print(f"seed {seed}: {outcome.wrong}"[:160].replace("\n", " "))
            return _CAUGHT
    return _MISSED


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1])))
