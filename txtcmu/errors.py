"""Every exception that crosses a room of txtcmu.

Two families.  :class:`TCMUError` and its children speak to a person: ``str()`` is one line that says what is
wrong and names the mend.  :class:`BackstoreError` and its children speak to the initiator as well: each stands
for one SAM status or sense code, and :func:`txtcmu.scsi.sense.sense_of` knows which.
"""

from __future__ import annotations


class TCMUError(Exception):
    """Something is wrong that a person can mend; ``str()`` is one line that says what and how."""


class ConfigError(TCMUError):
    """A dev_config, option, profile or configuration file that cannot be used as it is."""


class KernelError(TCMUError):
    """The kernel lacks TCMU, refuses an operation, or speaks an ABI that txtcmu does not know."""


class RingError(KernelError):
    """The ring's content is impossible, or the caller broke a rule of completion."""


class BackstoreError(TCMUError):
    """A backstore could not do what it was asked; by itself HARDWARE ERROR, INTERNAL TARGET FAILURE (44/00)."""


class MediumError(BackstoreError):
    """The data at ``offset`` is gone or cannot be written: MEDIUM ERROR, with the LBA in INFORMATION.

    :ivar offset: byte offset of the first bad byte on the device, or ``None`` when unknown.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class NotReadyError(BackstoreError):
    """The backstore is away and may come back: NOT READY, IN PROCESS OF BECOMING READY (04/01).

    The device leaves the state *serving*, answers NOT READY, and reopens the backstore by itself.
    """


class FencedError(BackstoreError):
    """Another writer has taken over, or acknowledged writes are lost: NOT READY, MANUAL INTERVENTION REQUIRED (04/03).

    The device leaves the state *serving* until an operator acts.
    """


class WriteProtectedError(BackstoreError):
    """The medium may not be written: DATA PROTECT, WRITE PROTECTED (27/00)."""


class SpaceExhaustedError(BackstoreError):
    """No room is left behind a thin device: DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT (27/07)."""


class BusyError(BackstoreError):
    """Not now, the same command will work later: status BUSY, which initiators retry."""


class MiscompareError(BackstoreError):
    """What was to be compared differs: MISCOMPARE, MISCOMPARE DURING VERIFY OPERATION (1D/00).

    :ivar offset: of the first byte that differs, from the start of what was compared; goes into INFORMATION.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"byte {offset} differs")
        self.offset = offset


class CheckCondition(BackstoreError):  # noqa: N818 - the standard's name for it
    """A command ends with exactly this sense data (SPC-5 4.4).

    :ivar key: sense key, 0..15.
    :ivar asc: additional sense code, and :ivar ascq: its qualifier.
    :ivar information: the INFORMATION field (an LBA or an offset), or ``None``.
    :ivar field: the CDB or parameter byte at fault (sense-key specific field pointer), or ``None``.
    :ivar field_in_cdb: whether ``field`` counts bytes of the CDB (else of the parameter list).
    :ivar field_bit: the most significant bit of the field at fault, 0..7, or ``None`` for whole bytes.
    """

    def __init__(
        self,
        key: int,
        asc: int,
        ascq: int,
        *,
        information: int | None = None,
        field: int | None = None,
        field_in_cdb: bool = True,
        field_bit: int | None = None,
    ) -> None:
        super().__init__(f"sense {key:X}/{asc:02X}/{ascq:02X}")
        self.key = key
        self.asc = asc
        self.ascq = ascq
        self.information = information
        self.field = field
        self.field_in_cdb = field_in_cdb
        self.field_bit = field_bit


class ObjectStoreError(TCMUError):
    """An object store refused a request for good (forbidden, no such bucket, malformed): asking again is vain."""


class PreconditionFailed(ObjectStoreError):  # noqa: N818 - HTTP's name for it (RFC 9110 15.5.13)
    """A conditional request did not apply: the object is not the one, or exists, or does not."""


class StoreUnavailable(ObjectStoreError):  # noqa: N818
    """The store did not answer, or said *later*, for as long as the caller was willing to wait.

    Nothing is known of a request that ends so: it may have been applied, or may be applied an hour from now.
    """
