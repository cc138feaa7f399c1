"""The kernel's log (Documentation/ABI/testing/dev-kmsg): the only place where a broken ring is told of.

When a completion names a command that does not exist, target_core_user flags the device's ring broken and heeds no
completion in it any more; new commands fail at once.  Whoever writes to the UIO device sees nothing of that: the write
succeeds.  But the kernel logs two lines, neither of which names the device: one when the ring breaks, and one for each
doorbell that comes later.  So the first line tells *that* a ring is broken, and ringing each device's doorbell *whose*.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import FileIO
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["KernelLog", "KernelLogConsumer", "open_kmsg"]

_PATH: Final = "/dev/kmsg"
_RECORD: Final = 8192  # more than the longest record
_RECORDS_PER_TURN: Final = 256
_BROKEN: Final = "ring is broken"
_STILL_BROKEN: Final = "ring broken, not handling completions"
# Another daemon's device may be broken, too, and its doorbell ring just now; hardly three times.
_ROUNDS: Final = 3
#: Seconds between two searches for whose ring is broken, when the log does not cease to say so.
SEARCH_INTERVAL: Final = 1.0


class KernelLogConsumer(Protocol):
    """Who is told what the kernel's log says.  Called in the reactor's thread."""

    def a_ring_is_broken(self) -> None:
        """Some device's ring is broken, of whatever daemon; :meth:`KernelLog.complains` finds out whose."""


def open_kmsg() -> Any:
    """Return the log as an unbuffered file, at its end: each read gives one record, or ``None``."""
    opened = FileIO(os.open(_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    opened.seek(0, os.SEEK_END)
    return opened


def _text(record: bytes) -> str:
    """Return the text of a record of the kernel itself, and nothing for one that a process has written."""
    prefix, _, text = record.decode(errors="replace").partition(";")
    priority = prefix.partition(",")[0]
    from_kernel = priority.isascii() and priority.isdigit() and int(priority) < 8  # the facility is above
    return text.partition("\n")[0] if from_kernel else ""


@implementer(IReadDescriptor)
class KernelLog:
    """Listens to the kernel's log for broken rings.

    :param opener: as :func:`open_kmsg`.
    """

    _log = Logger()

    def __init__(self, reactor: Any, consumer: KernelLogConsumer, opener: Callable[[], Any] = open_kmsg) -> None:
        self._reactor = reactor
        self._consumer = consumer
        self._opener = opener
        self._file: Any = None
        self._search: Any = None
        self._searched = float("-inf")

    def start(self) -> None:
        """Begin to listen; where the log cannot be read, a ring that the kernel calls broken stays so."""
        try:
            self._file = self._opener()
        except OSError as error:
            self._log.info(
                "{path} cannot be read ({why}): a ring that the kernel finds broken is not mended",
                path=_PATH,
                why=error.strerror,
            )
        else:
            self._reactor.addReader(self)

    def stop(self) -> None:
        """Listen no more; harmless when it never started."""
        if self._file is not None:
            self._reactor.removeReader(self)
            self._file.close()
            self._file = None
        if self._search is not None:
            self._search.cancel()
            self._search = None

    def complains(self, doorbell: Callable[[], None]) -> bool:
        """Tell whether the kernel logs that a ring is broken whenever ``doorbell`` is called.

        The line is in the log when the doorbell's system call returns, so this never waits.
        """
        if self._file is None:
            return False
        for _ in range(_ROUNDS):
            self._heed(self._records())
            doorbell()
            answer = self._records()
            self._heed(answer)
            if not any(_STILL_BROKEN in line for line in answer):
                return False
        return True

    def _records(self, limit: int = 1 << 16) -> list[str]:
        """Return the text of each new record; records that were lost may have been of a broken ring."""
        lines = []
        for _ in range(limit):
            try:
                record = self._file.read(_RECORD)
            except BrokenPipeError:
                lines.append(_BROKEN)
                continue
            if not record:
                break
            lines.append(_text(record))
        return lines

    def _heed(self, lines: list[str]) -> None:
        if any(_BROKEN in line for line in lines) and self._search is None:
            delay = max(0.0, self._searched + SEARCH_INTERVAL - self._reactor.seconds())
            self._search = self._reactor.callLater(delay, self._tell)

    def _tell(self) -> None:
        self._search = None
        self._searched = self._reactor.seconds()
        self._consumer.a_ring_is_broken()

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return -1 if self._file is None else int(self._file.fileno())

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "kernel log"

    def doRead(self) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        try:
            self._heed(self._records(_RECORDS_PER_TURN))
        except OSError as error:
            self._log.error("{path} cannot be read any more: {error}", path=_PATH, error=error)
            self.stop()

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        self.stop()
