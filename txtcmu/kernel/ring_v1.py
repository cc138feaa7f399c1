"""The command ring of ABI v1, as the original design of TCMU has it: what comes first ends first.

There the data area is a ring, too: the kernel finds the Data-In of a completion at the data ring's tail, and frees as
much as its command had.  So a completion stays in the slot of its own command, and waits there for all before it.
"""

from __future__ import annotations

from txtcmu.errors import RingError
from txtcmu.kernel import abi, abi_v1
from txtcmu.kernel.ringbase import Command, RingBase

__all__ = ["InOrderRing"]


class InOrderRing(RingBase):
    """A ring of ABI v1: without task management, READ_LEN and KEEP_BUF.

    Commands may be completed in any order; the kernel sees them in the order in which they came.
    """

    def __init__(self, memory: memoryview, command_type: type[Command] = Command) -> None:
        super().__init__(memory, command_type)
        self._offsets: dict[Command, int] = {}

    def _command(self, offset: int, length: int) -> Command:
        at = self._start + offset
        if length < abi.ENTRY_SIZE:
            raise RingError(f"impossible command entry of {length} bytes")
        _, cmd_id, cdb_off, count = abi_v1.REQUEST.unpack_from(self._memory, at)
        if cmd_id in self.outstanding:
            raise RingError(f"the kernel reused cmd_id {cmd_id} of a command that is still outstanding")
        if abi_v1.IOVECS_OFFSET + count * abi.IOVEC.size > length:
            raise RingError(f"impossible command entry of {length} bytes with {count} iovecs")
        cdb = self._cdb(cdb_off, at, at + length)
        buffers = self._windows(at + abi_v1.IOVECS_OFFSET, count)
        command = self._command_type(cmd_id, cdb, buffers, sum(map(len, buffers)))
        self.outstanding[cmd_id] = command
        self._offsets[command] = offset
        self._slots.append((offset, command))
        return command

    def _other(self, op: int, offset: int, length: int) -> None:
        if op != abi.OP_PAD:
            raise RingError(f"impossible entry of operation {op} in a ring of version 1")
        self._slots.append((offset, None))

    def _respond(self, command: Command, status: int, keep: bool) -> int:
        at = self._start + self._offsets.pop(command)
        self._memory[at + abi_v1.STATUS_OFFSET] = status
        slots = self._slots
        while slots and slots[0][1] not in self._offsets:
            slots.popleft()
        return at
