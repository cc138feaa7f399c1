"""The bare loop: the least that a Python process must do for each command, and the measure for everything else.

No Twisted, no SCSI but READ (10) and WRITE (10), no checks, no objects: entries are unpacked, preadv and pwritev go
straight into the ring's memory, responses are written, the tail is stored and the doorbell rung once per batch.
"""

from __future__ import annotations

import os
from struct import Struct

from benchmarks.producer import Producer
from txtcmu.kernel import abi

_CDB_10 = Struct(">BxIxH")


class BareLoop:
    """Serves a :class:`Producer` from a file descriptor."""

    def __init__(self, producer: Producer, fd: int) -> None:
        self._producer = producer
        self._fd = fd
        self._words = producer.memory[: abi.MAILBOX_SIZE].cast("I")
        self._next = 0

    def turn(self) -> None:
        """Do what is on the ring."""
        memory, fd, start = self._producer.memory, self._fd, abi.MAILBOX_SIZE
        _, _, _, size = abi.MAILBOX.unpack_from(memory)
        self._producer.acknowledge()
        at, head = self._next, self._words[abi.CMD_HEAD_WORD]
        while at != head:
            entry = start + at
            len_op, _, _, _, _, _, _, cdb_off, base, length = abi.REQUEST.unpack_from(memory, entry)
            opcode, lba, _ = _CDB_10.unpack_from(memory, cdb_off)
            window = memory[base : base + length]
            if opcode == 0x28:
                os.preadv(fd, [window], lba * 512)
            else:
                os.pwritev(fd, [window], lba * 512)
            abi.RESPONSE.pack_into(memory, entry + abi.RESPONSE_OFFSET, 0, 0, 0)
            at = (at + (len_op & ~abi.OP_MASK)) % size
        self._next = self._words[abi.CMD_TAIL_WORD] = at
        self._producer.doorbell()
