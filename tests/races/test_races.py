"""Daemons that race for a volume on a real store: many rounds, and the judge of them on rounds made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.races.daemon import SECTORS, Orders
from tests.races.judge import judge
from tests.races.processes import Daemon
from tests.simulation.oracle import Violation

ROOT = Path(__file__).parents[2]
#: For each so many rounds at least this often: far less than happens, far more than chance would leave out.
LEAST = {
    "flushes": 1000,
    "takeovers_alive": 50,
    "takeovers_asleep": 10,
    "fenced": 100,
    "kills_opening": 50,
    "kills_sealed": 5,
    "stops": 50,
    "continued": 50,
    "closes": 50,
}
EACH = 200


class RaceTests(SynchronousTestCase):
    def test_races(self) -> None:
        """Two daemons, killed and stopped at random: no acknowledged flush is lost, and the loser names the winner."""
        result = subprocess.run([sys.executable, "-m", "tests.races"], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        line = result.stdout.splitlines()[-1]
        print(line)
        counts = {name: int(count) for name, count in (pair.split("=") for pair in line.split()[1:])}
        self.assertEqual(counts["rounds"], int(os.environ.get("ROUNDS") or EACH))
        for name, least in LEAST.items():
            self.assertGreaterEqual(counts[name] / counts["rounds"], least / EACH, line)


class JudgeTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a writer that was deposed, and one that took over and looked."""
        self.first = self.daemon(1, 100, status=0)
        self.last = self.daemon(2, 200, status=0)
        self.become(self.first, 1, [[0, SECTORS]])
        self.do(self.first, 5, "write", sector=0, count=8)
        self.do(self.first, 6, "flush")
        self.become(self.last, 2, [[5, 8], [0, SECTORS - 8]])
        self.log(self.first, "process 200 on one, since then has taken the volume over")
        self.first.hear({"event": "fenced", "life": 1, "sense": [2, 4, 3]})
        self.last.asked = True
        self.last.hear({"event": "checked", "problems": []})
        for daemon in (self.first, self.last):
            daemon.hear({"event": "end"})

    def daemon(self, life: int, pid: int, **facts: Any) -> Daemon:
        """Return a process that there is not."""
        return Daemon(Orders(life, 0, "one", "", {}, {}), pid, **facts)

    def become(self, daemon: Daemon, epoch: int, image: list[list[int]]) -> None:
        """Have a daemon become the writer."""
        daemon.hear({"event": "sealed"})
        daemon.hear({"event": "replaced", "epoch": epoch})
        daemon.hear({"event": "takeover", "life": daemon.life, "size": SECTORS, "image": image})

    def do(self, daemon: Daemon, op: int, kind: str, **where: int) -> None:
        """Have a command begin and end."""
        daemon.hear({"event": "submit", "op": op, "life": daemon.life, "kind": kind, **where})
        daemon.hear({"event": "complete", "op": op})

    def log(self, daemon: Daemon, text: str, level: str = "error") -> None:
        """Have a daemon log."""
        daemon.hear({"event": "log", "level": level, "text": text})

    def refuses(self, rule: str) -> None:
        """Check that a rule is broken."""
        violation = self.assertRaises(Violation, judge, [self.first, self.last])
        self.assertEqual(violation.rule, rule, violation)

    def change(self, daemon: Daemon, event: str, **facts: Any) -> None:
        """Have it told something else."""
        for each in daemon.events:
            if each["event"] == event:
                each.update(facts)

    def test_good(self) -> None:
        """What was flushed is there, and the loser says who has it."""
        judge([self.first, self.last])

    def test_flush_lost(self) -> None:
        """A flush that is not there is noticed, also one that was acknowledged when another had the volume."""
        self.change(self.last, "takeover", image=[[0, SECTORS]])
        self.refuses("2 (flush)")
        self.setUp()
        self.do(self.first, 7, "write", sector=8, count=8)
        self.do(self.first, 8, "flush")
        self.refuses("2 (flush)")

    def test_mixture(self) -> None:
        """An image that never was is noticed."""
        self.change(self.last, "takeover", image=[[5, 4], [0, SECTORS - 4]])
        self.refuses("1 (prefix)")

    def test_names_nobody(self) -> None:
        """A loser that names nobody, himself, or somebody else, is noticed."""
        for words in ("it is gone", "process 100 on one, since then", "process 200 on other, since then"):
            self.change(self.first, "log", text=words)
            self.refuses("(the loser)")

    def test_nameless(self) -> None:
        """Who died before he could leave a name cannot be named; else that is no excuse."""
        self.change(self.first, "log", text="d/1/2: another is taking the volume over")
        self.refuses("(the loser)")
        died = self.daemon(3, 300, killed=True, status=9)
        died.hear({"event": "sealed"})
        judge([self.first, died, self.last])

    def test_killed_loser(self) -> None:
        """A loser that was killed before it had time to answer a READ has named the winner all the same."""
        self.first.killed = True
        self.first.reached.discard("fenced")
        self.first.events = [each for each in self.first.events if each["event"] != "fenced"]
        judge([self.first, self.last])
        self.change(self.first, "log", text="it is gone")
        self.refuses("(the loser)")

    def test_answers(self) -> None:
        """A loser that goes on to answer reads, or with other sense data, is noticed."""
        for sense in (None, [2, 4, 1]):
            self.change(self.first, "fenced", sense=sense)
            self.refuses("(the loser)")

    def test_one_writer(self) -> None:
        """Two writers of one epoch are noticed."""
        self.last.epoch = 1
        self.log(self.first, "process 200 on one, since then")
        self.first.reached.discard("fenced")
        self.first.events = [each for each in self.first.events if each["event"] not in ("fenced", "log")]
        self.first.asked = True
        self.refuses("(one writer)")

    def test_end(self) -> None:
        """A daemon that fails, that ends for no reason, or that complains, is noticed."""
        self.first.status = 256
        self.refuses("(orderly end)")
        self.setUp()
        self.log(self.last, "Unhandled error in Deferred", "critical")
        self.refuses("(orderly end)")
        self.setUp()
        self.last.asked = False
        self.refuses("(orderly end)")

    def test_check(self) -> None:
        """What the check of the store finds is told, and that there was none."""
        self.change(self.last, "checked", problems=["object 3 is damaged"])
        self.refuses("5 (leftovers)")
        self.last.events = [each for each in self.last.events if each["event"] != "checked"]
        self.refuses("5 (leftovers)")
