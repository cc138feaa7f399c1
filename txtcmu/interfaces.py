"""What a backstore author implements, and what txtcmu promises in return.

Start with :class:`IBackstore`: five members make a disk.  Each companion interface that a backstore also
provides turns on one feature of the SCSI device; a companion that is not provided is not advertised.

Rules that hold for every method below:

*Thread.*  The reactor's, always.  A method that may block for long returns a Deferred instead
(:func:`txtcmu.threads.run` runs a function in the reactor's thread pool with the right cancellation).

*Result.*  A plain value means "already done" and is the fast path; a Deferred or a coroutine is waited for.  A
method is free to choose anew in each call.

*Buffers.*  ``data`` and ``buffers`` are windows of memory shared with the kernel.  They are yours until the
result fires and not a moment longer: afterwards the same bytes belong to another initiator's command.  Copy
what you need to keep; never keep a slice.

*Cancellation.*  A command that the initiator aborted, or that ran past its deadline, has its Deferred cancelled
(a coroutine sees :class:`~twisted.internet.defer.CancelledError` at its ``await``).  When your Deferred then
fires, with whatever result, you have *let go*: you will not touch the buffers again and the write will not land
later.  Work that cannot be recalled must therefore not let the Deferred fire early: wrap it in
:func:`txtcmu.threads.uncancellable`.  Until you let go, later writes to the same blocks wait.  A timeout, a
lost connection or a client library's error is *not* letting go, since the request may land an hour later.

*Errors.*  Raise (or fail with) an exception of :mod:`txtcmu.errors`; :func:`txtcmu.scsi.sense.sense_of` says
what the initiator sees.  ``OSError`` is mapped by its errno; one that means *away* has the device close and reopen
the backstore, as :class:`~txtcmu.errors.NotReadyError` does.  Anything else is logged with its traceback and
reported as HARDWARE ERROR.  A Deferred belongs to one call: return a new one from each.

*Order.*  Overlapping writes of one device never reach a backstore at the same time: the later one is called
when the earlier one's result has fired.  Writes that do not overlap, and reads, come as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from txtcmu.devconfig import DeviceConfig, DeviceParameters

__all__ = [
    "IBackstore",
    "IBackstoreFactory",
    "IBlockStatus",
    "ICommand",
    "ICommandHandler",
    "ICompareAndWrite",
    "IDiscard",
    "IForceUnitAccess",
    "IObjectStore",
    "IResizable",
    "IVectoredBackstore",
    "IVolumeHandler",
    "IWriteCache",
    "IWriteZeroes",
]


class IBackstore(Interface):
    """A flat array of bytes that survives: what most authors write.

    It may have an attribute ``write_cache``: false has the disk start without a write cache (WCE), so that each write
    is flushed before it is acknowledged.
    """

    size = Attribute(
        "Length in bytes, an int: a multiple of the device's block size; while it is open, only"
        " :class:`IResizable` changes it."
    )
    read_only = Attribute("True: writes are answered WRITE PROTECTED without being called.")
    physical_block_size = Attribute(
        "Bytes that the storage can replace without reading first (a power of two); smaller writes work but"
        " cost a read.  Advertised in READ CAPACITY (16)."
    )

    def read(offset: int, length: int) -> object:
        """Return ``length`` bytes from ``offset`` on, both in bytes and inside ``size``.

        :return: bytes-like, or a Deferred or coroutine of it.  What is missing from a short one reads as zeroes.
        """

    def write(offset: int, data: memoryview) -> object:
        """Store all of ``data`` at ``offset``; a READ that starts after the result has fired sees it.

        :return: ``None``, or a Deferred or coroutine of it.
        """

    def flush() -> object:
        """Make every write whose result has fired before this call durable.

        After a possible loss of acknowledged data (the server restarted, fsync failed) every flush fails until
        the backstore is opened anew, unless the lost writes were replayed first.

        :return: ``None``, or a Deferred or coroutine of it.
        """

    def close() -> object:
        """Give everything back; no other method is called afterwards, and none is outstanding.

        :return: ``None``, or a Deferred or coroutine of it.
        """


class IVectoredBackstore(Interface):
    """A backstore that reads into and writes from the ring's memory without a copy in between."""

    def readv(offset: int, buffers: list[memoryview]) -> object:
        """Fill ``buffers`` one after the other from ``offset`` on; used instead of :meth:`IBackstore.read`.

        :return: how many bytes were filled (the rest reads as zeroes), or a Deferred or coroutine of it.
        """

    def writev(offset: int, buffers: list[memoryview]) -> object:
        """Store ``buffers`` one after the other at ``offset``; used instead of :meth:`IBackstore.write`.

        :return: ``None``, or a Deferred or coroutine of it.
        """


