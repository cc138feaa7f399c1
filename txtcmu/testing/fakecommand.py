"""One SCSI command as its initiator sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

__all__ = ["FakeCommand"]


class FakeCommand:
    """A command sent through :meth:`~txtcmu.testing.fakekernel.FakeKernel.submit`.

    :ivar cdb: the CDB as the kernel copied it.
    :ivar data_out: what the initiator sent.
    :ivar data_in_length: how much it is ready to take.
    :ivar done: whether the initiator has its answer; only then are the next ones of any meaning.
    :ivar status: SAM status.
    :ivar sense: the sense data of CHECK CONDITION, as long as its ADDITIONAL SENSE LENGTH says.
    :ivar sense_buffer: all 96 bytes that the kernel passes on.
    :ivar data: the Data-In transferred.
    :ivar residual: by how much READ_LEN fell short of ``data_in_length``.
    :ivar cmd_id: its id on the ring, 0 while it waits for room.
    :ivar aborted: a task management function named it.
    :ivar expired: it timed out on the ring, and its id is still in use.
    :ivar kept: it was completed with KEEP_BUF, and its buffer is still in use.
    """

    def __init__(self, cdb: bytes, data_out: bytes, data_in_length: int) -> None:
        self.cdb = cdb
        self.data_out = data_out
        self.data_in_length = data_in_length
        self.done = False
        self.status = -1
        self.sense = b""
        self.sense_buffer = b""
        self.data = b""
        self.residual = 0
        self.cmd_id = 0
        self.aborted = False
        self.expired = False
        self.kept = False
        # Of the first buffer, and of the Data-In behind it if the command is bidirectional.
        self.pages: list[int] = []
        self.in_pages: list[int] = []
        self._waiting: list[Deferred[FakeCommand]] = []
        self._timer: Any = None

    def __str__(self) -> str:
        return f"cmd_id {self.cmd_id} (CDB {self.cdb.hex()})"

    @property
    def buffer_length(self) -> int:
        """Length of the buffer that the ring describes first: Data-Out, if there is any."""
        return len(self.data_out) or self.data_in_length

    @property
    def bidi_length(self) -> int:
        """Length of the Data-In of a bidirectional command."""
        return self.data_in_length if self.data_out else 0

    @property
    def sense_code(self) -> tuple[int, int, int] | None:
        """Sense key, ASC and ASCQ, in fixed or descriptor format; ``None`` without sense data."""
        if len(self.sense) < 8:
            return None
        if self.sense[0] & 0x7F >= 0x72:
            return self.sense[1] & 0xF, self.sense[2], self.sense[3]
        return self.sense[2] & 0xF, self.sense[12], self.sense[13]

    def when_done(self) -> Deferred[FakeCommand]:
        """Return a Deferred that fires with this command when it is done."""
        if self.done:
            return succeed(self)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    # The fake kernel's side.

    def finish(self, status: int, sense: bytes = b"", data: bytes = b"", residual: int = 0) -> None:
        """Give the initiator its answer."""
        if self.done:
            raise RuntimeError(f"the fake kernel ended {self} twice")
        self.stop_timer()
        self.done = True
        self.status = status
        self.sense_buffer = sense
        self.sense = sense[: 8 + sense[7]] if len(sense) >= 8 else b""
        self.data = data
        self.residual = residual
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self)

    def fail(self, key: int, asc: int, ascq: int) -> None:
        """Answer with sense data that the target core makes up."""
        self.finish(0x02, bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]))

    def start_timer(self, clock: Any, seconds: float | None, expire: Callable[[FakeCommand], None]) -> None:
        """Call ``expire`` later, unless the command ends, or is given another timer, before."""
        self.stop_timer()
        if clock is not None and seconds is not None:
            self._timer = clock.callLater(seconds, expire, self)

    def stop_timer(self) -> None:
        """Forget the timer."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
