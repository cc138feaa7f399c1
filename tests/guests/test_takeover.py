"""Two hosts, each a guest with a kernel and a daemon of its own, and one volume."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.guests.user import BLOCKS
from tools.guest.machine import Machine
from tools.guest.qemu import Hardware
from tools.guest.services import SERVICES
from tools.guest.streams import LineSplitter

#: Both run at the same time, on what may be two processors.
HARDWARE = Hardware(memory=768, processors=1)
PATIENCE = 240.0
NOT_READY, MANUAL_INTERVENTION_REQUIRED = 0x02, (0x04, 0x03)
Image = list[list[str]]


class Host:
    """A guest in which :mod:`tests.guests.user` runs.

    :param others: all guests; while one is waited for, the others' output is taken.
    """

    def __init__(self, name: str, environment: dict[str, str], others: list[Host]) -> None:
        self.name = name
        self._others = others
        self._replies: deque[dict[str, Any]] = deque()
        self._output = bytearray()
        lines = LineSplitter(lambda line: self._replies.append(json.loads(line)))
        sinks = {"stdout": self._output.extend, "stderr": self._output.extend, "reply": lines.feed}
        command = ["python", "-m", "tests.guests.user", name]
        self.machine = Machine(command, sinks, environment, HARDWARE)
        self._orders = 0
        others.append(self)

    def order(self, verb: str, *arguments: object) -> None:
        """Have something done, without waiting for it."""
        self._orders += 1
        path = self.machine.share / f"order-{self._orders}"
        path.with_suffix(".new").write_text(json.dumps([verb, *arguments]))
        path.with_suffix(".new").rename(path)

    def reply(self) -> Any:
        """Return what has come of the first order that was not waited for yet.  :raise AssertionError: it failed."""
        deadline = time.monotonic() + PATIENCE
        while not self._replies:
            for each in self._others:
                each.machine.pump(0.02)
            assert self.machine.status is None, self._evidence("it has ended")
            assert not self.machine.gone, self._evidence("it died")
            assert time.monotonic() < deadline, self._evidence(f"no reply within {PATIENCE:g} s")
        reply = self._replies.popleft()
        assert "error" not in reply, self._evidence(reply["error"])
        return reply["value"]

    def ask(self, verb: str, *arguments: object) -> Any:
        """Have something done."""
        self.order(verb, *arguments)
        return self.reply()

    def _evidence(self, what: str) -> str:
        logs = [path.read_text(errors="replace") for path in sorted(self.machine.share.glob("logs/*"))]
        output = self._output.decode(errors="replace")
        return f"{self.name}: {what}\n" + "\n".join([output, self.machine.console_tail(), *logs])


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What tells the guests of an S3 server."""
    service = SERVICES["s3"](tmp_path)
    yield dict(service.environment)
    service.stop()


@contextmanager
def booted(environment: dict[str, str]) -> Iterator[tuple[Host, Host]]:
    """Boot two guests at once."""
    with ExitStack() as stack:
        hosts: list[Host] = []
        first, second = (Host(name, environment, hosts) for name in "ab")
        for host in hosts:
            stack.enter_context(host.machine)
        yield first, second


def judge(before: Image, after: Image, author: str, written: list[int], flushed: int) -> None:
    """See that ``after`` is ``before`` and the first writes of the author, those that were flushed among them."""
    image, images = list(before), [before]
    for version, block in enumerate(written, 1):
        image = [*image]
        image[block] = [author, str(version), str(block)]
        images.append(image)
    assert after in images, f"{author}: not the disk after any of {len(written)} writes: {after}"
    # The same image may have been there earlier.
    last = len(images) - 1 - images[::-1].index(after)
    assert last >= flushed, f"{author}: {flushed} writes were flushed, {last} are there"


def test_a_volume_goes_from_host_to_host(environment: dict[str, str]) -> None:
    """Three times the other host takes the volume over: no flush is lost, the loser stands back, the winner goes on.

    The loser lives; sleeps until the winner is at work; or wakes up in between.
    """
    volume = f"s3/{environment['TXTCMU_S3_BUCKET']}/shared"
    with booted(environment) as (loser, winner):
        loser.ask("open", volume)
        empty: Image = [[] for _ in range(BLOCKS)]
        author, image = "a0", empty
        assert loser.ask("image") == image
        loser.ask("write", author)
        for number, sleeps in enumerate((False, True, True), 1):
            loser.ask("wait", 5)
            if sleeps:
                loser.ask("signal", "SIGSTOP")
            winner.order("open", f"{volume};takeover=yes")
            if number == 3:
                loser.ask("signal", "SIGCONT")
            winner.reply()
            found = winner.ask("image")
            successor = f"{winner.name}{number}"
            winner.ask("write", successor)
            winner.ask("wait", 5)
            if sleeps and number != 3:
                loser.ask("signal", "SIGCONT")

            written, flushed, error = loser.ask("end", False)
            assert "Input/output error" in error
            judge(image, found, author, written, flushed)
            assert loser.ask("sense") == [NOT_READY, *MANUAL_INTERVENTION_REQUIRED]
            told, state = loser.ask("log").splitlines()[-2:]
            assert f"on guest-{winner.name}" in told
            assert state.endswith(": fenced")
            loser.ask("close")
            winner.ask("wait", 5)
            author, image = successor, found
            loser, winner = winner, loser
        written, flushed, error = loser.ask("end", True)
        assert error == ""
        judge(image, loser.ask("image"), author, written, flushed)
        loser.ask("close")
        for host in (loser, winner):
            host.ask("stop")
            assert host.machine.wait(PATIENCE) == 0
