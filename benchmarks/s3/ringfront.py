"""The kernel's side of a TCMU ring that another process serves, as fast as Python goes.

Like :class:`benchmarks.producer.Producer` it trusts its user: an entry of one length for each command, and a window of
the data area for each slot.  Events and doorbells are eventfds.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from attrs import asdict, frozen

from txtcmu.kernel import abi
from txtcmu.kernel.fence import memory_fence

__all__ = ["SECTOR", "RingFront", "SharedRing"]

SECTOR: Final = 512
_ENTRY: Final = 128  # 112 bytes and a CDB of 16
_ENTRIES: Final = 511
_RING: Final = _ENTRY * _ENTRIES  # with the mailbox, 64 KiB
_DATA: Final = abi.MAILBOX_SIZE + _RING
_CDB_16: Final = Struct(">BxQIxx")
_TEST_UNIT_READY: Final = 0x00
_READ: Final = 0x88
_WRITE: Final = 0x8A
_SYNCHRONIZE_CACHE: Final = 0x91
_UNIT_ATTENTION: Final = 0x06
_PATIENCE: Final = 120_000


@frozen
class SharedRing:
    """What the two processes share; both inherit the descriptors under these numbers.

    :ivar memory: the map, and ``size``: its bytes.
    :ivar event: tells of commands, and ``doorbell``: of completions.
    """

    memory: int
    size: int
    event: int
    doorbell: int

    @classmethod
    def make(cls, depth: int, unit: int) -> SharedRing:
        """Make a ring for ``depth`` commands of at most ``unit`` bytes."""
        size = _DATA + depth * unit
        memory = os.memfd_create("ring")
        os.ftruncate(memory, size)
        ring = cls(memory, size, os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK))
        flags = abi.FLAG_OUT_OF_ORDER | abi.FLAG_READ_LEN
        abi.MAILBOX.pack_into(ring.map(), 0, abi.MAILBOX_VERSION, flags, abi.MAILBOX_SIZE, _RING)
        return ring

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """Those that a process inherits."""
        return self.memory, self.event, self.doorbell

    @property
    def options(self) -> dict[str, Any]:
        """What the constructor wants."""
        return asdict(self)

    def map(self) -> memoryview:
        """Map the memory."""
        return memoryview(mmap.mmap(self.memory, self.size))

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class RingFront:
    """The front end of a LUN; see :class:`benchmarks.s3.generator.Front`."""

    def __init__(self, ring: SharedRing, depth: int, unit: int) -> None:
        self._ring = ring
        self._unit = unit
        self._memory = ring.map()
        self._words = self._memory[: abi.MAILBOX_SIZE].cast("I")
        self.buffers = [self._memory[at : at + unit] for at in range(_DATA, _DATA + depth * unit, unit)]
        self._head = self._tail = self._words[abi.CMD_HEAD_WORD]
        self._fence: Callable[[], object] | None = memory_fence()
        self._bell = select.poll()
        self._bell.register(ring.doorbell, select.POLLIN)
        self._clear_attentions()

    def _clear_attentions(self) -> None:
        """Hear what a new initiator is told, once for each."""
        while True:
            self._push(0, _TEST_UNIT_READY, 0, 0)
            try:
                self.wait()
                return
            except UnitAttention:
                pass

    def write(self, slot: int, offset: int) -> None:
        """See Front."""
        self._push(slot, _WRITE, offset, self._unit)

    def read(self, slot: int, offset: int) -> None:
        """See Front."""
        self._push(slot, _READ, offset, self._unit)

    def flush(self, slot: int) -> None:
        """See Front."""
        self._push(slot, _SYNCHRONIZE_CACHE, 0, 0)

    def _push(self, slot: int, opcode: int, offset: int, length: int) -> None:
        memory, at = self._memory, abi.MAILBOX_SIZE + self._head
        data, cdb = _DATA + slot * self._unit, at + abi.ENTRY_SIZE
        iovecs = 1 if length else 0
        abi.REQUEST.pack_into(memory, at, _ENTRY | abi.OP_CMD, slot + 1, 0, 0, iovecs, 0, 0, cdb, data, length)
        _CDB_16.pack_into(memory, cdb, opcode, offset // SECTOR, length // SECTOR)
        self._head = (self._head + _ENTRY) % _RING

    def wait(self) -> list[int]:
        """See Front.

        :raise OSError: a command failed, or nothing has happened for two minutes.
        """
        words = self._words
        if words[abi.CMD_HEAD_WORD] != self._head:
            if self._fence is not None:
                self._fence()
            words[abi.CMD_HEAD_WORD] = self._head
            os.eventfd_write(self._ring.event, 1)
        while words[abi.CMD_TAIL_WORD] == self._tail:
            if not self._bell.poll(_PATIENCE):
                raise TimeoutError("nobody answers on the ring")
            try:
                os.eventfd_read(self._ring.doorbell)
            except BlockingIOError:
                pass
        return self._collect()

    def _collect(self) -> list[int]:
        memory, end = self._memory, self._words[abi.CMD_TAIL_WORD]
        if self._fence is not None:
            self._fence()
        ended = []
        while self._tail != end:
            at = abi.MAILBOX_SIZE + self._tail
            (cmd_id,) = abi.CMD_ID.unpack_from(memory, at + abi.CMD_ID_OFFSET)
            _, status, _ = abi.RESPONSE.unpack_from(memory, at + abi.RESPONSE_OFFSET)
            self._tail = (self._tail + _ENTRY) % _RING
            if status:
                raise _failure(status, bytes(memory[at + abi.SENSE_OFFSET :][:18]))
            ended.append(cmd_id - 1)
        return ended

    def close(self) -> None:
        """See Front: the memory goes with the process."""


class UnitAttention(OSError):  # noqa: N818 - SCSI's word
    """The device has something to tell; the command was not carried out."""


def _failure(status: int, sense: bytes) -> OSError:
    if status == 0x02 and sense[2] & 0xF == _UNIT_ATTENTION:
        return UnitAttention()
    return OSError(f"a command ended with status {status:#04x}, sense data {sense.hex()}")
