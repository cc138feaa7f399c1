"""Sense data (SPC-5, 4.4), and what each exception means to an initiator."""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, NamedTuple

from attrs import frozen
from twisted.internet.defer import CancelledError

from txtcmu import errors
from txtcmu.scsi import constants as c

__all__ = ["NO_SENSE_DATA", "Outcome", "Sense", "request_sense", "sense_of"]

_FIXED: Final = Struct(">BxBIB4xBBxBH")
_DESCRIPTOR: Final = Struct(">BBBB3xB")
_INFORMATION: Final = Struct(">BBB1xQ")
_FIELD_POINTER: Final = Struct(">BB2xBHx")

_VALID: Final = 0x80
_SKSV: Final = 0x80
_IN_CDB: Final = 0x40  # C/D
_BIT_POINTER_VALID: Final = 0x08


@frozen
class Sense:
    """What an initiator is told about a command or the unit; always current, never deferred.

    :ivar key: sense key, 0..15.
    :ivar asc: additional sense code, and :ivar ascq: its qualifier.
    :ivar information: the INFORMATION field, mostly an LBA, up to 64 bits; or ``None``.
    :ivar field: the byte at fault (ILLEGAL REQUEST only), or ``None``.
    :ivar field_in_cdb: whether ``field`` is of the CDB; else of the parameter list.
    :ivar field_bit: the most significant bit of the field at fault, 0..7, or ``None``.
    """

    key: int
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    field: int | None = None
    field_in_cdb: bool = True
    field_bit: int | None = None

    def fixed(self) -> bytes:
        """Return fixed format sense data, 18 bytes (70h).

        An ``information`` beyond 32 bits does not fit: VALID is zero then, as SPC-5 asks.
        """
        information = self.information
        valid = information is not None and information <= 0xFFFFFFFF
        flags, pointer = self._field_pointer()
        return _FIXED.pack(
            0x70 | (_VALID if valid else 0),
            self.key,
            information if valid and information is not None else 0,
            10,
            self.asc,
            self.ascq,
            flags,
            pointer,
        )

    def descriptor(self) -> bytes:
        """Return descriptor format sense data (72h), with the descriptors that have something to say."""
        descriptors = b""
        if self.information is not None:
            descriptors += _INFORMATION.pack(0x00, 10, _VALID, self.information)
        if self.field is not None:
            descriptors += _FIELD_POINTER.pack(0x02, 6, *self._field_pointer())
        return _DESCRIPTOR.pack(0x72, self.key, self.asc, self.ascq, len(descriptors)) + descriptors

    def _field_pointer(self) -> tuple[int, int]:
        """Return SKSV, C/D, BPV and BIT POINTER in a byte, and FIELD POINTER."""
        if self.field is None:
            return 0, 0
        flags = _SKSV | (_IN_CDB if self.field_in_cdb else 0)
        if self.field_bit is not None:
            flags |= _BIT_POINTER_VALID | self.field_bit
        return flags, self.field


NO_SENSE_DATA: Final = Sense(c.NO_SENSE)


def request_sense(cdb: bytes, sense: Sense = NO_SENSE_DATA) -> bytes:
    """Return the parameter data of REQUEST SENSE (SPC-5), in the format that DESC asks for.

    :param cdb: the CDB; the reply is cut to its ALLOCATION LENGTH.
    :param sense: what to report: why the unit is not ready, or nothing.
    """
    return (sense.descriptor() if cdb[1] & 0x01 else sense.fixed())[: cdb[4]]


class Outcome(NamedTuple):
    """How a command ends: a SAM status, and sense data when it is CHECK CONDITION (else ``None``)."""

    status: int
    sense: Sense | None


