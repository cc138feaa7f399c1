"""A server process that dies with its parent and shows its log when it does not come up."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ServerError(Exception):
    """A server did not start; ``str()`` ends with the tail of its log."""


def free_ports(count: int) -> list[int]:
    """Return ``count`` different TCP ports of 127.0.0.1 that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ServerProcess:
    """One process, its log in a file.

    The kernel kills it when the *thread* that started it ends, so start it from one that lives on.

    :param environment: variables beside our own.
    :param descriptors: of ours, which it inherits under the same numbers.
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        cwd: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        descriptors: Sequence[int] = (),
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                cwd=cwd,
                pass_fds=descriptors,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,  # ^C is for the parent, which ends it when nobody needs it any more
            )
        self.pid = self._process.pid

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll ``ready`` until it is true; an ``OSError`` from it means "not yet".

        :raise ServerError: the process ended, or ``seconds`` have passed.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise ServerError(f"{self.log.name}: exit status {self._process.returncode}\n{self.tail()}")
            try:
                if ready():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.stop()
                raise ServerError(f"{self.log.name}: not ready after {seconds:.0f} s\n{self.tail()}")
            time.sleep(0.05)

    def stop(self, patience: float = 10.0) -> None:
        """Ask it to end, and end it when it has not after ``patience`` seconds."""
        self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would; nothing happens when it has ended."""
        self._process.kill()
        self._process.wait()
