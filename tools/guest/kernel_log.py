"""The kernel's log as a judge of tests: which of its lines mean that something went wrong."""

import os
import re
from collections import deque
from collections.abc import Iterable

__all__ = ["KernelLog", "forbidden", "message"]

FORBIDDEN = re.compile(
    r"BUG|WARNING:|\bWARN\b|\bOops\b|Call Trace|general protection|Kernel panic"
    r"|ring is broken|Invalid addr to data page"  # the two by which TCMU gives a device up
    r"|blocked for more than"  # a hung task
)
"""What no line may contain that its test has not declared."""

RECORD_BYTES = 8192
"""More than any record of /dev/kmsg."""


def forbidden(lines: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Return the lines that contain a forbidden pattern and none of the declared regular expressions."""
    excuses = [re.compile(pattern) for pattern in declared]
    return [line for line in lines if FORBIDDEN.search(line) and not any(e.search(line) for e in excuses)]


def message(record: bytes) -> str:
    """Return the text of a record of /dev/kmsg with its time: ``6,1204,9812345,-;text`` and lines of properties."""
    prefix, _, text = record.decode(errors="replace").partition(";")
    microseconds = int(prefix.split(",")[2])
    return f"[{microseconds / 1e6:12.6f}] {text.partition(chr(10))[0]}"


class KernelLog:
    """Read /dev/kmsg from its beginning, the boot; remember the last lines."""

    def __init__(self, path: str = "/dev/kmsg", remembered: int = 60) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._tail: deque[str] = deque(maxlen=remembered)

    def read(self) -> list[str]:
        """Return the lines that came since the last call."""
        lines = []
        while True:
            try:
                record = os.read(self._descriptor, RECORD_BYTES)
            except BrokenPipeError:  # records were overwritten before we came; the next read finds the oldest left
                lines.append("(lines of the kernel's log were lost)")
                continue
            except BlockingIOError:
                break
            if not record:
                break
            lines.append(message(record))
        self._tail.extend(lines)
        return lines

    def tail(self) -> str:
        """Return the last lines read, whoever they belong to."""
        return "\n".join(self._tail)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
