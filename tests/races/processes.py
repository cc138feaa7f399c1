"""Daemons as processes: forked from one that has imported everything, signalled, and heard through pipes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from attrs import define, field

from tests.races.daemon import Orders, Tell, teller
from tests.simulation.history import Event
from tools.servers.process import die_with_parent

__all__ = ["Daemon", "Daemons", "Stuck"]

#: Seconds in which whatever is waited for has happened, on the slowest machine.
_PATIENCE: Final = 120.0

Work = Callable[[Orders, Tell], None]


class Stuck(Exception):  # noqa: N818
    """What was waited for did not happen."""


@define(eq=False)
class Daemon:
    """A process, as its parent sees it.

    :ivar pipe: what it tells comes out here.
    :ivar events: what it told, in order, and :ivar reached: the names of those events.
    :ivar epoch: of the volume while it is the writer; ``None``: it never was, or had no time to tell.
    :ivar stopped: by SIGSTOP, :ivar killed: by SIGKILL, :ivar asked: to end, by SIGTERM.
    :ivar status: as of :func:`os.waitpid` once it has ended, ``None`` before.
    """

    orders: Orders
    pid: int
    pipe: int = -1
    events: list[Event] = field(factory=list)
    reached: set[str] = field(factory=set)
    epoch: int | None = None
    stopped: bool = False
    killed: bool = False
    asked: bool = False
    status: int | None = None
    _rest: bytes = b""

    @property
    def life(self) -> int:
        """Its number."""
        return self.orders.life

    @property
    def last(self) -> str:
        """The name of what it told last."""
        return self.events[-1]["event"] if self.events else ""

    @property
    def ended(self) -> bool:
        """Whether it is gone, and all that it told is here."""
        return self.status is not None

    @property
    def alive(self) -> bool:
        """Whether it has not ended, and was not killed."""
        return not self.ended and not self.killed

    @property
    def opening(self) -> bool:
        """Whether it is on the way to the disk."""
        return self.alive and not self.reached & {"takeover", "fenced"}

    def signal(self, number: int) -> None:
        """Send SIGSTOP, SIGCONT, SIGKILL or SIGTERM; it must be alive."""
        os.kill(self.pid, number)
        self.stopped = number == signal.SIGSTOP or (self.stopped and number != signal.SIGCONT)
        self.killed |= number == signal.SIGKILL
        self.asked |= number == signal.SIGTERM

    def read(self) -> list[Event]:
        """Return what it has told since; when there is nothing more to come it has ended."""
        data = os.read(self.pipe, 1 << 16)
        if not data:
            _, self.status = os.waitpid(self.pid, 0)
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = [json.loads(line) for line in lines]
        for event in events:
            self.hear(event)
            if event.get("halts"):
                os.waitpid(self.pid, os.WUNTRACED)  # else it might miss a SIGCONT that comes too soon
                self.stopped = True
        return events

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        self.events.append(event)
        self.reached.add(event["event"])
        if event["event"] == "replaced":
            self.epoch = event["epoch"]


class Daemons:
    """All daemons that take part in something.

    :param heard: called with a daemon and each event, as it comes.
    """

    def __init__(self, heard: Callable[[Daemon, Event], None]) -> None:
        self.all: list[Daemon] = []
        self._heard = heard
        self._pipes = selectors.DefaultSelector()

    def start(self, orders: Orders, work: Work) -> Daemon:
        """Fork one."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            _be_the_child(orders, work, theirs)
        os.close(theirs)
        daemon = Daemon(orders, pid, ours)
        self.all.append(daemon)
        self._pipes.register(ours, selectors.EVENT_READ, daemon)
        return daemon

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Hear them for some time, or until something is so; return whether it is."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return False
            for key, _ in self._pipes.select(left):
                daemon: Daemon = key.data
                events = daemon.read()
                if daemon.ended:
                    self._pipes.unregister(daemon.pipe)
                    os.close(daemon.pipe)
                for event in events:
                    self._heard(daemon, event)
        return True

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Hear them until something is so.  :raise Stuck: it never is."""
        if not self.listen(_PATIENCE, until):
            raise Stuck(f"waited {_PATIENCE:.0f} s for {what}")

    def end(self) -> None:
        """Kill what is left."""
        for daemon in self.all:
            if daemon.alive:
                daemon.signal(signal.SIGKILL)
        self.wait("the end of what was killed", lambda: all(daemon.ended for daemon in self.all))
        self._pipes.close()


def _be_the_child(orders: Orders, work: Work, pipe: int) -> None:
    status = 1
    try:
        die_with_parent()
        work(orders, teller(pipe))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
