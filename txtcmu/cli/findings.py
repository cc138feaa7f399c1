"""What ``txtcmu doctor`` finds: the shape of a finding, and who may see what."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from txtcmu.cli.environment import Environment

__all__ = [
    "CAP_NET_ADMIN",
    "CAP_SYS_ADMIN",
    "CAP_SYS_RESOURCE",
    "Finding",
    "Level",
    "capabilities",
    "failure",
    "good",
    "unseen",
    "warning",
]

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24


class Level(Enum):
    """How bad it is."""

    GOOD = "ok"
    UNSEEN = "?"
    WARNING = "warning"
    FAILURE = "FAILS"


@frozen
class Finding:
    """One thing that was looked at.

    :ivar subject: what it is about, ``text``: how it is, ``mend``: what to do about it, unless it is good.
    """

    level: Level
    subject: str
    text: str
    mend: str = ""


def good(subject: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Level.GOOD, subject, text)


def unseen(subject: str, text: str, mend: str = "run `txtcmu doctor` as root") -> Finding:
    """Return that something cannot be seen from here."""
    return Finding(Level.UNSEEN, subject, text, mend)


def warning(subject: str, text: str, mend: str) -> Finding:
    """Return that something will hurt one day."""
    return Finding(Level.WARNING, subject, text, mend)


def failure(subject: str, text: str, mend: str) -> Finding:
    """Return that something keeps disks from working."""
    return Finding(Level.FAILURE, subject, text, mend)


def capabilities(world: Environment) -> int:
    """Return the capabilities in effect, as a bit mask (proc(5))."""
    for line in (world.proc / "self" / "status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
