"""One round: daemons on two hosts want one volume, and are killed, stopped and asked to end at random."""

from __future__ import annotations

from collections import Counter
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import Any, Final

from tests.races.daemon import Orders, serve
from tests.races.judge import judge, judge_disk
from tests.races.processes import Daemon, Daemons, Stuck
from tests.simulation.history import Event

__all__ = ["Round"]

#: Seconds in which a daemon opens, about, and those until something happens, on average.
_OPENING: Final = 0.1
_PAUSE: Final = 0.08


class Round:
    """A round on a volume of its own.  The seed has what happens; what that meets is the machine's to decide.

    :param path: where the volume is to be, with the bucket; ``options`` and ``probed`` are as in :class:`Orders`.
    :ivar counts: what happened how often.
    """

    def __init__(self, seed: int, path: str, options: dict[str, str], probed: dict[str, Any]) -> None:
        self.counts: Counter[str] = Counter()
        self._random = random = Random(seed)
        self._machines = random.choice((("one", "one"), ("one", "other")))
        # On one machine nobody has to be told to take over.
        self._options = options if self._machines[0] == self._machines[1] else {**options, "takeover": "yes"}
        self._path = path
        self._probed = probed
        self._daemons = Daemons(self._heard)
        self._hosts: list[Daemon | None] = [None, None]
        self._flushes: set[int] = set()

    @property
    def daemons(self) -> list[Daemon]:
        """Everybody that took part."""
        return self._daemons.all

    def run(self) -> None:
        """Run and judge it.

        :raise tests.simulation.oracle.Violation: something is wrong.
        :raise Stuck: something does not happen.
        """
        try:
            first = self._hosts[0] = self._start(self._machines[0], depth=2, think=0.01)
            self._daemons.wait("the first daemon", lambda: not first.opening)
            for _ in range(self._random.randrange(3, 7)):
                self._daemons.listen(self._random.expovariate(1 / _PAUSE))
                self._step()
            self._finish()
        except Stuck:
            self._daemons.end()
            judge_disk(self.daemons)  # which may tell why
            raise
        finally:
            self._daemons.end()
        judge(self.daemons)

    def story(self) -> str:
        """Return what became of each daemon, a line each; its commands are left out."""
        lines = []
        for daemon in self.daemons:
            end = "killed" if daemon.killed else f"status {daemon.status}{' as asked' if daemon.asked else ''}"
            events = " ".join(each["event"] for each in daemon.events if each["event"] not in ("submit", "complete"))
            lines.append(f"    daemon {daemon.life}, process {daemon.pid}, epoch {daemon.epoch}, {end}: {events}")
        return "\n".join(lines)

    def _start(self, machine: str, **how: Any) -> Daemon:
        life, seed = len(self.daemons) + 1, self._random.getrandbits(32)
        return self._daemons.start(Orders(life, seed, machine, self._path, self._options, self._probed, **how), serve)

    def _step(self) -> None:
        """Do something to one of the hosts, or to both."""
        random = self._random
        if random.random() < 0.1:
            for daemon in self._hosts:
                if daemon is not None and daemon.alive:
                    self._send(daemon, SIGKILL)
            self._begin(0)
            self._begin(1)
            return
        host = random.randrange(2)
        daemon = self._hosts[host]
        if daemon is not None and daemon.alive:
            self._strike(daemon)
            return
        begun = self._begin(host)
        if random.random() < 0.5:
            if begun.orders.halt:
                self._daemons.wait("a daemon to halt", lambda: begun.stopped or not begun.opening)
            else:
                self._daemons.listen(random.uniform(0, _OPENING))
            self._strike(begun)

    def _begin(self, host: int) -> Daemon:
        random = self._random
        begun = self._hosts[host] = self._start(
            self._machines[host],
            halt=random.choice(("", "", "sealed", "replaced")),
            depth=random.choice((0, 1, 2, 2, 4, 4)),
            think=random.choice((0.01, 0.03)),
        )
        return begun

    def _strike(self, daemon: Daemon) -> None:
        """Kill a daemon, stop it, let it go on, or ask it to end, which only who has the disk can do in good order.

        One without work, who does not notice that it is deposed, is asked in its sleep: it ends as if nothing had been.
        """
        if not daemon.alive:
            return
        if self._random.random() < 0.45:
            self._send(daemon, SIGKILL)
        elif daemon.stopped:
            self._send(daemon, SIGCONT)
        elif not (daemon.orders.depth or daemon.opening or daemon.asked):
            self._send(daemon, SIGSTOP)
            self._send(daemon, SIGTERM)
        elif daemon.opening or daemon.asked or self._random.random() < 0.6:
            self._send(daemon, SIGSTOP)
        else:
            self._send(daemon, SIGTERM)

    def _send(self, daemon: Daemon, number: Signals) -> None:
        if number == SIGKILL:
            self.counts["kills_opening"] += daemon.opening
            self.counts["kills_sealed"] += "sealed" in daemon.reached and "replaced" not in daemon.reached
        self.counts[{SIGKILL: "kills", SIGSTOP: "stops", SIGCONT: "continued", SIGTERM: "closes"}[number]] += 1
        daemon.signal(number)

    def _finish(self) -> None:
        """Have one more take the volume from whoever has it, dead, alive or asleep; then let all see what they can."""
        others = list(self.daemons)
        for daemon in others:
            if daemon.alive and daemon.stopped and not _settled(daemon):
                self._send(daemon, SIGCONT)
        self._daemons.wait("all to open, or not", lambda: all(map(_settled, others)))
        last = self._start(self._machines[0], checks=True)
        self._daemons.wait("the last daemon", lambda: not last.opening)
        for daemon in others:
            if daemon.alive and not (daemon.orders.depth or daemon.asked):
                self._send(daemon, SIGTERM)
            if daemon.alive and daemon.stopped:
                self._send(daemon, SIGCONT)
        self._daemons.wait("all to find out", lambda: all(daemon.ended for daemon in others))
        if last.alive:
            self._send(last, SIGTERM)
        self._daemons.wait("the last daemon's end", lambda: last.ended)

    def _heard(self, daemon: Daemon, event: Event) -> None:
        """Count what a daemon tells."""
        counts = self.counts
        match event["event"]:
            case "replaced":
                counts["takeovers"] += 1
                before = [each for each in self.daemons if each.epoch is not None and each.epoch < event["epoch"]]
                writer = max(before, key=lambda each: each.epoch or 0, default=None)
                if writer is not None and writer.alive and not writer.asked:
                    counts["takeovers_asleep" if writer.stopped else "takeovers_alive"] += 1
            case "fenced":
                counts["fenced"] += 1
            case "submit":
                counts["commands"] += 1
                if event["kind"] == "flush":
                    self._flushes.add(event["op"])
            case "complete":
                counts["flushes"] += event["op"] in self._flushes and "error" not in event


def _settled(daemon: Daemon) -> bool:
    """Whether a daemon cannot become the writer any more: it is one, was one, or sleeps before a head of the past."""
    return not daemon.opening or (daemon.stopped and daemon.last in ("sealed", "replaced"))
