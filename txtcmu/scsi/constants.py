"""Statuses, sense keys and additional sense codes, by the standards' names.

Additional sense codes are pairs ``(asc, ascq)``, to be splatted into
:class:`~txtcmu.errors.CheckCondition`: ``CheckCondition(ILLEGAL_REQUEST, *INVALID_FIELD_IN_CDB)``.
"""

from __future__ import annotations

from typing import Final

# Status codes (SAM-6, Status codes).
GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
CONDITION_MET: Final = 0x04
BUSY: Final = 0x08
RESERVATION_CONFLICT: Final = 0x18
TASK_SET_FULL: Final = 0x28
ACA_ACTIVE: Final = 0x30
TASK_ABORTED: Final = 0x40

# Sense keys (SPC-5, SENSE KEY field).
NO_SENSE: Final = 0x0
RECOVERED_ERROR: Final = 0x1
NOT_READY: Final = 0x2
MEDIUM_ERROR: Final = 0x3
HARDWARE_ERROR: Final = 0x4
ILLEGAL_REQUEST: Final = 0x5
UNIT_ATTENTION: Final = 0x6
DATA_PROTECT: Final = 0x7
ABORTED_COMMAND: Final = 0xB
MISCOMPARE: Final = 0xE

# Additional sense codes and qualifiers (SPC-5, Additional sense code assignments).
NO_ADDITIONAL_SENSE_INFORMATION: Final = (0x00, 0x00)
BECOMING_READY: Final = (0x04, 0x01)
INITIALIZING_COMMAND_REQUIRED: Final = (0x04, 0x02)
MANUAL_INTERVENTION_REQUIRED: Final = (0x04, 0x03)
WRITE_ERROR: Final = (0x0C, 0x00)
UNRECOVERED_READ_ERROR: Final = (0x11, 0x00)
PARAMETER_LIST_LENGTH_ERROR: Final = (0x1A, 0x00)
MISCOMPARE_DURING_VERIFY_OPERATION: Final = (0x1D, 0x00)
INVALID_COMMAND_OPERATION_CODE: Final = (0x20, 0x00)
LBA_OUT_OF_RANGE: Final = (0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = (0x24, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST: Final = (0x26, 0x00)
WRITE_PROTECTED: Final = (0x27, 0x00)
SPACE_ALLOCATION_FAILED_WRITE_PROTECT: Final = (0x27, 0x07)
MEDIUM_MAY_HAVE_CHANGED: Final = (0x28, 0x00)
MODE_PARAMETERS_CHANGED: Final = (0x2A, 0x01)
CAPACITY_DATA_HAS_CHANGED: Final = (0x2A, 0x09)
SAVING_PARAMETERS_NOT_SUPPORTED: Final = (0x39, 0x00)
INQUIRY_DATA_HAS_CHANGED: Final = (0x3F, 0x03)
INTERNAL_TARGET_FAILURE: Final = (0x44, 0x00)