class IForceUnitAccess(Interface):
    """A backstore with a durable write cheaper than write and flush (SBC-4 FUA bit)."""

    def write_fua(offset: int, buffers: list[memoryview]) -> object:
        """Store ``buffers`` at ``offset``; the result fires when they are durable.

        :return: ``None``, or a Deferred or coroutine of it.
        """


class IDiscard(Interface):
    """A backstore that can give space back (UNMAP; VPD B0 and B2, LBPME)."""

    discard_granularity = Attribute("Bytes that can be given back at a time, a power of two.")
    discard_zeroes = Attribute("True: discarded bytes are certain to read as zeroes (LBPRZ).")

    def discard(offset: int, length: int) -> object:
        """Give back what it can of ``length`` bytes at ``offset``.

        With :attr:`discard_zeroes` the whole range reads as zeroes afterwards, aligned or not.

        :return: ``None``, or a Deferred or coroutine of it.
        """


class IWriteZeroes(Interface):
    """A backstore that can write zeroes without being sent them (SBC-4, WRITE SAME of zeroes)."""

    def write_zeroes(offset: int, length: int) -> object:
        """Make ``length`` bytes at ``offset`` read as zeroes; space is kept where the storage can keep it.

        At most 32 MiB at a time, whole blocks.  As with a write, nothing else changes these bytes meanwhile.

        :return: ``None``, or a Deferred or coroutine of it.
        """


class ICompareAndWrite(Interface):
    """A backstore that compares and writes in one step, against other hosts too (SBC-4, COMPARE AND WRITE).

    Without it the device reads, compares and writes while no other change of its own reaches these blocks, and reads
    of them that come meanwhile wait.
    """

    def compare_and_write(offset: int, expected: memoryview, data: memoryview) -> object:
        """Replace ``expected`` at ``offset`` by ``data``, of the same length, or change nothing.

        At most 255 blocks.  A flush follows where it has to be durable.  Both are copies, of the ring's memory neither.

        :return: ``None``, or a Deferred or coroutine of it.
        :raise txtcmu.errors.MiscompareError: something else is there.
        """


class IBlockStatus(Interface):
    """A backstore that knows which of its bytes hold data (SBC-4, GET LBA STATUS).

    It is asked only if it provides :class:`IDiscard` too: where nothing can be given back, all is mapped.
    """

    def extents(offset: int, length: int) -> object:
        """Say what is where from ``offset`` on; may end before ``length`` bytes, but not at once.

        :return: a list of ``(length, mapped)``, in order and without gaps, or a Deferred or coroutine of it;
            ``mapped`` is false only where a read is certain to give zeroes.
        """


class IResizable(Interface):
    """A backstore whose size can be changed while it is open (UNIT ATTENTION 2A/09)."""

    def resize(size: int) -> object:
        """Become ``size`` bytes long, a multiple of the block size; :attr:`IBackstore.size` says so when it fires.

        What is new reads as zeroes, what is cut off is gone.  No command is outstanding behind the smaller of the
        two sizes; others may be.

        :return: ``None``, or a Deferred or coroutine of it.
        :raise txtcmu.errors.ConfigError: it cannot have that size; nothing has changed.
        """


class IWriteCache(Interface):
    """A backstore that wants to know whether initiators have a write cache (SBC-4, WCE).

    So it knows which of its writes count as acknowledged before they are flushed: what a daemon that is killed loses.
    """

    def cache_writes(on: bool) -> None:
        """Hear it: before the first command, and before the first one that a change of it concerns.

        :param on: a change is acknowledged when its result has fired; else when the flush that follows has.
        """


