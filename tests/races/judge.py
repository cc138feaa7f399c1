"""What may come of a race: judged from what the daemons told, when all of them have ended."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from tests.races.daemon import BATCH, SECTORS
from tests.races.processes import Daemon
from tests.simulation.oracle import Oracle, Violation

__all__ = ["judge", "judge_disk"]

_HISTORY: Final = ("takeover", "submit", "complete")
_FENCED: Final = [2, 4, 3]
_WRITER: Final = re.compile(r"process (\d+) on (\S+), since")


def judge(daemons: list[Daemon]) -> None:
    """Judge one round; the last daemon opened the volume when nobody else would, and checked it when they had ended.

    :raise Violation: a rule is broken; those without a number are not the simulation's.
    """
    for daemon in daemons:
        _judge_end(daemon)
        if any(event["event"] == "fenced" or event.get("level") == "error" for event in daemon.events):
            _judge_loser(daemon, daemons)
    judge_disk(daemons)
    checks = [event["problems"] for event in daemons[-1].events if event["event"] == "checked"]
    if checks != [[]]:
        raise Violation("5 (leftovers)", f"the check of the store finds {checks}")


def _judge_end(daemon: Daemon) -> None:
    """A daemon ends by a kill, or in good order; nothing is critical, and an error is only to be deposed."""
    who = f"daemon {daemon.life}"
    for event in daemon.events:
        if event.get("level") == "critical":
            raise Violation("(orderly end)", f"{who} logs: {event['text']}")
    if daemon.killed:
        return
    if daemon.status or "end" not in daemon.reached:
        raise Violation("(orderly end)", f"{who} ends with status {daemon.status}")
    if not daemon.asked and "fenced" not in daemon.reached:
        raise Violation("(orderly end)", f"{who} has given up without being fenced")


def _judge_loser(daemon: Daemon, daemons: list[Daemon]) -> None:
    """Who is deposed says by whom, and answers NOT READY, MANUAL INTERVENTION REQUIRED."""
    who = f"daemon {daemon.life}"
    senses = [event["sense"] for event in daemon.events if event["event"] == "fenced"]
    if senses != [_FENCED] and not (daemon.killed and not senses):
        raise Violation("(the loser)", f"{who} is fenced, and answers a READ with {senses}")
    words = "".join(event["text"] for event in daemon.events if event["event"] == "log")
    rivals = [each for each in daemons if each is not daemon and "sealed" in each.reached]
    winners = {
        (str(each.pid), each.orders.machine)
        for each in rivals
        if each.epoch is None or daemon.epoch is None or each.epoch > daemon.epoch
    }
    named = set(_WRITER.findall(words))
    # Whoever sealed the log and then died, or slept for long, has no name yet.
    nameless = "another is taking the volume over" in words and any(
        each.epoch is None or each.orders.halt == "sealed" for each in rivals
    )
    if not named <= winners or not (named or nameless):
        raise Violation("(the loser)", f"{who} says {words!r}, and it was one of {sorted(winners)}")


def judge_disk(daemons: list[Daemon]) -> None:
    """Have the oracle see one writer after the other, in the order of their epochs.

    Of two events in different processes nobody knows which came first.  So each writer is seen to its end, with all
    that it acknowledged after it was deposed, before its successor tells what disk he found.
    """
    writers = [(each.epoch, each) for each in daemons if each.epoch is not None and "takeover" in each.reached]
    writers.sort(key=lambda writer: writer[0])
    for (epoch, before), (following, after) in pairwise(writers):
        if epoch == following:
            raise Violation("(one writer)", f"daemons {before.life} and {after.life} both have epoch {epoch}")
    oracle = Oracle(SECTORS, BATCH)
    oracle.see({"event": "create", "size": SECTORS})
    for _, daemon in writers:
        oracle.see({"event": "open", "life": daemon.life})
    for _, daemon in writers:
        for event in daemon.events:
            if event["event"] in _HISTORY:
                oracle.see(event)
