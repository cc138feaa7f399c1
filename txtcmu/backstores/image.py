"""A file or block device that holds a disk: opened, locked, measured, and worked on by blocking calls.

:class:`Image` knows what the storage can do and falls back where it cannot; which thread calls it is the
business of the backstore above (:mod:`~txtcmu.backstores.file`, :mod:`~txtcmu.backstores.memory`).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable

from txtcmu.backstores import fileio
from txtcmu.backstores.fileio import PUNCH_HOLE, UNSUPPORTED, ZERO_RANGE, SystemCalls
from txtcmu.errors import BackstoreError, ConfigError

__all__ = ["Image", "create_image", "open_image"]

_ZEROES = memoryview(bytes(1 << 20))
_EXTENTS = 256  # told at a time: a fragmented image has millions


class Image:
    """Storage behind an open file descriptor, which belongs to it from now on.

    :ivar fd: the descriptor, for callers that make a fast call of their own first.
    :ivar size: length in bytes.
    :ivar resizable: it is a file that may be written.
    :ivar physical_block_size: as in :class:`~txtcmu.interfaces.IBackstore`.
    :ivar discard_granularity: as in :class:`~txtcmu.interfaces.IDiscard`; 0 when nothing can be given back.
    :ivar discard_zeroes: as there.
    """

    def __init__(self, fd: int, *, read_only: bool = False, system: SystemCalls | None = None) -> None:
        self.system = system = system or SystemCalls()
        self.fd = fd
        self.read_only = read_only
        self._sync_error: OSError | None = None
        self._durable_fd = -1
        self._alignment = 1  # of fallocate: files take any offset, block devices only whole sectors
        self._discard: Callable[[int, int], None] = self._punch
        status = system.fstat(fd)
        self._is_device = stat.S_ISBLK(status.st_mode)
        self.resizable = not self._is_device and not read_only
        if self._is_device:
            self._measure_device(status.st_rdev)
        else:
            self.size = status.st_size
            # The page cache reads first what a write leaves of a page, whatever the filesystem's block is.
            self.physical_block_size = mmap.PAGESIZE
            self.discard_granularity = max(status.st_blksize, mmap.PAGESIZE) if self._can_punch() else 0
            self.discard_zeroes = True
        if self.discard_granularity & (self.discard_granularity - 1):
            self.discard_granularity = mmap.PAGESIZE
        self._zeroing = [self._zero_range, self._punch]

    def _measure_device(self, device: int) -> None:
        limit, number = self.system.queue_limit, self._number
        self.size = number(fileio.BLKGETSIZE64, "Q")
        self._alignment = number(fileio.BLKSSZGET, "i")
        self.physical_block_size = max(number(fileio.BLKPBSZGET, "i"), number(fileio.BLKBSZGET, "i"))
        self.discard_zeroes = limit(device, "write_zeroes_max_bytes") > 0
        if not self.discard_zeroes:
            # Punching a hole in a device means zeroing it, and the driver cannot: TRIM frees, and promises nothing.
            self._discard = self._trim
        possible = self.discard_zeroes or limit(device, "discard_max_bytes") > 0
        self.discard_granularity = max(limit(device, "discard_granularity"), self._alignment) if possible else 0

    def _number(self, request: int, layout: str) -> int:
        """Ask the device for a number."""
        answer = self.system.ioctl(self.fd, request, bytes(struct.calcsize(layout)))
        return int(struct.unpack(layout, answer)[0])

    def _can_punch(self) -> bool:
        try:
            self.system.fallocate(self.fd, PUNCH_HOLE, self.size, mmap.PAGESIZE)  # behind the end: frees nothing
        except OSError:
            return False
        return True

    def read_into(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill ``buffers``; return how many bytes there were."""
        return fileio.read_fully(self.system.preadv, self.fd, buffers, offset)

    def write_from(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers``, in the page cache at least."""
        fileio.write_fully(self.system.pwritev, self.fd, buffers, offset)

    def sync(self) -> None:
        """Make what was written durable; once that failed, fail for ever.

        Linux marks the pages of a failed write-back clean and reports the error once: the next fdatasync would
        succeed although the data is lost.  Calls must not run at the same time, for only one would hear of it.
        """
        if self._sync_error is not None:
            raise BackstoreError(f"acknowledged writes were lost earlier ({self._sync_error}); reopen the device")
        try:
            self.system.fdatasync(self.fd)
        except OSError as error:
            self._sync_error = error
            raise

    def write_durably(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` and return when they are durable; calls must not run at the same time.

        They go through an open file of their own: the one report of a write-back error (see :meth:`sync`) is one
        for each open file, and the error of an earlier, ordinary write must not be spent here.
        """
        if self._durable_fd < 0:
            self._durable_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fileio.write_fully(self.system.pwritev, self._durable_fd, buffers, offset, os.RWF_DSYNC)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            fileio.write_fully(self.system.pwritev, self._durable_fd, buffers, offset)
            self.system.fdatasync(self._durable_fd)

    def discard(self, offset: int, length: int) -> None:
        """Give ``length`` bytes back; with :attr:`discard_zeroes` they read as zeroes, to the byte."""
        if not self.discard_zeroes:
            self._aligned(self._discard, offset, length)
            return
        try:
            self._with_edges(self._discard, offset, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._write_zeroes(offset, length)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make ``length`` bytes read as zeroes in the cheapest way that the storage has, best keeping their space."""
        for operation in self._zeroing:
            try:
                self._with_edges(operation, offset, length)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                # A new list, since another thread may be walking this one.
                self._zeroing = [other for other in self._zeroing if other != operation]
            else:
                return
        self._write_zeroes(offset, length)

    def _punch(self, offset: int, length: int) -> None:
        self.system.fallocate(self.fd, PUNCH_HOLE, offset, length)

    def _zero_range(self, offset: int, length: int) -> None:
        self.system.fallocate(self.fd, ZERO_RANGE, offset, length)

    def _trim(self, offset: int, length: int) -> None:
        self.system.ioctl(self.fd, fileio.BLKDISCARD, struct.pack("QQ", offset, length))

    def _aligned(self, operation: Callable[[int, int], None], offset: int, length: int) -> tuple[int, int]:
        """Do ``operation`` on the whole sectors of a range; return where they begin and end."""
        unit = self._alignment
        start, end = -(-offset // unit) * unit, (offset + length) // unit * unit
        if start >= end:
            return offset, offset
        operation(start, end - start)
        return start, end

    def _with_edges(self, operation: Callable[[int, int], None], offset: int, length: int) -> None:
        """Do ``operation`` on the whole sectors of a range, and write zeroes over what they leave of it."""
        start, end = self._aligned(operation, offset, length)
        self._write_zeroes(offset, start - offset)
        self._write_zeroes(end, offset + length - end)

    def _write_zeroes(self, offset: int, length: int) -> None:
        while length > 0:
            piece = _ZEROES[:length]
            fileio.write_fully(self.system.pwritev, self.fd, [piece], offset)
            offset += len(piece)
            length -= len(piece)

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Tell data from holes, as :class:`~txtcmu.interfaces.IBlockStatus`; what nobody knows is data."""
        extents: list[tuple[int, bool]] = []
        at, end = offset, offset + length
        while at < end and len(extents) < _EXTENTS:
            data = self._seek(at, os.SEEK_DATA, end, otherwise=at)
            if data > at:
                extents.append((data - at, False))
            at = self._seek(data, os.SEEK_HOLE, end, otherwise=end) if data < end else end
            if at > data:
                extents.append((at - data, True))
        return extents

    def _seek(self, at: int, whence: int, end: int, otherwise: int) -> int:
        """Return where the next data or hole begins, ``otherwise`` where the storage does not know of holes."""
        try:
            return min(end, self.system.lseek(self.fd, at, whence))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            if error.errno not in UNSUPPORTED | {errno.EINVAL}:
                raise
            return otherwise

    def look_again(self) -> int:
        """Return how many bytes there are now: a device may have been resized by whoever has it."""
        if self._is_device:
            self.size = self._number(fileio.BLKGETSIZE64, "Q")
        return self.size

    def resize(self, size: int) -> None:
        """Make a file ``size`` bytes long, and that durable; its other data may be volatile as before.

        :raise ConfigError: it cannot be that long; nothing has changed.
        """
        try:
            self.system.ftruncate(self.fd, size)
        except OSError as error:
            raise ConfigError(f"cannot make the image {size} bytes long: {error.strerror}; mend that first") from None
        self.size = size
        # An open file of its own, as in write_durably().
        descriptor = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.system.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the descriptors, which releases the lock."""
        os.close(self.fd)
        if self._durable_fd >= 0:
            os.close(self._durable_fd)


def open_image(
    path: str, *, read_only: bool = False, block_size: int = 512, make: str = "", system: SystemCalls | None = None
) -> Image:
    """Open a file or block device that exists and lock it: many may read, one may write.

    :param make: how a missing one is made, for the error.
    :raise ConfigError: one line that says why it cannot be opened, and what to do.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise ConfigError(f"{path} is {kind}; name an image file or a block device")
        # The kernel's own users of a block device (mounts, md, dm, LIO) know O_EXCL, not locks.
        exclusive = os.O_EXCL if stat.S_ISBLK(mode) and not read_only else 0
        fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | exclusive | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(_reason(path, error, read_only, make)) from None
    try:
        if not fileio.lock(fd, shared=read_only):
            raise ConfigError(f"{path} is in use by another device or process, which locked it; stop that one first")
        image = Image(fd, read_only=read_only, system=system)
        if image.size == 0 or image.size % block_size:
            raise ConfigError(
                f"{path} has {image.size} bytes, not a multiple of the {block_size}-byte block;"
                f" extend it: truncate -s %{block_size} {path}"
                if image.size
                else f"{path} is empty; remove it and make it anew, or extend it with truncate -s"
            )
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"cannot use {path}: {error.strerror}; another filesystem would do") from None
    except BaseException:
        os.close(fd)
        raise
    return image


def _reason(path: str, error: OSError, read_only: bool, make: str) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"{path} does not exist; " + (make or "create it first")
        case errno.EBUSY:
            return f"{path} is in use by the kernel or another device (mounted, or part of one); release it first"
        case errno.EACCES | errno.EPERM | errno.EROFS if not read_only:
            return f"cannot open {path} for writing: {error.strerror}; allow it, or give the option read-only=yes"
        case _:
            return f"cannot open {path}: {error.strerror}; mend that and try again"


def create_image(path: str, size: int) -> None:
    """Make a sparse file of ``size`` bytes and make its existence durable; refuse what exists.

    :raise ConfigError: it exists, or cannot be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; leave --new away to use it, or choose another name") from None
    except OSError as error:
        raise ConfigError(f"cannot create {path}: {error.strerror}; mend that and try again") from None
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        os.unlink(path)
        raise ConfigError(f"cannot make {path} {size} bytes long: {error.strerror}; mend that and try again") from None
    finally:
        os.close(fd)
