"""What the rings of both ABI versions share: the commands in them, and how entries are found and passed.

A ring works on any writable buffer, never blocks and never calls anybody.  A subclass says what an entry holds and
where a completion goes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from zope.interface import implementer

from txtcmu.errors import RingError
from txtcmu.interfaces import ICommand
from txtcmu.kernel import abi
from txtcmu.kernel.fence import memory_fence

__all__ = ["Command", "RingBase", "TaskManagement"]

_NO_SENSE: Final = bytes(abi.SENSE_SIZE)
# Names of this module's own: a look-up less for each command.
_CDB_LENGTHS: Final = abi.CDB_LENGTHS
_OP_CMD: Final = abi.OP_CMD
_OP_MASK: Final = abi.OP_MASK


@implementer(ICommand)
class Command:
    """One SCSI command taken from the ring, outstanding until :meth:`RingBase.complete`.

    :ivar cmd_id: the kernel's name for it; reused for another command as soon as this one is completed.
    :ivar cdb: the CDB, as many bytes as its group code says.
    :ivar buffers: windows of the data area, valid while the command is outstanding (or kept).
    :ivar length: their total length in bytes.
    """

    __slots__ = ("_read_len", "buffers", "cdb", "cmd_id", "length")

    def __init__(self, cmd_id: int, cdb: bytes, buffers: list[memoryview], length: int) -> None:
        self.cmd_id = cmd_id
        self.cdb = cdb
        self.buffers = buffers
        self.length = length
        self._read_len = 0

    @property
    def read_len(self) -> int:
        """See :class:`~txtcmu.interfaces.ICommand`; 0 is all of the buffer."""
        return self._read_len

    @read_len.setter
    def read_len(self, count: int) -> None:
        # Here, in the handler's call: what the ring cannot write down would cost the command its end.
        if not isinstance(count, int) or not 0 <= count <= self.length:
            raise ValueError(f"read_len {count!r} is no number of bytes in a buffer of {self.length}")
        self._read_len = count

    def release(self) -> None:
        """Give up the windows: from now on their memory belongs to other commands, or to nobody."""
        for buffer in self.buffers:
            buffer.release()
        self.buffers = []


class TaskManagement:
    """A task management function that the initiator, or the kernel for it, has asked for.

    :ivar kind: TMCU_TMR_*, see :data:`txtcmu.kernel.abi.TMR_TYPES`.
    :ivar commands: those it names that are still outstanding.  It wants no answer, they do.
    """

    __slots__ = ("commands", "kind")

    def __init__(self, kind: int, commands: list[Command]) -> None:
        self.kind = kind
        self.commands = commands

    @property
    def name(self) -> str:
        """Its name in SAM."""
        return abi.TMR_TYPES.get(self.kind, f"task management function {self.kind}")


class RingBase:
    """The user side of one device's ring; a subclass knows the entries of its ABI version.

    :param memory: the whole map, writable, at least as long as the mailbox says.
    :param command_type: what :meth:`take` makes of a CMD entry, called as :class:`Command` is.
    :ivar outstanding: commands taken and not yet completed, by cmd_id.
    :ivar supports_tmr: the kernel can tell of aborts.
    :ivar supports_keep_buf: it can leave us the windows of a completed command.
    :ivar supports_read_len: it can tell the initiator of a residual.
    :raise RingError: a layout that cannot be.
    """

    supports_tmr = False
    supports_keep_buf = False
    supports_read_len = False

    def __init__(self, memory: memoryview, command_type: type[Command] = Command) -> None:
        self._fence = memory_fence()
        _, _, start, size = abi.MAILBOX.unpack_from(memory)
        if start < abi.MAILBOX_SIZE or start % abi.ALIGNMENT or size % abi.ALIGNMENT or start + size > len(memory):
            raise RingError(f"impossible ring: {size} bytes at {start} in a map of {len(memory)}")
        self.outstanding: dict[int, Command] = {}
        self._kept: dict[int, Command] = {}
        self._memory = memory
        # Aligned 32-bit loads and stores: head, tail and each entry's len_op are single words.
        self._words = memory[: start + size].cast("I")
        self._command_type = command_type
        self._start: int = start
        self._size: int = size
        self._data_start = start + size
        self._head = self._next = self._tail = self._words[abi.CMD_TAIL_WORD]
        if self._tail >= size or self._tail % abi.ALIGNMENT:
            raise RingError(f"impossible cmd_tail {self._tail} in a ring of {size} bytes")
        # Slots taken and not yet passed by the tail, oldest first: ring offset, and the command that came in it.
        self._slots: deque[tuple[int, Command | None]] = deque()

    def take(self) -> Command | TaskManagement | None:
        """Return the next entry, or ``None`` when there is none now; what nobody has to answer is passed over.

        :raise RingError: an entry that cannot be; nothing later can be trusted, the device is broken.
        """
        while True:
            at = self._next
            if at == self._head:
                head = self._words[abi.CMD_HEAD_WORD]
                if head == at:
                    return None
                if head >= self._size or head % abi.ALIGNMENT:
                    raise RingError(f"impossible cmd_head {head} in a ring of {self._size} bytes")
                if self._fence is not None:
                    self._fence()
                self._head = head
            len_op = self._words[(self._start + at) >> 2]
            op = len_op & _OP_MASK
            length = len_op - op
            # An entry neither crosses the end of the ring nor the head.
            if length == 0 or at + length > (self._head if self._head > at else self._size):
                raise RingError(f"impossible entry of {length} bytes at {at} (head {self._head}, ring {self._size})")
            entry = self._command(at, length) if op == _OP_CMD else self._other(op, at, length)
            at += length
            self._next = 0 if at == self._size else at
            if entry is not None:
                return entry

    def _command(self, offset: int, length: int) -> Command | None:
        """Make a command of the CMD entry at ``offset`` of the ring, and its slot; ``None`` if it is answered."""
        raise NotImplementedError

    def _other(self, op: int, offset: int, length: int) -> TaskManagement | None:
        """As :meth:`_command`, for an entry of any other operation."""
        raise NotImplementedError

    def complete(self, command: Command, status: int, sense: bytes = b"", *, keep: bool = False) -> None:
        """End ``command``; the kernel sees it after the next :meth:`publish`.

        :param status: SAM status; ``sense`` of up to 96 bytes belongs to CHECK CONDITION.
        :param keep: the initiator gets its answer, but the windows stay until :meth:`kept_freed` (KEEP_BUF).
        :raise RingError: the command is not outstanding on this ring; nothing was written.
        """
        cmd_id = command.cmd_id
        if self.outstanding.get(cmd_id) is not command:
            raise RingError(f"command {cmd_id} is not outstanding: completed twice, too late, or on another ring")
        if keep and not self.supports_keep_buf:
            raise RingError("this kernel cannot keep a completed command's buffer")
        del self.outstanding[cmd_id]
        at = self._respond(command, status, keep)
        if sense:
            # Padded, since the kernel passes on all 96 bytes and the request's iovecs lie beneath.
            at += abi.SENSE_OFFSET
            self._memory[at : at + abi.SENSE_SIZE] = (sense + _NO_SENSE)[: abi.SENSE_SIZE]
        if keep:
            self._kept[cmd_id] = command
        else:
            command.release()

    def _respond(self, command: Command, status: int, keep: bool) -> int:
        """Write all of a response but the sense data; return where in the map its slot is."""
        raise NotImplementedError

    def kept_freed(self, command: Command) -> None:
        """Release the windows of a command completed with ``keep``; call it before the kernel's free_kept_buf."""
        if self._kept.get(command.cmd_id) is not command:
            raise RingError(f"command {command.cmd_id} is not kept")
        del self._kept[command.cmd_id]
        command.release()

    def publish(self) -> bool:
        """Store cmd_tail behind everything completed; return whether it moved, and so a doorbell is due."""
        slots = self._slots
        while slots and slots[0][1] is None:
            slots.popleft()
        tail = slots[0][0] if slots else self._next
        if tail == self._tail:
            return False
        if self._fence is not None:
            self._fence()
        # The kernel may consume this at once, without a doorbell: the slots' bytes had to come before.
        self._words[abi.CMD_TAIL_WORD] = self._tail = tail
        return True

    def close(self) -> None:
        """Release every window, so that the map can be closed; outstanding commands are left to the kernel."""
        for command in (*self.outstanding.values(), *self._kept.values()):
            command.release()
        self.outstanding.clear()
        self._kept.clear()
        self._words.release()
        self._memory.release()

    def _cdb(self, at: int, start: int, end: int) -> bytes:
        """Copy out the CDB at ``at`` of the map, of an entry from ``start`` to ``end`` there."""
        memory = self._memory
        if not start <= at <= end - 8:
            raise RingError(f"impossible CDB at {at} of an entry from {start} to {end}")
        cdb_end = at + (_CDB_LENGTHS[memory[at]] or 8 + memory[at + 7])
        if cdb_end > end:
            raise RingError(f"the CDB at {at} ends behind its entry")
        return bytes(memory[at:cdb_end])

    def _windows(self, at: int, count: int) -> list[memoryview]:
        """Return windows of the data area, as ``count`` iovecs at ``at`` of the map describe them."""
        # Of a copy: an iterator over a memoryview, caught in a garbage cycle with an exception's traceback,
        # crashes Python before 3.12.7 (CPython issue 77894).
        iovecs = abi.IOVEC.iter_unpack(bytes(self._memory[at : at + count * abi.IOVEC.size]))
        return [self._window(base, size) for base, size in iovecs]

    def _window(self, base: int, size: int) -> memoryview:
        if base < self._data_start or base + size > len(self._memory):
            raise RingError(f"an iovec of {size} bytes at {base} is not in the data area")
        return self._memory[base : base + size]
