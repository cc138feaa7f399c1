"""The ways to refuse a command, each a :class:`~txtcmu.errors.CheckCondition` ready to be raised.

ILLEGAL REQUEST with a field pointer where there is a field to point at (SPC-5, sense-key specific field pointer):
its byte, and the bit where the field begins, the most significant one.
"""

from __future__ import annotations

from txtcmu.errors import CheckCondition
from txtcmu.scsi import constants as c

__all__ = [
    "invalid_field",
    "invalid_operation_code",
    "invalid_parameter",
    "lba_out_of_range",
    "parameter_list_length_error",
    "saving_not_supported",
]


def _illegal_request(code: tuple[int, int], byte: int, bit: int | None, *, in_cdb: bool) -> CheckCondition:
    return CheckCondition(c.ILLEGAL_REQUEST, *code, field=byte, field_in_cdb=in_cdb, field_bit=bit)


def invalid_operation_code() -> CheckCondition:
    """05/20/00: no such command, or not on this unit."""
    return _illegal_request(c.INVALID_COMMAND_OPERATION_CODE, 0, None, in_cdb=True)


def invalid_field(byte: int, bit: int | None = None) -> CheckCondition:
    """05/24/00: the CDB's field that begins at ``byte``, ``bit`` has a value that this unit does not take."""
    return _illegal_request(c.INVALID_FIELD_IN_CDB, byte, bit, in_cdb=True)


def invalid_parameter(byte: int, bit: int | None = None) -> CheckCondition:
    """05/26/00: as :func:`invalid_field`, for a field of the parameter list."""
    return _illegal_request(c.INVALID_FIELD_IN_PARAMETER_LIST, byte, bit, in_cdb=False)


def parameter_list_length_error(byte: int) -> CheckCondition:
    """05/1A/00: the PARAMETER LIST LENGTH at ``byte`` of the CDB cuts the parameter list short."""
    return _illegal_request(c.PARAMETER_LIST_LENGTH_ERROR, byte, None, in_cdb=True)


def lba_out_of_range(byte: int, *, in_cdb: bool = True) -> CheckCondition:
    """05/21/00: the range that begins with the LBA at ``byte`` does not end on the medium."""
    return _illegal_request(c.LBA_OUT_OF_RANGE, byte, None, in_cdb=in_cdb)


def saving_not_supported() -> CheckCondition:
    """05/39/00: there are no saved mode parameters (SPC-5, PC field 11b); the field is byte 2 of MODE SENSE."""
    return _illegal_request(c.SAVING_PARAMETERS_NOT_SUPPORTED, 2, 7, in_cdb=True)
