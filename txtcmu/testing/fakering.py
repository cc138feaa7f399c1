"""The mailbox and the command ring from the kernel's side, suspicious of whoever is on the other one.

:class:`FakeRing` writes entries as ``target_core_user.c`` does and keeps a copy of every byte that belongs to the
kernel: whatever differs when it looks again was written by somebody who may not.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from txtcmu.kernel import abi

__all__ = ["FakeRing", "Iovecs", "Report", "Response", "Slot"]

Report = Callable[[str], None]
Iovecs = Sequence[tuple[int, int]]

_TAIL_BYTE = 4 * abi.CMD_TAIL_WORD
_HEAD_BYTE = 4 * abi.CMD_HEAD_WORD
_NAMES = {abi.OP_PAD: "PAD", abi.OP_CMD: "CMD", abi.OP_TMR: "TMR"}


def _round_up(size: int) -> int:
    return -(-size // abi.ALIGNMENT) * abi.ALIGNMENT


@dataclass(slots=True)
class Slot:
    """An entry that the kernel has not cleaned up yet."""

    offset: int
    length: int
    op: int
    cmd_id: int

    def __str__(self) -> str:
        name = _NAMES.get(self.op, f"op {self.op}")
        return f"{name} entry at {self.offset}" + (f" (cmd_id {self.cmd_id})" if self.cmd_id else "")


@dataclass(slots=True)
class Response:
    """What the kernel finds in the slot of a command that ``cmd_tail`` has passed.

    :ivar own_id: the id that this slot was issued with.
    :ivar answered: whether any byte of the slot differs from the request.
    """

    cmd_id: int
    uflags: int
    status: int
    read_len: int
    sense: bytes
    own_id: int
    answered: bool


class FakeRing:
    """Producer of a command ring, and reader of the responses that overlay it (ABI v2).

    :cvar version: of the mailbox.

    :param memory: the whole map.
    :param report: called with one line for each rule broken.
    """

    version: ClassVar[int] = abi.MAILBOX_VERSION

    def __init__(self, memory: memoryview, cmdr_size: int, flags: int, report: Report) -> None:
        self._memory = memory
        self._words = memory[: abi.MAILBOX_SIZE].cast("I")
        self._base = abi.MAILBOX_SIZE
        self._end = self._base + cmdr_size
        self._shadow = bytearray(self._end)
        self._report = report
        self._slots: deque[Slot] = deque()
        self.size = cmdr_size
        self.head = 0
        self.cleaned = 0
        self._put(0, abi.MAILBOX.pack(self.version, flags, self._base, cmdr_size))

    @property
    def tail(self) -> int:
        """``cmd_tail``, as the user side left it."""
        return self._words[abi.CMD_TAIL_WORD]

    @property
    def empty(self) -> bool:
        """Whether every entry was passed by ``cmd_tail`` and cleaned up."""
        return self.head == self.tail == self.cleaned

    def reset(self) -> None:
        """Empty the ring; the kernel writes ``cmd_tail`` here, as it never does elsewhere."""
        for start, stop in self._writable():
            self._shadow[start:stop] = self._memory[start:stop]
        self._slots.clear()
        self.cleaned = 0
        self._words[abi.CMD_TAIL_WORD] = 0
        self._store_head(0)

    # Entries.

    @classmethod
    def command_size(cls, iovecs: int, cdb: bytes) -> int:
        """Return the length of a CMD entry."""
        return _round_up(cls._cdb_offset(iovecs) + len(cdb))

    @staticmethod
    def _cdb_offset(iovecs: int) -> int:
        return max(abi.ENTRY_SIZE, abi.IOVECS_OFFSET + abi.IOVEC.size * iovecs)

    @staticmethod
    def tmr_size(ids: int) -> int:
        """Return the length of a TMR entry."""
        return _round_up(abi.TMR_IDS_OFFSET + 2 * ids)

    def has_room(self, size: int) -> bool:
        """Whether an entry fits, with the PAD it may need before it; one byte stays free."""
        to_end = self.size - self.head
        needed = size if to_end >= size else size + to_end
        return self.size - (self.head - self.cleaned) % self.size - 1 >= needed

    def push_command(self, cmd_id: int, cdb: bytes, iovecs: Iovecs, bidi: Iovecs) -> None:
        """Queue a CMD entry; the caller has asked :meth:`has_room`."""
        iov_cnt = len(iovecs) + len(bidi)
        size = self.command_size(iov_cnt, cdb)
        offset = self._pad_before(size)
        entry = bytearray(size)
        cdb_at = self._cdb_offset(iov_cnt)
        header = (size | abi.OP_CMD, cmd_id, 0, 0)
        first = iovecs[0] if iovecs else (bidi[0] if bidi else (0, 0))
        abi.REQUEST.pack_into(entry, 0, *header, len(iovecs), len(bidi), 0, self._base + offset + cdb_at, *first)
        for index, iovec in enumerate((*iovecs, *bidi)):
            abi.IOVEC.pack_into(entry, abi.IOVECS_OFFSET + abi.IOVEC.size * index, *iovec)
        entry[cdb_at : cdb_at + len(cdb)] = cdb
        self._push(Slot(offset, size, abi.OP_CMD, cmd_id), entry)

    def push_tmr(self, kind: int, ids: Sequence[int]) -> None:
        """Queue a TMR entry; the caller has asked :meth:`has_room`."""
        size = self.tmr_size(len(ids))
        offset = self._pad_before(size)
        entry = bytearray(size)
        abi.TMR.pack_into(entry, 0, size | abi.OP_TMR, 0, 0, 0, kind, len(ids))
        for index, cmd_id in enumerate(ids):
            abi.CMD_ID.pack_into(entry, abi.TMR_IDS_OFFSET + abi.CMD_ID.size * index, cmd_id)
        self._push(Slot(offset, size, abi.OP_TMR, 0), entry)

    def push_unknown(self, op: int, size: int) -> None:
        """Queue an entry of a kernel to come; the caller has asked :meth:`has_room`."""
        offset = self._pad_before(size)
        entry = bytearray(size)
        abi.HEADER.pack_into(entry, 0, size | op, 0, 0, 0)
        self._push(Slot(offset, size, op, 0), entry)

    def _pad_before(self, size: int) -> int:
        """Fill the end of the ring with a PAD if ``size`` does not fit there; return where the entry goes."""
        to_end = self.size - self.head
        if to_end < size:
            # Only the header of a PAD is written: behind it, as in the real one, old entries show.
            self._push(Slot(self.head, to_end, abi.OP_PAD, 0), abi.HEADER.pack(to_end | abi.OP_PAD, 0, 0, 0))
        return self.head

    def _push(self, slot: Slot, entry: bytes | bytearray) -> None:
        self._put(self._base + slot.offset, entry)
        self._slots.append(slot)
        self._store_head((slot.offset + slot.length) % self.size)

    def _store_head(self, head: int) -> None:
        self.head = head
        self._put(_HEAD_BYTE, head.to_bytes(4, sys.byteorder))

    def _put(self, at: int, data: bytes | bytearray) -> None:
        self._memory[at : at + len(data)] = data
        self._shadow[at : at + len(data)] = data

    # Responses.

    def responses(self) -> Iterator[Response]:
        """Walk the entries up to ``cmd_tail``, cleaning up each one when the next is asked for.

        A caller that stops half way leaves the entry it was given where it is.
        """
        if not self._tail_is_sound():
            return
        while self.cleaned != self.tail:
            slot = self._slots[0]
            if slot.op == abi.OP_CMD:
                yield self._response(slot)
                at = self._base + slot.offset
                self._shadow[at : at + abi.ENTRY_SIZE] = self._memory[at : at + abi.ENTRY_SIZE]
            elif slot.op not in _NAMES:
                self._check_refusal(slot)
            self._slots.popleft()
            self.cleaned = (slot.offset + slot.length) % self.size

    def _tail_is_sound(self) -> bool:
        tail = self.tail
        if tail == self.head or any(slot.offset == tail for slot in self._slots):
            return True
        self._report(f"cmd_tail {tail} is no entry's boundary from {self.cleaned} up to cmd_head {self.head}")
        return False

    def _response(self, slot: Slot) -> Response:
        at = self._base + slot.offset
        entry = bytes(self._memory[at : at + abi.ENTRY_SIZE])
        cmd_id, uflags, status, read_len = self._parse(entry)
        return Response(
            cmd_id,
            uflags,
            status,
            read_len,
            entry[abi.SENSE_OFFSET :],
            slot.cmd_id,
            entry != self._shadow[at : at + abi.ENTRY_SIZE],
        )

    def _parse(self, entry: bytes) -> tuple[int, int, int, int]:
        """Return cmd_id, uflags, status and read_len of a response."""
        (cmd_id,) = abi.CMD_ID.unpack_from(entry, abi.CMD_ID_OFFSET)
        return cmd_id, *abi.RESPONSE.unpack_from(entry, abi.RESPONSE_OFFSET)

    def _response_bytes(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges of a CMD entry that a response may change."""
        yield abi.CMD_ID_OFFSET, abi.CMD_ID_OFFSET + abi.CMD_ID.size
        yield abi.RESPONSE_OFFSET, abi.ENTRY_SIZE

    def _check_refusal(self, slot: Slot) -> None:
        at = self._base + slot.offset + abi.UFLAGS_OFFSET
        if self._memory[at] != abi.UFLAG_UNKNOWN_OP:
            self._report(f"cmd_tail passed the {slot} with uflags {self._memory[at]:#x}, not UNKNOWN_OP")
        self._shadow[at] = self._memory[at]

    # The kernel's own bytes.

    def check(self) -> None:
        """Report every byte written that is neither ``cmd_tail`` nor in the response of a slot not yet cleaned."""
        found = bytes(self._memory[: self._end])
        if found == self._shadow:
            return
        expected = bytearray(self._shadow)
        for start, stop in self._writable():
            expected[start:stop] = found[start:stop]
        if expected == found:
            return
        for start, stop in _differences(expected, found):
            self._report(
                f"{stop - start} byte(s) of the kernel's at {start} of the map changed from"
                f" {expected[start:stop].hex()} to {found[start:stop].hex()}: {self._whose(start)}"
            )
            self._shadow[start:stop] = found[start:stop]

    def _writable(self) -> Iterator[tuple[int, int]]:
        yield _TAIL_BYTE, _TAIL_BYTE + 4
        for slot in self._slots:
            at = self._base + slot.offset
            if slot.op == abi.OP_CMD:
                for start, stop in self._response_bytes():
                    yield at + start, at + stop
            elif slot.op not in _NAMES:
                yield at + abi.UFLAGS_OFFSET, at + abi.UFLAGS_OFFSET + 1

    def _whose(self, at: int) -> str:
        if at < self._base:
            return "cmd_head" if _HEAD_BYTE <= at < _HEAD_BYTE + 4 else "the mailbox"
        at -= self._base
        for slot in self._slots:
            if slot.offset <= at < slot.offset + slot.length:
                return f"byte {at - slot.offset} of the {slot}"
        return "a part of the ring that no entry occupies"


def _differences(expected: bytearray, found: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of bytes that differ."""
    start = None
    for at, (old, new) in enumerate(zip(expected, found, strict=True)):
        if old != new and start is None:
            start = at
        elif old == new and start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(found)
