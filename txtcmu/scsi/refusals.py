"""The ways to refuse a command, each a :class:`~txtcmu.errors.CheckCondition` ready to be raised.

ILLEGAL REQUEST with a field pointer where there is a field to point at (SPC-5, sense-key specific field pointer):
its byte, and the bit where the field begins, the most significant one.
"""

from __future__ import annotations

from txtcmu.errors import CheckCondition
from txtcmu.scsi import constants as c

__all__ = [
    "InvalidFieldError",
    "invalid_field",
    "invalid_operation_code",
    "invalid_parameter",
    "lba_out_of_range",
    "parameter_list_length_error",
    "saving_not_supported",
]


class InvalidFieldError(CheckCondition):
    """ILLEGAL REQUEST with a field pointer that also names the bit.

    :ivar field_bit: the most significant bit of the field at fault, 0..7, or ``None`` for a whole byte.
    """

    def __init__(self, asc: int, ascq: int, *, field: int, field_bit: int | None, field_in_cdb: bool) -> None:
        super().__init__(c.ILLEGAL_REQUEST, asc, ascq, field=field, field_in_cdb=field_in_cdb)
        self.field_bit = field_bit


def invalid_operation_code() -> CheckCondition:
    """05/20/00: no such command, or not on this unit."""
    return InvalidFieldError(*c.INVALID_COMMAND_OPERATION_CODE, field=0, field_bit=None, field_in_cdb=True)


def invalid_field(byte: int, bit: int | None = None) -> CheckCondition:
    """05/24/00: the CDB's field that begins at ``byte``, ``bit`` has a value that this unit does not take."""
    return InvalidFieldError(*c.INVALID_FIELD_IN_CDB, field=byte, field_bit=bit, field_in_cdb=True)


def invalid_parameter(byte: int, bit: int | None = None) -> CheckCondition:
    """05/26/00: as :func:`invalid_field`, for a field of the parameter list."""
    return InvalidFieldError(*c.INVALID_FIELD_IN_PARAMETER_LIST, field=byte, field_bit=bit, field_in_cdb=False)


def parameter_list_length_error(byte: int) -> CheckCondition:
    """05/1A/00: the PARAMETER LIST LENGTH at ``byte`` of the CDB cuts the parameter list short."""
    return InvalidFieldError(*c.PARAMETER_LIST_LENGTH_ERROR, field=byte, field_bit=None, field_in_cdb=True)


def lba_out_of_range(byte: int, *, in_cdb: bool = True) -> CheckCondition:
    """05/21/00: the range that begins with the LBA at ``byte`` does not end on the medium."""
    return InvalidFieldError(*c.LBA_OUT_OF_RANGE, field=byte, field_bit=None, field_in_cdb=in_cdb)


def saving_not_supported() -> CheckCondition:
    """05/39/00: there are no saved mode parameters (SPC-5, PC field 11b); the field is byte 2 of MODE SENSE."""
    return InvalidFieldError(*c.SAVING_PARAMETERS_NOT_SUPPORTED, field=2, field_bit=7, field_in_cdb=True)
