"""REPORT SUPPORTED OPERATION CODES (SPC-5), generated from the table."""

from __future__ import annotations

from struct import Struct
from typing import Final

from txtcmu.scsi.opcodes import supported
from txtcmu.scsi.refusals import invalid_field
from txtcmu.scsi.table import Opcode
from txtcmu.scsi.unit import LogicalUnit

__all__ = ["report_supported_operation_codes"]

_COMMAND_DATA_LENGTH: Final = Struct(">I")
_COMMAND: Final = Struct(">BxHxBH")
_ONE_COMMAND: Final = Struct(">xBH")
_TIMEOUTS: Final = Struct(">HxBII")

_SERVACTV: Final = 0x01
_CTDP_ALL: Final = 0x02
_CTDP_ONE: Final = 0x80
_NOT_SUPPORTED: Final = 0b001
_CONFORMS: Final = 0b011

# REPORTING OPTIONS.
_ALL: Final = 0b000
_OPERATION_CODE: Final = 0b001
_SERVICE_ACTION: Final = 0b010
_EITHER: Final = 0b011


def report_supported_operation_codes(unit: LogicalUnit, cdb: bytes) -> bytes:
    """Return the all_commands or the one_command parameter data, with timeouts descriptors when RCTD is one.

    :raise txtcmu.errors.CheckCondition: 05/24/00 for a reserved reporting option, and for one that does not fit the
        requested operation code: 001b when it has service actions, 010b when it has none.
    """
    rctd = bool(cdb[2] & 0x80)
    option = cdb[2] & 0x07
    rows = supported(unit)
    if option == _ALL:
        descriptors = b"".join(_command(row, rctd) for row in rows)
        return _COMMAND_DATA_LENGTH.pack(len(descriptors)) + descriptors
    if option > _EITHER:
        raise invalid_field(2, 2)

    service_action: int | None = cdb[4] << 8 | cdb[5]
    candidates = [row for row in rows if row.operation_code == cdb[3]]
    if candidates:
        has_service_actions = candidates[0].service_action is not None
        if option == (_OPERATION_CODE if has_service_actions else _SERVICE_ACTION):
            raise invalid_field(2, 2)
        if not has_service_actions and (option == _OPERATION_CODE or not service_action):
            service_action = None
    for row in candidates:
        if row.service_action == service_action:
            return _one_command(row, rctd)
    return _ONE_COMMAND.pack(_NOT_SUPPORTED, 0)


def _command(row: Opcode, rctd: bool) -> bytes:
    flags = (0 if row.service_action is None else _SERVACTV) | (_CTDP_ALL if rctd else 0)
    descriptor = _COMMAND.pack(row.operation_code, row.service_action or 0, flags, len(row.usage))
    return descriptor + (_timeouts(row) if rctd else b"")


def _one_command(row: Opcode, rctd: bool) -> bytes:
    flags = _CONFORMS | (_CTDP_ONE if rctd else 0)
    return _ONE_COMMAND.pack(flags, len(row.usage)) + row.usage + (_timeouts(row) if rctd else b"")


def _timeouts(row: Opcode) -> bytes:
    return _TIMEOUTS.pack(_TIMEOUTS.size - 2, 0, row.nominal_timeout, row.recommended_timeout)
