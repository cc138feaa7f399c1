"""UNMAP, WRITE SAME and GET LBA STATUS: blocks by the range, given back, made all the same, or looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.errors import BackstoreError
from txtcmu.interfaces import IBlockStatus, IWriteZeroes
from txtcmu.iovec import gather, zero_from
from txtcmu.lun.commands.base import Method, answer, data_buffers
from txtcmu.lun.commands.piecewise import PIECE, Piecewise, pieces
from txtcmu.lun.commands.rw import BlockIO
from txtcmu.results import as_deferred
from txtcmu.scsi import opcodes
from txtcmu.scsi.lba_status import get_lba_status, lba_status, whole_blocks
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit
from txtcmu.scsi.unmap import parse_unmap
from txtcmu.scsi.writesame import write_same

__all__ = ["ProvisioningCommands"]


class ProvisioningCommands:
    """What is done to whole ranges (SBC-4, Logical block provisioning).

    :ivar methods: what carries out each row.
    """

    def __init__(self, reactor: Any, unit: LogicalUnit, backstore: Any, io: BlockIO) -> None:
        self._reactor = reactor
        self._unit = unit
        self._backstore = backstore
        self._io = io
        self._writes_zeroes = IWriteZeroes.providedBy(backstore)
        self._knows_status = IBlockStatus.providedBy(backstore)
        self.methods: dict[Opcode, Method] = {
            opcodes.UNMAP: self._unmap,
            opcodes.WRITE_SAME_10: self._write_same,
            opcodes.WRITE_SAME_16: self._write_same,
            opcodes.GET_LBA_STATUS_16: self._get_lba_status,
        }

    def _unmap(self, row: Opcode, command: Any) -> Deferred[None] | None:
        extents = parse_unmap(self._unit, command.cdb, gather(command.buffers))
        zero_from(command.buffers, row.transfer_length(command.cdb, self._unit.block_size))
        size = self._unit.block_size
        return self._io.discard([(lba * size, blocks * size) for lba, blocks in extents])

    def _write_same(self, row: Opcode, command: Any) -> Deferred[None] | None:
        asked = write_same(self._unit, row, command.cdb)
        size = self._unit.block_size
        sent = gather(data_buffers(row, command, size if asked.sent else 0))
        if not asked.blocks:
            return None
        offset, length = asked.lba * size, asked.blocks * size
        # A copy: it is written from long after the first piece has ended.
        block = bytes(sent) if asked.sent else bytes(size)
        if not any(block):
            if asked.unmap:
                return self._io.discard([(offset, length)])
            if self._writes_zeroes:
                return self._io.write_zeroes(offset, length)
        return self._io.alone(
            offset, length, lambda: self._io.settled(Piecewise(self._reactor, self._fill, offset, length, block))
        )

    async def _fill(self, work: Piecewise, offset: int, length: int, block: bytes) -> None:
        piece = memoryview(block * min(length // len(block), max(1, PIECE // len(block))))
        for start, count in pieces(length, len(block)):
            await work.step(self._io.store(offset + start, [piece[:count]]))

    def _get_lba_status(self, row: Opcode, command: Any) -> Deferred[None] | None:
        lba, room = get_lba_status(self._unit, row, command.cdb)
        size = self._unit.block_size
        left = (self._unit.blocks - lba) * size
        allocation_length = row.transfer_length(command.cdb, size)

        def reply(extents: Any) -> None:
            known = whole_blocks(_within(extents, left), size)
            if not known:
                raise BackstoreError(f"the backstore said nothing of what is at byte {lba * size}")
            answer(command, lba_status(lba, known, room)[:allocation_length])

        if not self._knows_status or self._unit.provisioning is None:
            # What cannot be given back is there, and so is what nobody can tell of.
            reply([(left, True)])
            return None
        extents = self._backstore.extents(lba * size, left)
        if isinstance(extents, list):
            reply(extents)
            return None
        return as_deferred(extents).addCallback(reply)


def _within(extents: Iterable[tuple[int, bool]], length: int) -> Iterator[tuple[int, bool]]:
    """Yield of ``extents`` what lies within ``length`` bytes."""
    for extent, mapped in extents:
        if length <= 0:
            return
        yield min(extent, length), mapped
        length -= extent
