"""The command ring: SCSI commands out of shared memory, completions into it.

:class:`Ring` works on any writable buffer, so the same class runs on a UIO map and on the fake kernel.  It never
blocks and never calls anybody.

A completion is not written where its command was read.  The kernel walks the slots from the old tail to the new
one and looks each command up by the ``cmd_id`` *found in the slot*; so the n-th completion goes into the n-th
CMD slot, over the request that happened to be there.  Hence everything needed of an entry is copied out by
:meth:`Ring.take`, before any completion can overwrite it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from zope.interface import implementer

from txtcmu.errors import KernelError, RingError
from txtcmu.interfaces import ICommand
from txtcmu.kernel import abi
from txtcmu.kernel.fence import memory_fence

__all__ = ["Command", "Ring", "TaskManagement"]

_NO_SENSE: Final = bytes(abi.SENSE_SIZE)


@implementer(ICommand)
class Command:
    """One SCSI command taken from the ring, outstanding until :meth:`Ring.complete`.

    :ivar cmd_id: the kernel's name for it; reused for another command as soon as this one is completed.
    :ivar cdb: the CDB, as many bytes as its group code says.
    :ivar buffers: windows of the data area, valid while the command is outstanding (or kept).
    :ivar length: their total length in bytes.
    """

    __slots__ = ("buffers", "cdb", "cmd_id", "length")

    def __init__(self, cmd_id: int, cdb: bytes, buffers: list[memoryview], length: int) -> None:
        self.cmd_id = cmd_id
        self.cdb = cdb
        self.buffers = buffers
        self.length = length

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


class Ring:
    """The user side of one device's ring (ABI v2).

    :param memory: the whole map, writable, at least as long as the mailbox says.
    :param command_type: what :meth:`take` makes of a CMD entry, called as :class:`Command` is.
    :raise KernelError: an ABI that is not ours.
    :raise RingError: a layout that cannot be.
    """

    def __init__(self, memory: memoryview, command_type: type[Command] = Command) -> None:
        self._fence = memory_fence()
        version, flags, start, size = abi.MAILBOX.unpack_from(memory)
        if version != abi.MAILBOX_VERSION:
            raise KernelError(
                f"the kernel's TCMU ring has version {version}, txtcmu speaks version 2: Linux 4.6 or later"
            )
        if not flags & abi.FLAG_OUT_OF_ORDER:
            raise KernelError("the kernel's TCMU cannot complete out of order: Linux 4.6 or later is needed")
        if start < abi.MAILBOX_SIZE or start % abi.ALIGNMENT or size % abi.ALIGNMENT or start + size > len(memory):
            raise RingError(f"impossible ring: {size} bytes at {start} in a map of {len(memory)}")
        self.supports_tmr = bool(flags & abi.FLAG_TMR)
        self.supports_keep_buf = bool(flags & abi.FLAG_KEEP_BUF)
        self.supports_read_len = bool(flags & abi.FLAG_READ_LEN)
        #: Commands taken and not yet completed, by cmd_id.
        self.outstanding: dict[int, Command] = {}
        self._memory = memory
        # Aligned 32-bit loads and stores: head, tail and each entry's len_op are single words.
        self._words = memory[: start + size].cast("I")
        self._command_type = command_type
        self._start = start
        self._size = size
        self._data_start = start + size
        self._head = self._next = self._tail = self._words[abi.CMD_TAIL_WORD]
        if self._tail >= size or self._tail % abi.ALIGNMENT:
            raise RingError(f"impossible cmd_tail {self._tail} in a ring of {size} bytes")
        # Slots taken and not yet passed by the tail, oldest first: ring offset, and whether it wants a completion.
        self._slots: deque[tuple[int, bool]] = deque()
        self._kept: dict[int, Command] = {}

    def take(self) -> Command | TaskManagement | None:
        """Return the next entry, or ``None`` when there is none now; PADs and unknown entries are passed over.

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
            length = len_op & ~abi.OP_MASK
            # An entry neither crosses the end of the ring nor the head.
            if length == 0 or at + length > (self._head if self._head > at else self._size):
                raise RingError(f"impossible entry of {length} bytes at {at} (head {self._head}, ring {self._size})")
            op = len_op & abi.OP_MASK
            if op == abi.OP_CMD:
                entry: Command | TaskManagement | None = self._command(self._start + at, length)
                self._slots.append((at, True))
            else:
                entry = self._task_management(self._start + at, length) if op == abi.OP_TMR else None
                if op > abi.OP_TMR:
                    self._memory[self._start + at + abi.UFLAGS_OFFSET] |= abi.UFLAG_UNKNOWN_OP
                self._slots.append((at, False))
            at += length
            self._next = 0 if at == self._size else at
            if entry is not None:
                return entry

    def _command(self, at: int, length: int) -> Command:
        """Copy a CMD entry out; ``at`` is its offset in the map."""
        memory = self._memory
        if length < abi.ENTRY_SIZE:
            raise RingError(f"impossible command entry of {length} bytes")
        _, cmd_id, _, _, count, bidi_count, _, cdb_off, base, size = abi.REQUEST.unpack_from(memory, at)
        if cmd_id in self.outstanding:
            raise RingError(f"the kernel reused cmd_id {cmd_id} of a command that is still outstanding")
        if abi.IOVECS_OFFSET + (count + bidi_count) * abi.IOVEC.size > length or not at <= cdb_off <= at + length - 8:
            raise RingError(f"impossible command entry of {length} bytes with {count}+{bidi_count} iovecs")
        cdb_end = cdb_off + abi.cdb_length(memory[cdb_off], memory[cdb_off + 7])
        if cdb_end > at + length:
            raise RingError(f"the CDB at {cdb_off} ends behind its entry")
        if count == 1:
            buffers, total = [self._window(base, size)], size
        elif count:
            # Of a copy: an iterator over a memoryview, caught in a garbage cycle with an exception's traceback,
            # crashes Python before 3.12.7 (CPython issue 77894).
            iovecs = abi.IOVEC.iter_unpack(bytes(memory[at + abi.IOVECS_OFFSET :][: count * abi.IOVEC.size]))
            buffers = [self._window(base, size) for base, size in iovecs]
            total = sum(map(len, buffers))
        else:
            buffers, total = [], 0
        command = self._command_type(cmd_id, bytes(memory[cdb_off:cdb_end]), buffers, total)
        self.outstanding[cmd_id] = command
        return command

    def _window(self, base: int, size: int) -> memoryview:
        if base < self._data_start or base + size > len(self._memory):
            raise RingError(f"an iovec of {size} bytes at {base} is not in the data area")
        return self._memory[base : base + size]

    def _task_management(self, at: int, length: int) -> TaskManagement:
        if length < abi.TMR.size:
            raise RingError(f"impossible TMR entry of {length} bytes")
        _, _, _, _, kind, count = abi.TMR.unpack_from(self._memory, at)
        if abi.TMR_IDS_OFFSET + 2 * count > length:
            raise RingError(f"impossible TMR entry of {length} bytes with {count} commands")
        ids = self._memory[at + abi.TMR_IDS_OFFSET :][: 2 * count].cast("H")
        # An id that is not outstanding was completed before the kernel wrote this, or the kernel has not seen it.
        return TaskManagement(kind, [self.outstanding[each] for each in ids if each in self.outstanding])

    def complete(
        self, command: Command, status: int, sense: bytes = b"", *, keep: bool = False, read_len: int = 0
    ) -> None:
        """End ``command``; the kernel sees it after the next :meth:`publish`.

        :param status: SAM status; ``sense`` of up to 96 bytes belongs to CHECK CONDITION.
        :param keep: the initiator gets its answer, but the windows stay until :meth:`kept_freed` (KEEP_BUF).
        :param read_len: bytes of Data-In that are valid, when fewer than the buffer holds (READ_LEN); 0 = all.
        :raise RingError: the command is not outstanding on this ring; nothing was written.
        """
        cmd_id = command.cmd_id
        if self.outstanding.get(cmd_id) is not command:
            raise RingError(f"command {cmd_id} is not outstanding: completed twice, too late, or on another ring")
        if keep and not self.supports_keep_buf:
            raise RingError("this kernel cannot keep a completed command's buffer")
        del self.outstanding[cmd_id]
        offset, is_command = self._slots.popleft()
        while not is_command:
            offset, is_command = self._slots.popleft()
        at = self._start + offset
        memory = self._memory
        uflags = (abi.UFLAG_KEEP_BUF if keep else 0) | (abi.UFLAG_READ_LEN if read_len else 0)
        abi.CMD_ID.pack_into(memory, at + abi.CMD_ID_OFFSET, cmd_id)
        abi.RESPONSE.pack_into(memory, at + abi.RESPONSE_OFFSET, uflags, status, read_len)
        if sense:
            # Padded, since the kernel passes on all 96 bytes and the request's iovecs lie beneath.
            memory[at + abi.SENSE_OFFSET : at + abi.SENSE_OFFSET + abi.SENSE_SIZE] = (sense + _NO_SENSE)[
                : abi.SENSE_SIZE
            ]
        if keep:
            self._kept[cmd_id] = command
        else:
            command.release()

    def kept_freed(self, command: Command) -> None:
        """Release the windows of a command completed with ``keep``; call it before the kernel's free_kept_buf."""
        if self._kept.get(command.cmd_id) is not command:
            raise RingError(f"command {command.cmd_id} is not kept")
        del self._kept[command.cmd_id]
        command.release()

    def publish(self) -> bool:
        """Store cmd_tail behind everything completed; return whether it moved, and so a doorbell is due."""
        slots = self._slots
        while slots and not slots[0][1]:
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