class ICommand(Interface):
    """One SCSI command, as an :class:`ICommandHandler` sees it.

    :mod:`txtcmu.iovec` holds the functions that move bytes in and out of :attr:`buffers`.
    """

    cdb = Attribute("The CDB, bytes; at least as long as its group code says, zero-padded.")
    buffers = Attribute(
        "The data buffer, a list of writable memoryviews: holds the Data-Out of a command that sends data, awaits"
        " the Data-In of one that receives.  TCMU does not say which of the two: the operation code does."
    )
    length = Attribute("Total length of the buffers in bytes: what the initiator is ready to send or take.")
    read_len = Attribute(
        "Settable, 0 at first: how many bytes of Data-In are all there are, when the buffer holds more.  The initiator"
        " gets these alone and is told of the residual, with CHECK CONDITION too, which else transfers no data; so set"
        " it when they are in place.  0 stands for the whole buffer: a transfer of no bytes cannot be expressed.  A"
        " kernel without READ_LEN (before Linux 5.1) transfers the whole buffer all the same, and ignores it for"
        " Data-Out: zero what is not filled.  ValueError: not from 0 to :attr:`length`."
    )


class ICommandHandler(Interface):
    """Raw SCSI: for devices that are not plain disks.  It answers every command itself, INQUIRY included.

    But for two: while it is being opened or away the device answers as a disk that is not ready, and a unit attention
    is reported before it hears of the command that reports it.
    """

    def handle(command: ICommand) -> object:
        """Carry out one command.

        What it leaves unfilled of a Data-In buffer must be zeroed, for it holds bytes of earlier commands; it may
        also say with :attr:`ICommand.read_len` how much is filled.  Bidirectional commands are refused before.

        :return: ``None`` for GOOD, or a SAM status (an int), or a Deferred or coroutine of one of them.
            Raise :class:`txtcmu.errors.CheckCondition` for sense data.
        """

    def close() -> object:
        """As :meth:`IBackstore.close`."""


class IBackstoreFactory(IPlugin):
    """A handler: how ``--handler NAME`` becomes backstores.

    Found as a :mod:`twisted.plugin` in ``txtcmu/plugins/``, or under the entry point ``txtcmu.backstores``.
    The object should be cheap to import; optional libraries are imported by its methods.  It may have an attribute
    ``secrets``, a frozenset of the options that are refused on the command line, where everybody can read them.
    """

    name = Attribute("The subtype: what dev_config starts with, before the first slash.  ``[a-z0-9_-]+``")
    summary = Attribute("One line for ``twist tcmu --list-handlers``.")
    config_help = Attribute("What follows the slash in dev_config, and each option, for a person.")
    options = Attribute("The option names it understands, a frozenset; any other is refused before open.")

    def check(config: DeviceConfig) -> object:
        """Say what is wrong with a :class:`txtcmu.devconfig.DeviceConfig`, without opening anything.

        :return: ``None``, or one line that names the mend, or a Deferred or coroutine of one of them.
        """

    def create(parameters: DeviceParameters) -> object:
        """Make new, empty storage of ``parameters.size`` bytes; never touch what is already there.

        :param parameters: a :class:`txtcmu.devconfig.DeviceParameters`.
        :return: ``None``, or a Deferred or coroutine of it.
        :raise txtcmu.errors.ConfigError: it exists already, or cannot be made.
        """

    def open(parameters: DeviceParameters) -> object:
        """Open storage that exists.

        :param parameters: a :class:`txtcmu.devconfig.DeviceParameters`.  ``size`` is that of the LUN; the device
            itself compares it with the backstore's and refuses a difference.  ``None`` comes from somebody who only
            wants to know the size: another daemon may have the storage open, and must not be disturbed.  With
            ``served_before`` initiators go on where they were: writes that were acknowledged to them, and lost since,
            must not be followed by a flush that succeeds.
        :return: an :class:`IBackstore` or :class:`ICommandHandler`, or a Deferred or coroutine of one.
        :raise txtcmu.errors.ConfigError: it can never work like this (the line names the mend).
        :raise txtcmu.errors.NotReadyError: it may work later; the device tries again by itself.
        :raise txtcmu.errors.FencedError: acknowledged writes are lost, or another has the storage: the device waits
            for an operator.
        """