def sense_of(exception: BaseException, *, writing: bool, block_size: int) -> Outcome:
    """Say how a command ends that failed with ``exception``.

    :param writing: whether the command changes the medium or makes changes durable.
    :param block_size: bytes in a logical block, to tell a :class:`~txtcmu.errors.MediumError` by its LBA.
    """
    if isinstance(exception, errors.CheckCondition):
        return _check_condition(exception)
    if isinstance(exception, errors.MediumError):
        offset = exception.offset
        return _medium_error(writing, None if offset is None else offset // block_size)
    if isinstance(exception, errors.MiscompareError):
        sense = Sense(c.MISCOMPARE, *c.MISCOMPARE_DURING_VERIFY_OPERATION, exception.offset)
        return Outcome(c.CHECK_CONDITION, sense)
    if isinstance(exception, OSError):
        return _os_error(exception, writing)
    for kind in type(exception).__mro__:
        if kind in _BY_CLASS:
            return _BY_CLASS[kind]
    return _HARDWARE_ERROR


def _check_condition(exception: errors.CheckCondition) -> Outcome:
    sense = Sense(
        exception.key,
        exception.asc,
        exception.ascq,
        exception.information,
        exception.field,
        exception.field_in_cdb,
        exception.field_bit,
    )
    return Outcome(c.CHECK_CONDITION, sense)


def _medium_error(writing: bool, lba: int | None) -> Outcome:
    asc, ascq = c.WRITE_ERROR if writing else c.UNRECOVERED_READ_ERROR
    return Outcome(c.CHECK_CONDITION, Sense(c.MEDIUM_ERROR, asc, ascq, lba))


def _os_error(exception: OSError, writing: bool) -> Outcome:
    code = exception.errno
    if code in _MEDIUM_ERRNOS:
        return _medium_error(writing, None)
    if code in _AWAY_ERRNOS or (code is None and isinstance(exception, ConnectionError | TimeoutError)):
        return _BECOMING_READY
    if code in _BUSY_ERRNOS:
        return _BUSY
    if code in _SPACE_ERRNOS:
        return _SPACE_EXHAUSTED
    if writing and code in _FORBIDDEN_ERRNOS:
        return _WRITE_PROTECTED
    return _HARDWARE_ERROR


_HARDWARE_ERROR: Final = Outcome(c.CHECK_CONDITION, Sense(c.HARDWARE_ERROR, *c.INTERNAL_TARGET_FAILURE))
_BECOMING_READY: Final = Outcome(c.CHECK_CONDITION, Sense(c.NOT_READY, *c.BECOMING_READY))
_FENCED: Final = Outcome(c.CHECK_CONDITION, Sense(c.NOT_READY, *c.MANUAL_INTERVENTION_REQUIRED))
_WRITE_PROTECTED: Final = Outcome(c.CHECK_CONDITION, Sense(c.DATA_PROTECT, *c.WRITE_PROTECTED))
_SPACE_EXHAUSTED: Final = Outcome(c.CHECK_CONDITION, Sense(c.DATA_PROTECT, *c.SPACE_ALLOCATION_FAILED_WRITE_PROTECT))
_BUSY: Final = Outcome(c.BUSY, None)
_TASK_ABORTED: Final = Outcome(c.TASK_ABORTED, None)

# The nearest base class decides, so a child of one of these that nobody listed means what its parent means.
_BY_CLASS: Final[dict[type, Outcome]] = {
    errors.TCMUError: _HARDWARE_ERROR,
    errors.NotReadyError: _BECOMING_READY,
    errors.StoreUnavailable: _BECOMING_READY,
    errors.FencedError: _FENCED,
    errors.WriteProtectedError: _WRITE_PROTECTED,
    errors.SpaceExhaustedError: _SPACE_EXHAUSTED,
    errors.BusyError: _BUSY,
    MemoryError: _BUSY,
    CancelledError: _TASK_ABORTED,
}

_SPACE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN_ERRNOS: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})
_MEDIUM_ERRNOS: Final = frozenset({errno.EIO, errno.EBADMSG, errno.ENODATA})
_BUSY_ERRNOS: Final = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.EBUSY})
_AWAY_ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.ENOLINK,
        errno.ENOTCONN,
        errno.ENXIO,
        errno.EPIPE,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
