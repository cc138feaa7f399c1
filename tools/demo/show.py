"""What the demo shows of itself: its steps, the commands it runs, and what they say."""

from __future__ import annotations

import shlex
import subprocess
import time

__all__ = ["Failed", "command", "step"]

_began = time.monotonic()


class Failed(Exception):  # noqa: N818 - what the demo has then
    """A step did not do what it should."""


def step(text: str) -> None:
    """Announce a step."""
    print(f"\n== {text}  [{time.monotonic() - _began:.0f} s]", flush=True)


def command(*words: str, seconds: float = 300.0) -> str:
    """Show and run a program; return what it prints.

    :raise Failed: it failed; the line holds what it said.
    """
    print("$ " + shlex.join(words), flush=True)
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.stdout:
        print(done.stdout.rstrip(), flush=True)
    if done.returncode != 0:
        raise Failed(f"{words[0]} ended with status {done.returncode}")
    return done.stdout.strip()
