"""The commands of a disk on a backstore (SBC-4): how each row of the table is carried out.

Here are data transfer, cache and mode; :mod:`txtcmu.lun.commands.compare` and :mod:`txtcmu.lun.commands.provisioning`
have the rest.  To add a command: a row in :mod:`txtcmu.scsi.opcodes`, a method in one of these, a line in its
``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtcmu.errors import CheckCondition, WriteProtectedError
from txtcmu.interfaces import ICommand, IDiscard
from txtcmu.iovec import gather, zero_from
from txtcmu.lun.commands.base import UNREAD, UnitCommands, data_buffers
from txtcmu.lun.commands.compare import ComparingCommands
from txtcmu.lun.commands.provisioning import ProvisioningCommands
from txtcmu.lun.commands.rw import BlockIO, cache_writes
from txtcmu.lun.target import Settings
from txtcmu.results import as_deferred
from txtcmu.scsi import constants as c
from txtcmu.scsi import opcodes
from txtcmu.scsi.cdb import FUA, read_write, start_stop_unit, synchronize_cache
from txtcmu.scsi.mode_select import mode_select
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.sense import NO_SENSE_DATA, Sense
from txtcmu.scsi.table import Direction, Opcode
from txtcmu.scsi.unit import Identity, LogicalUnit, Provisioning

__all__ = ["BlockCommands"]


def _unit(backstore: Any, settings: Settings, write_cache: bool) -> LogicalUnit:
    provisioning = None
    if not backstore.read_only and IDiscard.providedBy(backstore):
        provisioning = Provisioning(backstore.discard_granularity, backstore.discard_zeroes)
    return LogicalUnit(
        UNREAD,
        settings.size // settings.block_size,
        settings.block_size,
        physical_block_size=backstore.physical_block_size,
        max_transfer_blocks=settings.max_blocks,
        read_only=backstore.read_only,
        write_cache=write_cache,
        provisioning=provisioning,
    )


class BlockCommands(UnitCommands):
    """A direct access block device.

    :param backstore: an :class:`~txtcmu.interfaces.IBackstore`, whose companions decide what the disk can do.
    :param settings: its geometry, and ``identify``: reads its names.
    :param keep_write_cache: keeps for the next daemon what MODE SELECT has made of the write cache.
    :param write_cache: whether completed writes may be volatile at first (WCE); MODE SELECT switches it.
    """

    def __init__(
        self,
        reactor: Any,
        backstore: Any,
        settings: Settings,
        identify: Callable[[], Deferred[Identity]],
        keep_write_cache: Callable[[bool], Deferred[None]],
        write_cache: bool = True,
    ) -> None:
        super().__init__(_unit(backstore, settings, write_cache), identify)
        self._keep_write_cache = keep_write_cache
        self._backstore = backstore
        self._cache_writes(write_cache)
        self._io = io = BlockIO(self.unit, backstore)
        self._stopped = False
        self._methods |= ComparingCommands(reactor, self.unit, backstore, io).methods
        self._methods |= ProvisioningCommands(reactor, self.unit, backstore, io).methods
        self._methods |= {
            opcodes.TEST_UNIT_READY: self._test_unit_ready,
            opcodes.LOG_SENSE: self._reply,
            opcodes.MODE_SELECT_6: self._mode_select,
            opcodes.MODE_SELECT_10: self._mode_select,
            opcodes.MODE_SENSE_6: self._reply,
            opcodes.MODE_SENSE_10: self._reply,
            opcodes.START_STOP_UNIT: self._start_stop_unit,
            opcodes.READ_CAPACITY_10: self._reply,
            opcodes.READ_CAPACITY_16: self._reply,
            opcodes.READ_6: self._read,
            opcodes.READ_10: self._read,
            opcodes.READ_12: self._read,
            opcodes.READ_16: self._read,
            opcodes.WRITE_6: self._write,
            opcodes.WRITE_10: self._write,
            opcodes.WRITE_12: self._write,
            opcodes.WRITE_16: self._write,
            opcodes.SYNCHRONIZE_CACHE_10: self._synchronize_cache,
            opcodes.SYNCHRONIZE_CACHE_16: self._synchronize_cache,
        }

    def handle(self, command: ICommand) -> Any:
        """See :class:`~txtcmu.interfaces.ICommandHandler`."""
        row = find(self.unit, command.cdb)
        if self._stopped and not row.while_not_ready:
            raise CheckCondition(c.NOT_READY, *c.INITIALIZING_COMMAND_REQUIRED)
        if row.writes and self.unit.read_only:
            raise WriteProtectedError("the backstore is read-only")
        if command.length and row.direction is Direction.NONE:
            # An initiator that asks for Data-In all the same gets the buffer, with what other commands left in it.
            zero_from(command.buffers, 0)
        return self._methods[row](row, command)

    def sense(self) -> Sense:
        """Return what REQUEST SENSE reports."""
        return Sense(c.NOT_READY, *c.INITIALIZING_COMMAND_REQUIRED) if self._stopped else NO_SENSE_DATA

    def _read(self, row: Opcode, command: Any) -> Deferred[None] | None:
        lba, blocks, flags = read_write(self.unit, row, command.cdb)
        length = blocks * self.unit.block_size
        buffers = data_buffers(row, command, length)
        if not length:
            return None
        if flags & FUA:
            flushed = self._io.flush()
            if flushed is not None:
                return flushed.addCallback(lambda _: self._io.read(lba * self.unit.block_size, length, buffers))
        return self._io.read(lba * self.unit.block_size, length, buffers)

    def _write(self, row: Opcode, command: Any) -> Deferred[None] | None:
        lba, blocks, flags = read_write(self.unit, row, command.cdb)
        length = blocks * self.unit.block_size
        buffers = data_buffers(row, command, length)
        if not length:
            return None
        write = self._io.write_through if flags & FUA else self._io.write
        return write(lba * self.unit.block_size, length, buffers)

    def _synchronize_cache(self, row: Opcode, command: Any) -> Deferred[None] | None:
        # All of it, and with status when it is done even under IMMED: both are stricter than what is asked.
        synchronize_cache(self.unit, row, command.cdb)
        return self._io.flush()

    def _mode_select(self, row: Opcode, command: Any) -> Deferred[None] | None:
        write_cache = mode_select(self.unit, row, command.cdb, gather(command.buffers))
        zero_from(command.buffers, row.transfer_length(command.cdb, self.unit.block_size))
        if write_cache == self.unit.write_cache:
            return None
        if write_cache:
            self._cache_writes(True)
            return self._keep_write_cache(True).addErrback(self._write_cache_not_kept)
        # Off when all that was acknowledged is durable, and not before; not at all if that fails.
        switched = as_deferred(self._io.alone_everywhere(self._switch_write_cache_off))
        return switched.addCallback(lambda _: self._keep_write_cache(False))

    def _cache_writes(self, on: bool) -> None:
        cache_writes(self.unit, self._backstore, on)

    def _write_cache_not_kept(self, failure: Failure) -> Failure:
        self._cache_writes(False)  # a cache that is off by mistake loses nothing
        return failure

    def _switch_write_cache_off(self) -> Deferred[None] | None:
        flushed = self._io.flush()
        if flushed is not None:
            return flushed.addCallback(self._write_cache_is_off)
        self._write_cache_is_off(None)
        return None

    def _write_cache_is_off(self, _: None) -> None:
        self._cache_writes(False)

    def _test_unit_ready(self, row: Opcode, command: Any) -> None:
        pass

    def _start_stop_unit(self, row: Opcode, command: Any) -> Deferred[None] | None:
        asked = start_stop_unit(self.unit, command.cdb)
        if asked.start is not None:
            self._stopped = not asked.start
        return self._io.flush() if asked.flush else None
