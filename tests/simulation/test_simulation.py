"""The simulation, as ``make simulate`` runs it; that a seed is always the same; and what its oracle may know."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.oracle import Oracle
from tests.simulation.plan import GEOMETRY, LARGEST

ROOT = Path(__file__).parents[2]
#: How often what has to happen in 500 seeds.
LEAST = {"crashes": 700, "takeovers": 300, "late_puts": 500, "late_deletes": 100, "head_conflicts": 200}


def simulate(**variables: str) -> tuple[int, list[str]]:
    """Run the simulation in a process of its own; return its exit status and lines."""
    environment = {**os.environ, "PYTHONHASHSEED": "random", "MUTANTS": "", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    return done.returncode, done.stdout.splitlines()


class SimulationTests(SynchronousTestCase):
    def test_all(self) -> None:
        """500 seeds pass, every mutant is caught, and enough has happened for that to mean something."""
        status, lines = simulate(SEEDS="500")
        said = dict(re.findall(r"(\w+)=(\d+)", lines[-1]))
        print("\n".join(lines))
        self.assertEqual((status, said["seeds"], said["failed"], said["missed"]), (0, "500", "0", "0"), lines)
        self.assertGreaterEqual(int(said["mutants"]), 14)
        for name, least in LEAST.items():
            self.assertGreaterEqual(int(said[name]), least, lines[-1])

    def test_same(self) -> None:
        """A seed that is run twice, in processes that hash differently, gives one history; and the same verdict."""
        with TemporaryDirectory() as directory:
            paths = [Path(directory) / name for name in ("first", "second")]
            said = [simulate(SEED="3", HISTORY=str(path)) for path in paths]
            self.assertEqual(said[0], said[1])
            self.assertRegex(said[0][1][0], "seed 3: digest [0-9a-f]{64}")
            first, second = (path.read_text() for path in paths)
        self.assertEqual(first, second)
        oracle = Oracle(LARGEST, GEOMETRY.batch_blocks)
        events = [json.loads(line) for line in first.splitlines()]
        for event in events:
            oracle.see(event)
        self.assertGreaterEqual(sum(event["event"] == "submit" for event in events), 300)
        self.assertTrue(any("/c/" in event.get("key", "") for event in events), "no checkpoint")

    def test_mutants(self) -> None:
        """A mutant that is not noticed, and a patch that no longer applies, fail the run and are named."""
        harmless = (
            "A comment more.\n--- a/txtcmu/volume/errors.py\n+++ b/txtcmu/volume/errors.py\n@@ -1,3 +1,4 @@\n"
            ' """What can be wrong with a volume."""\n+# It does no harm.\n \n from __future__ import annotations\n'
        )
        with TemporaryDirectory() as directory:
            (Path(directory) / "harmless.patch").write_text(harmless)
            (Path(directory) / "stale.patch").write_text(harmless.replace("What can", "Whatever can"))
            status, lines = simulate(SEED="0", MUTANTS=directory, HUNT="2")
        self.assertEqual(status, 1, lines)
        self.assertIn("mutants=2 missed=2", lines[-1])
        self.assertIn("harmless.patch: is not noticed in 2 seeds", lines)
        self.assertTrue(any(line.startswith("stale.patch: does not apply") for line in lines), lines)

    def test_oracle_is_independent(self) -> None:
        """The oracle, and what it is made of, imports nothing of txtcmu; nor does the second reader of the format."""
        for name in ("oracle", "history", "stamps", "reachable"):
            tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
            imported = {
                name
                for node in ast.walk(tree)
                for name in (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
            }
            self.assertFalse([each for each in imported if each.partition(".")[0] == "txtcmu"], name)
            self.assertFalse(
                imported & {"tests.simulation.user", "tests.simulation.scenario", "tests.simulation.network"}, name
            )