class IVolumeHandler(IBackstoreFactory):
    """A handler whose disks can be volumes (docs/volume-format.md): how ``txtcmu volume`` reaches them."""

    def connect(config: DeviceConfig, reactor: Any) -> object:
        """Connect to the store that a volume is in, or may be made in.

        :return: a Deferred or coroutine of an :class:`IObjectStore`, which the caller closes, and of the prefix of the
            volume's keys: empty, or ending in a slash.
        :raise txtcmu.errors.TCMUError: it cannot be reached; the line names the mend.
        """

    def places(config: DeviceConfig, reactor: Any) -> object:
        """Say where volumes at a path, and below it, may be.

        :return: a Deferred or coroutine of a list of paths for :meth:`connect`: the one that was given, unless a store
            ends where a path does.
        """


class IObjectStore(Interface):
    """Named objects, replaced as a whole: the least that S3, a directory and memory have in common.

    Keys are text.  An etag is text without quotes and stands for an object's content: equal content may well have
    equal etags.  Every method returns a Deferred that can be cancelled; a cancelled, timed-out or broken request
    may still be applied later, which is what the conditions are for.  A method retries by itself what is safe and
    sensible to retry, always under the same condition, and fails with an
    :class:`txtcmu.errors.ObjectStoreError` when that is over; with :class:`txtcmu.errors.StoreUnavailable` nothing
    is known about what became of the request.
    """

    def get(key: str, start: int = 0, length: int | None = None, *, checked: bool = True) -> Deferred[Any]:
        """Read an object, or ``length`` bytes of it from ``start`` on (fewer when it ends before).

        :param checked: let the store see to it that the bytes are those that were stored, for which it may have to
            read more.  ``False`` is for whoever verifies them by checksums inside them, as volumes do: just the range
            is read, a bit that flipped is the caller's to find, and spoils nothing but what it flipped in.  How many
            bytes come, and of which range, is certain in either case.
        :return: Deferred of a :class:`txtcmu.objectstore.objects.StoredObject`, or of ``None`` when there is none.
        """

    def head(key: str) -> Deferred[Any]:
        """As :meth:`get`, with an empty body."""

    def put(
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        absent: bool = False,
        checked: bool = True,
    ) -> Deferred[Any]:
        """Create or replace an object as a whole.

        :param data: bytes-like, not copied: unchanged until the Deferred fires.
        :param metadata: names (lower case) and values of user metadata (ASCII).
        :param if_match: replace only the object with this etag.
        :param absent: create only.
        :param checked: store what :meth:`get` needs to check parts of it; ``False`` for what nobody reads so.  The
            bytes are protected on their way to the store in either case.
        :return: Deferred of a :class:`txtcmu.objectstore.objects.Receipt`.
        :raise txtcmu.errors.PreconditionFailed: the condition did not hold and nothing happened; but it is a
            :class:`txtcmu.objectstore.objects.MaybeMine` when an earlier attempt of this very call may be the reason.
        """

    def delete(key: str, *, if_match: str | None = None) -> Deferred[Any]:
        """Remove an object; without a condition it is no error when there is none.

        :param if_match: remove only the object with this etag; not every store enforces it.
        :return: Deferred of a :class:`txtcmu.objectstore.objects.Receipt`.
        :raise txtcmu.errors.PreconditionFailed: as for :meth:`put`; also when there is no object.
        """

    def list(prefix: str, after: str = "") -> Deferred[Any]:
        """List keys with ``prefix`` that sort behind ``after``, in order.

        :return: Deferred of a page: a list of :class:`txtcmu.objectstore.objects.StoredObject` without bodies and
            metadata, empty when there are no more.
        """

    def close() -> Deferred[Any]:
        """Close connections; outstanding requests fail.  :return: Deferred of ``None``."""
