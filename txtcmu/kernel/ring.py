"""The command ring: SCSI commands out of shared memory, completions into it.

:class:`Ring` works on any writable buffer, so the same class runs on a UIO map and on the fake kernel.  It never
blocks and never calls anybody.

A completion is not written where its command was read.  The kernel walks the slots from the old tail to the new
one and looks each command up by the ``cmd_id`` *found in the slot*; so the n-th completion goes into the n-th
CMD slot, over the request that happened to be there.  Hence everything needed of an entry is copied out by
:meth:`Ring.take`, before any completion can overwrite it.
"""

from __future__ import annotations

from typing import Final

from txtcmu.errors import KernelError, RingError
from txtcmu.kernel import abi, abi_v1
from txtcmu.kernel.ring_v1 import InOrderRing
from txtcmu.kernel.ringbase import Command, RingBase, TaskManagement

__all__ = ["Command", "Ring", "TaskManagement", "open_ring"]

# Names of this module's own: a look-up less for each command.
_request_at: Final = abi.REQUEST.unpack_from
_CDB_LENGTHS: Final = abi.CDB_LENGTHS
_put_cmd_id: Final = abi.CMD_ID.pack_into
_put_response: Final = abi.RESPONSE.pack_into
_CMD_ID_OFFSET: Final = abi.CMD_ID_OFFSET
_RESPONSE_OFFSET: Final = abi.RESPONSE_OFFSET

_CHECK_CONDITION: Final = 0x02
#: ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE: no command that we have sends and receives data.
_BIDIRECTIONAL: Final = bytes([0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])


def open_ring(memory: memoryview, command_type: type[Command] = Command) -> RingBase:
    """Return the ring in ``memory``, of the class that the mailbox's version asks for.

    :raise KernelError: an ABI that is not ours.
    """
    version = abi.MAILBOX.unpack_from(memory)[0]
    if version == abi_v1.MAILBOX_VERSION:
        return InOrderRing(memory, command_type)
    return Ring(memory, command_type)


class Ring(RingBase):
    """A ring of ABI v2, completed in any order.

    A bidirectional command never leaves it: what we know of a command has one buffer.  It is refused by
    :meth:`take`, for with any status but CHECK CONDITION the kernel would send the initiator its Data-In buffer, in
    which other commands' data is.

    :raise KernelError: an ABI that is not ours.
    """

    def __init__(self, memory: memoryview, command_type: type[Command] = Command) -> None:
        version, flags, _, _ = abi.MAILBOX.unpack_from(memory)
        if version != abi.MAILBOX_VERSION:
            raise KernelError(
                f"the kernel's TCMU ring has version {version}, txtcmu speaks 1 and 2: get a newer txtcmu"
            )
        if not flags & abi.FLAG_OUT_OF_ORDER:
            raise KernelError("the kernel's TCMU cannot complete out of order: Linux 4.6 or later is needed")
        super().__init__(memory, command_type)
        self.supports_tmr = bool(flags & abi.FLAG_TMR)
        self.supports_keep_buf = bool(flags & abi.FLAG_KEEP_BUF)
        self.supports_read_len = bool(flags & abi.FLAG_READ_LEN)

    def _command(self, offset: int, length: int) -> Command | None:
        at = self._start + offset
        if length < abi.ENTRY_SIZE:
            raise RingError(f"impossible command entry of {length} bytes")
        _, cmd_id, _, _, count, bidi_count, _, cdb_off, base, size = _request_at(self._memory, at)
        if cmd_id in self.outstanding:
            raise RingError(f"the kernel reused cmd_id {cmd_id} of a command that is still outstanding")
        if abi.IOVECS_OFFSET + (count + bidi_count) * abi.IOVEC.size > length:
            raise RingError(f"impossible command entry of {length} bytes with {count}+{bidi_count} iovecs")
        # As `_cdb` does it: a call less for each command.
        memory, end = self._memory, at + length
        if not at <= cdb_off <= end - 8:
            raise RingError(f"impossible CDB at {cdb_off} of an entry from {at} to {end}")
        cdb_end = cdb_off + (_CDB_LENGTHS[memory[cdb_off]] or 8 + memory[cdb_off + 7])
        if cdb_end > end:
            raise RingError(f"the CDB at {cdb_off} ends behind its entry")
        cdb = bytes(memory[cdb_off:cdb_end])
        if count == 1:
            buffers, total = [self._window(base, size)], size
        elif count:
            buffers = self._windows(at + abi.IOVECS_OFFSET, count)
            total = sum(map(len, buffers))
        else:
            buffers, total = [], 0
        command = self._command_type(cmd_id, cdb, buffers, total)
        self.outstanding[cmd_id] = command
        self._slots.append((offset, command))
        if bidi_count:
            self.complete(command, _CHECK_CONDITION, _BIDIRECTIONAL)
            return None
        return command

    def _other(self, op: int, offset: int, length: int) -> TaskManagement | None:
        at = self._start + offset
        entry = self._task_management(at, length) if op == abi.OP_TMR else None
        if op > abi.OP_TMR:
            self._memory[at + abi.UFLAGS_OFFSET] |= abi.UFLAG_UNKNOWN_OP
        self._slots.append((offset, None))
        return entry

    def _task_management(self, at: int, length: int) -> TaskManagement:
        if length < abi.TMR.size:
            raise RingError(f"impossible TMR entry of {length} bytes")
        _, _, _, _, kind, count = abi.TMR.unpack_from(self._memory, at)
        if abi.TMR_IDS_OFFSET + 2 * count > length:
            raise RingError(f"impossible TMR entry of {length} bytes with {count} commands")
        ids = self._memory[at + abi.TMR_IDS_OFFSET :][: 2 * count].cast("H")
        # An id that is not outstanding was completed before the kernel wrote this, or the kernel has not seen it.
        return TaskManagement(kind, [self.outstanding[each] for each in ids if each in self.outstanding])

    def _respond(self, command: Command, status: int, keep: bool) -> int:
        offset, request = self._slots.popleft()
        while request is None:
            offset, request = self._slots.popleft()
        at = self._start + offset
        read_len = command._read_len if self.supports_read_len else 0
        uflags = (abi.UFLAG_KEEP_BUF if keep else 0) | (abi.UFLAG_READ_LEN if read_len else 0)
        _put_cmd_id(self._memory, at + _CMD_ID_OFFSET, command.cmd_id)
        _put_response(self._memory, at + _RESPONSE_OFFSET, uflags, status, read_len)
        return at
