"""The commands that are answered from the :class:`~txtcmu.scsi.unit.LogicalUnit` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from txtcmu.scsi import opcodes
from txtcmu.scsi.capacity import read_capacity_10, read_capacity_16
from txtcmu.scsi.inquiry import inquiry
from txtcmu.scsi.log import log_sense
from txtcmu.scsi.mode import mode_sense_6, mode_sense_10
from txtcmu.scsi.report_opcodes import report_supported_operation_codes
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["REPLIES", "reply"]

REPLIES: Final[dict[Opcode, Callable[[LogicalUnit, bytes], bytes]]] = {
    opcodes.INQUIRY: inquiry,
    opcodes.LOG_SENSE: log_sense,
    opcodes.MODE_SENSE_6: mode_sense_6,
    opcodes.MODE_SENSE_10: mode_sense_10,
    opcodes.READ_CAPACITY_10: read_capacity_10,
    opcodes.READ_CAPACITY_16: read_capacity_16,
    opcodes.REPORT_SUPPORTED_OPERATION_CODES: report_supported_operation_codes,
}
"""The function that makes the whole reply of each such command, before ALLOCATION LENGTH cuts it."""


def reply(unit: LogicalUnit, row: Opcode, cdb: bytes) -> bytes:
    """Return the Data-In of a command in :data:`REPLIES`, cut to its length field (SPC-5, Allocation length).

    :raise txtcmu.errors.CheckCondition: the command asks for something that the unit has not.
    """
    return REPLIES[row](unit, cdb)[: row.transfer_length(cdb, unit.block_size)]
