"""Any bytes in a ring: what holds whatever a kernel gone mad writes there.

No exception leaves the reader.  Either it takes everything and every command ends, or it says once that the ring is
broken, and then nothing more happens.  Only cmd_tail, responses of commands taken, the refusal of unknown entries and
the windows that iovecs describe are ever written to.
"""

from __future__ import annotations

import os
from struct import pack_into
from typing import Any

from txtcmu.errors import RingError
from txtcmu.iovec import scatter
from txtcmu.kernel import abi, abi_v1
from txtcmu.kernel.ring import Command, TaskManagement, open_ring
from txtcmu.kernel.uio import RingReader
from txtcmu.testing.reactor import FakeReactor

__all__ = ["DATA", "DATA_SIZE", "RING_SIZE", "FuzzedRing"]

RING_SIZE = 1024
BASE = abi.MAILBOX_SIZE
DATA = BASE + RING_SIZE
DATA_SIZE = 4096
_TAIL = range(4 * abi.CMD_TAIL_WORD, 4 * abi.CMD_TAIL_WORD + 4)


class _UIO:
    """A map without a kernel behind it."""

    def __init__(self, memory: bytearray) -> None:
        self.memory = memoryview(memory)
        self.doorbells = 0
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def acknowledge(self) -> None:
        pass

    def doorbell(self) -> None:
        self.doorbells += 1

    def close(self) -> None:
        os.close(self._fd)


class FuzzedRing:
    """A reader on a map whose ring holds ``entries``, from its beginning up to ``head``."""

    def __init__(self, version: int, entries: bytes, head: int) -> None:
        self._memory = bytearray(DATA + DATA_SIZE)
        self._memory[DATA:] = bytes(range(256)) * (DATA_SIZE // 256)
        flags = 0x0F if version == 2 else 0
        abi.MAILBOX.pack_into(self._memory, 0, version, flags, BASE, RING_SIZE)
        self._memory[BASE : BASE + RING_SIZE] = entries[:RING_SIZE].ljust(RING_SIZE, b"\0")
        pack_into("=I", self._memory, 4 * abi.CMD_HEAD_WORD, head)
        self._head = head
        self._version = version
        self._before = bytes(self._memory)
        self._uio = _UIO(self._memory)
        self._reactor = FakeReactor()
        self._ring = open_ring(self._uio.memory)
        self._reader = RingReader(self._reactor, self._uio, self._ring, self)
        self._received: list[Command] = []
        self._windows: list[tuple[int, int]] = []
        self._broken: list[RingError] = []

    # RingConsumer

    def command_received(self, command: Any) -> None:
        """Answer every other command at once, and the rest later."""
        assert isinstance(command, Command)
        assert not self._broken
        assert command.length == sum(map(len, command.buffers))
        self._received.append(command)
        if len(self._received) % 2:
            self._answer(command)

    def _answer(self, command: Command) -> None:
        scatter(b"\xee" * command.length, command.buffers)
        self._ring.complete(command, 0x02, b"\xdd" * 18)
        self._reader.completed()

    def task_management_received(self, request: TaskManagement) -> None:
        """See that it names commands that are outstanding."""
        assert all(self._ring.outstanding.get(command.cmd_id) is command for command in request.commands)

    def device_lost(self) -> None:
        """Fail: it is not."""
        raise AssertionError("the device was not lost")

    def ring_broken(self, error: RingError) -> None:
        """Remember it."""
        self._broken.append(error)

    def run(self) -> str | None:
        """Read the ring; return why it is broken, or ``None``."""
        self._reader.start()
        self._reactor.settle()
        for command in list(self._ring.outstanding.values()):
            self._answer(command)
        self._reactor.settle()
        self._check_memory()
        tail = int.from_bytes(self._memory[_TAIL.start : _TAIL.stop], "little")
        assert len(self._broken) <= 1, "it is said once"
        if self._broken:
            assert "\n" not in str(self._broken[0])
            assert not self._reactor.readers, "a broken ring is not read"
            before, doorbells = bytes(self._memory), self._uio.doorbells
            self._reader.doRead()
            self._reactor.settle()
            assert (bytes(self._memory), self._uio.doorbells) == (before, doorbells)
        else:
            assert tail == self._head, "everything was taken and has ended"
        self._reader.stop()
        self._ring.close()
        self._uio.close()
        return str(self._broken[0]) if self._broken else None

    def _check_memory(self) -> None:
        """See that nothing was written but where it may be."""
        allowed = set(_TAIL)
        at = 0
        while at < RING_SIZE:  # every entry that can have been taken; behind an impossible one there is none
            len_op = int.from_bytes(self._before[BASE + at : BASE + at + 4], "little")
            length, op = len_op & ~abi.OP_MASK, len_op & abi.OP_MASK
            if not length:
                break
            start = BASE + at
            if op == abi.OP_CMD and self._version == 2:
                allowed |= {start + 4, start + 5, *range(start + 7, start + 112)}
            elif op == abi.OP_CMD:
                allowed |= {start + 8, *range(start + 16, start + 112)}
            elif op > abi.OP_TMR:
                allowed.add(start + abi.UFLAGS_OFFSET)
            if op == abi.OP_CMD:
                allowed |= self._described(start, min(length, DATA - start))
            at += length
        changed = {at for at, byte in enumerate(self._memory) if byte != self._before[at]}
        assert changed <= allowed, f"bytes {sorted(changed - allowed)[:20]} were written to"

    def _described(self, start: int, length: int) -> set[int]:
        """Return the bytes of the data area that the iovecs of an entry describe."""
        first = abi.IOVECS_OFFSET if self._version == 2 else abi_v1.IOVECS_OFFSET
        found: set[int] = set()
        for at in range(start + first, start + length - 15, 16):
            base, size = abi.IOVEC.unpack_from(self._before, at)
            found |= set(range(max(base, DATA), min(base + size, DATA + DATA_SIZE)))
        return found
