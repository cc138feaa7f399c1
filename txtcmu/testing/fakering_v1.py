"""The command ring of ABI v1 from the kernel's side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from txtcmu.kernel import abi, abi_v1
from txtcmu.testing.fakering import FakeRing, Iovecs, Slot

__all__ = ["FakeRingV1"]


class FakeRingV1(FakeRing):
    """As :class:`~txtcmu.testing.fakering.FakeRing`, with the entries of version 1: PAD and CMD."""

    version = abi_v1.MAILBOX_VERSION

    @classmethod
    def command_size(cls, iovecs: int, cdb: bytes) -> int:
        """Return the length of a CMD entry; there is always room for two iovecs more."""
        return cls._cdb_offset(iovecs) + -(-len(cdb) // abi.ALIGNMENT) * abi.ALIGNMENT

    @staticmethod
    def _cdb_offset(iovecs: int) -> int:
        return max(abi.ENTRY_SIZE, abi_v1.IOVECS_OFFSET + abi.IOVEC.size * (iovecs + 2))

    def push_command(self, cmd_id: int, cdb: bytes, iovecs: Iovecs, bidi: Iovecs) -> None:
        """Queue a CMD entry; the caller has asked :meth:`has_room`."""
        size = self.command_size(len(iovecs), cdb)
        offset = self._pad_before(size)
        entry = bytearray(size)
        cdb_at = self._cdb_offset(len(iovecs))
        abi_v1.REQUEST.pack_into(entry, 0, size | abi.OP_CMD, cmd_id, self._base + offset + cdb_at, len(iovecs))
        for index, iovec in enumerate(iovecs):
            abi.IOVEC.pack_into(entry, abi_v1.IOVECS_OFFSET + abi.IOVEC.size * index, *iovec)
        entry[cdb_at : cdb_at + len(cdb)] = cdb
        self._push(Slot(offset, size, abi.OP_CMD, cmd_id), entry)

    def push_tmr(self, kind: int, ids: Sequence[int]) -> None:
        """Refuse: there are none."""
        raise ValueError("version 1 has no task management entries")

    def _parse(self, entry: bytes) -> tuple[int, int, int, int]:
        (cmd_id,) = abi.CMD_ID.unpack_from(entry, abi.CMD_ID_OFFSET)
        return cmd_id, 0, entry[abi_v1.STATUS_OFFSET], 0

    def _response_bytes(self) -> Iterator[tuple[int, int]]:
        # cmd_id, too: one that was written there is judged for what it is, a completion out of order.
        yield abi.CMD_ID_OFFSET, abi.CMD_ID_OFFSET + abi.CMD_ID.size
        yield abi_v1.STATUS_OFFSET, abi_v1.STATUS_OFFSET + 1
        yield abi.SENSE_OFFSET, abi.ENTRY_SIZE
