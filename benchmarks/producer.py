"""The kernel's side of a ring, as fast as Python goes: it keeps a number of 4 KiB READs and WRITEs outstanding.

It trusts its user and checks nothing (that is the fake kernel's work), so that it costs little beside what is
measured.  Entries have one size and the ring is a multiple of it, so there are no PADs.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import Final

from txtcmu.kernel import abi

BLOCK: Final = 4096
ENTRY: Final = 128  # 112 bytes and a CDB of up to 16
SLOTS: Final = 1024
RING: Final = ENTRY * SLOTS
DISK_BLOCKS: Final = 4096  # 16 MiB

_CDB_10: Final = Struct(">BxIxHx")
_IDS: Final = abi.CMD_ID.unpack_from


class Producer:
    """A ring, its data area, and the commands in it; it is its own UIO device.

    :param depth: commands outstanding at a time.
    :param eager: put new commands on the ring as soon as the doorbell rings, and not only when told.
    :ivar completed: commands completed so far.
    """

    def __init__(self, depth: int, *, eager: bool = False) -> None:
        self._depth = depth
        self._eager = eager
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._map = mmap.mmap(-1, abi.MAILBOX_SIZE + RING + (depth + 1) * BLOCK)
        self.memory = memoryview(self._map)
        abi.MAILBOX.pack_into(self.memory, 0, 2, 0xF, abi.MAILBOX_SIZE, RING)
        self._view = memoryview(self._map)
        self._words = self._view[: abi.MAILBOX_SIZE].cast("I")
        self._head = self._tail = 0
        self._entries = [self._entry(cmd_id, number) for cmd_id in range(1, depth + 1) for number in range(8)]
        self._free = list(range(depth))
        self._turn = 0
        self.completed = 0

    def _entry(self, cmd_id: int, number: int) -> list[bytes]:
        """Return an entry at each place of the ring: only cdb_off differs, so it is patched when used."""
        write = number % 10 < 3
        lba = (cmd_id * 37 + number * 131) % DISK_BLOCKS * (BLOCK // 512)
        entry = bytearray(ENTRY)
        data = abi.MAILBOX_SIZE + RING + cmd_id * BLOCK
        abi.REQUEST.pack_into(entry, 0, ENTRY | abi.OP_CMD, cmd_id, 0, 0, 1, 0, 0, 0, data, BLOCK)
        _CDB_10.pack_into(entry, abi.ENTRY_SIZE, 0x2A if write else 0x28, lba, BLOCK // 512)
        return [bytes(entry[:24]), bytes(entry[32:])]

    def refill(self) -> None:
        """Put commands on the ring until ``depth`` are outstanding, and raise one event."""
        memory, head = self._view, self._head
        for free in self._free:
            self._turn += 1
            before, behind = self._entries[free * 8 + self._turn % 8]
            at = abi.MAILBOX_SIZE + head
            memory[at : at + 24] = before
            _U64.pack_into(memory, at + 24, at + abi.ENTRY_SIZE)
            memory[at + 32 : at + ENTRY] = behind
            head = (head + ENTRY) % RING
        self._free.clear()
        self._head = self._words[abi.CMD_HEAD_WORD] = head
        os.eventfd_write(self._fd, 1)

    def collect(self) -> None:
        """Take completions up to cmd_tail."""
        tail, end, memory = self._tail, self._words[abi.CMD_TAIL_WORD], self._view
        while tail != end:
            (cmd_id,) = _IDS(memory, abi.MAILBOX_SIZE + tail + abi.CMD_ID_OFFSET)
            self._free.append(cmd_id - 1)
            tail = (tail + ENTRY) % RING
            self.completed += 1
        self._tail = tail

    # txtcmu.kernel.uio.UIO

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def acknowledge(self) -> None:
        """Clear the event, by a system call as on a real device."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def doorbell(self) -> None:
        """Ring: a system call, as on a real device."""
        os.eventfd_write(self._bell, 1)
        if self._eager:
            self.collect()
            self.refill()

    def close(self) -> None:
        """Nothing: the measurement ends with its process."""


_U64: Final = Struct("=Q")
