"""A kernel's log, and what it says of broken rings."""

from __future__ import annotations

import os

BREAKS = "cmd_id 7 not found, ring is broken"
BREAKS_KEPT = "cmd_id 7 already completed with KEEP_BUF, ring is broken"
COMPLAINS = "ring broken, not handling completions"


class FakeLog:
    """/dev/kmsg: a record for each read, ``None`` when there is no more, readable while there is one."""

    def __init__(self) -> None:
        self.records: list[bytes | OSError] = []
        self.closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)

    def put(self, text: str, priority: int = 3) -> None:
        """Log a line."""
        self.put_record(f"{priority},1204,9812345,-;{text}\n SUBSYSTEM=uio\n".encode())

    def fail(self, number: int) -> None:
        """Have a read fail."""
        self.put_record(OSError(number, os.strerror(number)))

    def put_record(self, record: bytes | OSError) -> None:
        """Have a read give, or raise, just this."""
        self.records.append(record)
        os.eventfd_write(self._event, 1)

    def read(self, size: int) -> bytes | None:
        if not self.records:
            return None
        os.eventfd_read(self._event)
        record = self.records.pop(0)
        if isinstance(record, OSError):
            raise record
        return record

    def fileno(self) -> int:
        return self._event

    def close(self) -> None:
        self.closed = True
        os.close(self._event)
