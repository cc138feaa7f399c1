"""What ``target_core_user.c`` does with commands and responses, for :mod:`txtcmu.testing.fakekernel`."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections import deque
from heapq import heappop, heappush
from typing import Any

from txtcmu.kernel import abi, abi_v1
from txtcmu.testing.fakecommand import FakeCommand
from txtcmu.testing.fakedata import PAGE, DataArea
from txtcmu.testing.fakedata_v1 import DataRing
from txtcmu.testing.fakering import FakeRing, Response
from txtcmu.testing.fakering_v1 import FakeRingV1
from txtcmu.testing.fakeuio import FakeUIO

__all__ = ["FakeDevice"]

GOOD = 0x00
CHECK_CONDITION = 0x02
BUSY = 0x08
TASK_SET_FULL = 0x28
TASK_ABORTED = 0x40
_STATUSES = frozenset({GOOD, CHECK_CONDITION, 0x04, BUSY, 0x14, 0x18, TASK_SET_FULL, 0x30, TASK_ABORTED})

COMMUNICATION_FAILURE = (0x2, 0x08, 0x00)  # NOT READY, LOGICAL UNIT COMMUNICATION FAILURE
_INVALID_FIELD = (0x5, 0x24, 0x00)  # ILLEGAL REQUEST, INVALID FIELD IN CDB
_KNOWN_UFLAGS = abi.UFLAG_UNKNOWN_OP | abi.UFLAG_READ_LEN | abi.UFLAG_KEEP_BUF
_SENSE_RESPONSE_CODES = range(0x70, 0x74)
_DEFAULT_WAIT = 30.0
_DATA_SIZE = 1 << 20
_ALL_FLAGS = abi.FLAG_OUT_OF_ORDER | abi.FLAG_READ_LEN | abi.FLAG_TMR | abi.FLAG_KEEP_BUF


class FakeDevice:
    """Ring, data area and command table of one device; the arguments are :class:`FakeKernel`'s."""

    def __init__(
        self,
        cmdr_size: int,
        data_size: int | None,
        flags: int | None,
        cmd_time_out: float | None,
        clock: Any,
        fragment: bool,
        suspicious: bool,
        version: int,
    ) -> None:
        if version not in (abi.MAILBOX_VERSION, abi_v1.MAILBOX_VERSION):
            raise ValueError(f"there is no ABI of version {version}")
        first = version == abi_v1.MAILBOX_VERSION
        if data_size is None:
            data_size = abi_v1.DATA_SIZE if first else _DATA_SIZE
        if flags is None:
            flags = 0 if first else _ALL_FLAGS
        if cmdr_size % abi.ALIGNMENT or data_size % PAGE or data_size <= 0 or cmdr_size < 2 * abi.ENTRY_SIZE:
            raise ValueError(f"impossible sizes: ring {cmdr_size}, data {data_size}")
        if cmd_time_out is not None and clock is None:
            raise ValueError("cmd_time_out needs a clock")
        data_start = -(-(abi.MAILBOX_SIZE + cmdr_size) // PAGE) * PAGE
        self.map_size = data_start + data_size
        self._fd = os.memfd_create("tcmu")
        weakref.finalize(self, os.close, self._fd)
        os.ftruncate(self._fd, self.map_size)
        memory = memoryview(mmap.mmap(self._fd, self.map_size))
        self.violations: list[str] = []
        self.tmr_notification = False
        self.cmd_time_out = cmd_time_out
        self.qfull_time_out: float | None = None
        self._flags = flags
        self._clock = clock
        self._suspicious = suspicious
        self._version = version
        self._ring = (FakeRingV1 if first else FakeRing)(memory, cmdr_size, flags, self.violations.append)
        self._data: DataArea | DataRing
        if first:
            self._data = DataRing(memory[data_start:], data_start, self.violations.append)
        else:
            self._data = DataArea(memory[data_start:], data_start, fragment, self.violations.append)
        #: Commands that own a cmd_id: in flight, expired, or kept.
        self._commands: dict[int, FakeCommand] = {}
        self._free_ids = list(range(0 if first else 1, 0x10000))
        self._qfull: deque[FakeCommand] = deque()
        self._tmrs: deque[tuple[int, list[int]]] = deque()
        self._user: FakeUIO | None = None
        self._plugged = False
        self._event_due = False
        #: The ring was found inconsistent: nothing is processed any more, new commands fail.
        self.broken = False
        self.blocked = False
        self.removed = False

    def time_out(self, command: FakeCommand) -> None:
        """Let ``command``'s time be over: the initiator has its answer, an id in flight is in use until completed."""
        if command.done:
            return
        if command in self._qfull:
            self._qfull.remove(command)
            if self._version == 1:
                command.fail(*COMMUNICATION_FAILURE)
            else:
                command.finish(TASK_SET_FULL)
        else:
            command.expired = True
            command.fail(*COMMUNICATION_FAILURE)

    def _only_since_v2(self, name: str) -> None:
        if self._version == 1:
            raise OSError(errno.ENOENT, f"this kernel has no {name}")

    def _look(self) -> None:
        if self._suspicious:
            self._ring.check()
            self._data.check()

    # Queueing: queue_cmd_ring() and queue_tmr_ring().

    def _queue(self, command: FakeCommand) -> bool:
        """Put a command on the ring, or fail it; return false if it has to wait for room."""
        if self.blocked:
            command.finish(BUSY)
            return True
        if self.broken:
            command.fail(*COMMUNICATION_FAILURE)
            return True
        length, bidi_length = command.buffer_length, command.bidi_length
        # What can never fit; to a command that waited, the kernel does not say why.
        never = COMMUNICATION_FAILURE if command in self._qfull or self._version == 1 else _INVALID_FIELD
        if length + bidi_length > self._data.capacity:
            command.fail(*never)
            return True
        pages, in_pages = self._data.allocate(length), self._data.allocate(bidi_length)
        command.pages, command.in_pages = pages or [], in_pages or []
        iovecs = self._data.iovecs(command.pages, length)
        bidi = self._data.iovecs(command.in_pages, bidi_length)
        size = self._ring.command_size(len(iovecs) + len(bidi), command.cdb)
        fits = pages is not None and in_pages is not None
        if fits and size > self._ring.size // 2:
            self._release(command)
            command.fail(*never)
            return True
        if not fits or not self._ring.has_room(size):
            self._release(command)
            return False
        if not self._free_ids:
            self._release(command)
            command.finish(TASK_SET_FULL)
            return True
        command.cmd_id = heappop(self._free_ids)
        self._commands[command.cmd_id] = command
        self._data.write(command.pages, command.data_out)
        self._ring.push_command(command.cmd_id, command.cdb, iovecs, bidi)
        command.start_timer(self._clock, self.cmd_time_out or None, self.time_out)
        self._event()
        return True

    def _wait(self, command: FakeCommand) -> None:
        """Queue a command that found no room, or others waiting for it."""
        time_out = self.qfull_time_out
        if time_out is None:
            time_out = self.cmd_time_out or _DEFAULT_WAIT
        if time_out == 0:
            command.finish(TASK_SET_FULL)
        else:
            self._qfull.append(command)
            command.start_timer(self._clock, time_out, self.time_out)

    def _run_qfull(self) -> None:
        while self._qfull and self._queue(self._qfull[0]):
            self._qfull.popleft()

    def _run_tmrs(self) -> bool:
        """Put waiting task management entries on the ring; return whether none waits any more."""
        while self._tmrs:
            kind, ids = self._tmrs[0]
            if not self._ring.has_room(self._ring.tmr_size(len(ids))):
                return False
            self._ring.push_tmr(kind, ids)
            self._tmrs.popleft()
            self._event()
        return True

    def _event(self) -> None:
        if self._plugged:
            self._event_due = True
        elif self._user is not None:
            self._user.notify()

    # Completions: tcmu_handle_completions().

    def _handle_completions(self) -> bool:
        """Process responses up to ``cmd_tail``; return whether commands that wait for room may try again."""
        if self.broken:
            return False
        self._look()
        for response in self._ring.responses():
            command = self._commands.get(response.cmd_id)
            if command is None or command.kept:
                self.broken = True
                why = "no command has it" if command is None else "it was completed with KEEP_BUF before"
                self.violations.append(f"cmd_id {response.cmd_id} in the slot of {response.own_id}: {why}")
                return False
            self._judge(command, response)
            self._end(command, response)
        return self._run_tmrs()

    def _judge(self, command: FakeCommand, response: Response) -> None:
        """Report what is wrong in a response although the kernel would take it."""
        report, uflags, status = self.violations.append, response.uflags, response.status
        # A request whose number of iovecs happens to be a SAM status reads as that answer: not to be told apart.
        if not response.answered and status not in _STATUSES:
            report(f"cmd_tail passed the slot of {command}, in which there is no response")
            return
        if response.cmd_id != response.own_id and not self._flags & abi.FLAG_OUT_OF_ORDER:
            report(f"{command} was completed out of order without the capability")
        if uflags & ~_KNOWN_UFLAGS:
            report(f"{command} was completed with uflags {uflags:#x}")
        if uflags & abi.UFLAG_READ_LEN and not self._flags & abi.FLAG_READ_LEN:
            report(f"{command} was completed with READ_LEN without the capability")
        if uflags & abi.UFLAG_KEEP_BUF and not self._flags & abi.FLAG_KEEP_BUF:
            report(f"{command} was completed with KEEP_BUF without the capability")
        # Of a command that sends, the kernel ignores it.
        if uflags & abi.UFLAG_READ_LEN and 0 < command.data_in_length < response.read_len:
            report(f"{command} was completed with read_len {response.read_len} of {command.data_in_length}")
        if uflags & abi.UFLAG_UNKNOWN_OP:
            return
        if status not in _STATUSES:
            report(f"{command} was completed with {status:#x}, which is no SAM status")
        if status == CHECK_CONDITION and response.sense[0] & 0x7F not in _SENSE_RESPONSE_CODES:
            report(f"{command} was completed with CHECK CONDITION but no sense data: {response.sense[:18].hex()}")

    def _end(self, command: FakeCommand, response: Response) -> None:
        """Carry a response to the initiator: tcmu_handle_completion()."""
        status, uflags, length = response.status, response.uflags, command.data_in_length
        bidi = bool(command.data_out)
        short = bool(length and not bidi and uflags & abi.UFLAG_READ_LEN and response.read_len)
        transfer = min(length, response.read_len) if short else length
        if (status == CHECK_CONDITION and not short) or uflags & abi.UFLAG_UNKNOWN_OP or command.expired:
            transfer = 0
        pages = command.in_pages if bidi else command.pages
        data = self._data.read(pages, transfer)
        if status in (GOOD, CHECK_CONDITION):
            # After any other status the kernel copies, too, but nobody takes it for data.
            self._data.check_filled(pages, data, str(command))
        expired, command.expired = command.expired, False
        if uflags & abi.UFLAG_KEEP_BUF:
            command.kept = True
            command.stop_timer()
        else:
            self._forget(command)
        if expired:
            return
        if uflags & abi.UFLAG_UNKNOWN_OP:
            command.fail(*COMMUNICATION_FAILURE)
        else:
            sense = response.sense if status == CHECK_CONDITION else b""
            command.finish(status, sense, data, length - transfer if short else 0)

    def _forget(self, command: FakeCommand) -> None:
        """Give back a command's id and pages."""
        del self._commands[command.cmd_id]
        heappush(self._free_ids, command.cmd_id)
        command.kept = command.expired = False
        self._release(command)

    def _release(self, command: FakeCommand) -> None:
        self._data.release(command.pages, command.buffer_length, str(command))
        self._data.release(command.in_pages, command.bidi_length, str(command))
        command.pages, command.in_pages = [], []
