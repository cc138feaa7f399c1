"""VERIFY, and COMPARE AND WRITE: blocks are read and compared before anything else."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import MiscompareError
from txtcmu.interfaces import ICompareAndWrite
from txtcmu.iovec import first_difference, gather
from txtcmu.lun.commands.base import Method, data_buffers
from txtcmu.lun.commands.piecewise import PIECE, Piecewise, pieces
from txtcmu.lun.commands.rw import BlockIO, ended
from txtcmu.scsi import opcodes
from txtcmu.scsi.compare import ByteCheck, compare_and_write, verify
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["ComparingCommands"]


class ComparingCommands:
    """What compares (SBC-4, VERIFY and COMPARE AND WRITE commands).

    :ivar methods: what carries out each row.
    """

    def __init__(self, reactor: Any, unit: LogicalUnit, backstore: Any, io: BlockIO) -> None:
        self._reactor = reactor
        self._unit = unit
        self._backstore = backstore
        self._io = io
        self._swap_at_once = ICompareAndWrite.providedBy(backstore)
        self.methods: dict[Opcode, Method] = {
            opcodes.VERIFY_10: self._verify,
            opcodes.VERIFY_12: self._verify,
            opcodes.VERIFY_16: self._verify,
            opcodes.COMPARE_AND_WRITE: self._compare_and_write,
        }

    def _verify(self, row: Opcode, command: Any) -> Deferred[None] | None:
        asked = verify(self._unit, row, command.cdb)
        size = self._unit.block_size
        data = gather(data_buffers(row, command, row.transfer_length(command.cdb, size)))
        if not asked.blocks:
            return None
        if asked.byte_check is ByteCheck.ONE_WITH_ALL:
            data = memoryview(bytes(data) * min(asked.blocks, max(1, PIECE // size)))
        return Piecewise(self._reactor, self._verify_pieces, asked.lba * size, asked.blocks * size, data)

    async def _verify_pieces(self, work: Piecewise, offset: int, length: int, data: memoryview) -> None:
        """Read, and compare with ``data``: nothing, or as long as all of it, or as a piece that stands for each."""
        for start, count in pieces(length, self._unit.block_size):
            found = bytearray(count)
            await work.step(self._io.read(offset + start, count, [memoryview(found)]))
            if not data:
                continue
            at = start if len(data) == length else 0
            differs = first_difference(found, data[at : at + count])
            if differs is not None:
                raise MiscompareError(start + differs)

    def _compare_and_write(self, row: Opcode, command: Any) -> Deferred[None] | None:
        lba, blocks, fua = compare_and_write(self._unit, row, command.cdb)
        length = blocks * self._unit.block_size
        # A copy: it is sliced, and a traceback may hold on to the slices.
        data = memoryview(bytes(gather(data_buffers(row, command, 2 * length))))
        if not length:
            return None
        swap = self._swap if self._swap_at_once else self._read_compare_write
        return self._io.atomic(
            lba * self._unit.block_size,
            length,
            lambda: Piecewise(self._reactor, swap, lba * self._unit.block_size, data[:length], data[length:], fua),
        )

    async def _swap(self, work: Piecewise, offset: int, expected: memoryview, data: memoryview, fua: bool) -> None:
        await _waited(work, ended(self._backstore.compare_and_write(offset, expected, data)))
        await self._settle(work, fua)

    async def _read_compare_write(
        self, work: Piecewise, offset: int, expected: memoryview, data: memoryview, fua: bool
    ) -> None:
        found = bytearray(len(expected))
        await _waited(work, self._io.fetch(offset, len(found), [memoryview(found)]))
        differs = first_difference(found, expected)
        if differs is not None:
            raise MiscompareError(differs)
        await _waited(work, self._io.store(offset, [data]))
        await self._settle(work, fua)

    async def _settle(self, work: Piecewise, fua: bool) -> None:
        await _waited(work, self._io.flush() if fua else self._io.settled(None))


async def _waited(work: Piecewise, result: Deferred[None] | None) -> None:
    """Wait for one of the few steps of a short command: no turn is needed after one that is done at once."""
    if result is not None:
        await work.step(result)
