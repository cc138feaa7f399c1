"""System calls on files and block devices, and the loops that make short ones whole.

Everything here blocks, knows no Twisted, and may run in any thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable

__all__ = [
    "BLKBSZGET",
    "BLKDISCARD",
    "BLKGETSIZE64",
    "BLKPBSZGET",
    "BLKSSZGET",
    "PUNCH_HOLE",
    "UNSUPPORTED",
    "ZERO_RANGE",
    "SystemCalls",
    "lock",
    "queue_limit",
    "read_fully",
    "write_fully",
]

# linux/falloc.h; both with FALLOC_FL_KEEP_SIZE, without which the end of a file could move.
PUNCH_HOLE = 0x02 | 0x01
ZERO_RANGE = 0x10 | 0x01

# linux/fs.h; the same numbers on every architecture that has eight-byte longs, but for BLKGETSIZE64 and BLKBSZGET,
# which are _IOR() and differ on those that count directions differently (powerpc, mips, sparc).
_IOR_SIZE_T = (0x40000000 if os.uname().machine.startswith(("ppc", "mips", "sparc")) else 0x80000000) | (
    struct.calcsize("N") << 16
)
BLKGETSIZE64 = _IOR_SIZE_T | 0x1272
BLKBSZGET = _IOR_SIZE_T | 0x1270
BLKSSZGET = 0x1268
BLKPBSZGET = 0x127B
BLKDISCARD = 0x1277

# What a filesystem or driver says of an operation that it does not have.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})

IOV_MAX = os.sysconf("SC_IOV_MAX")

_libc = ctypes.CDLL(None, use_errno=True)
_libc_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_libc_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    while _libc_fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:  # Python repeats its own calls; this one is ours to repeat
            raise OSError(number, os.strerror(number))


def _ioctl(fd: int, request: int, argument: bytes) -> bytes:
    return fcntl.ioctl(fd, request, argument)


def queue_limit(device: int, name: str) -> int:
    """Return a limit of a block device's request queue, 0 when the kernel does not say."""
    here = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (f"{here}/queue/{name}", f"{os.path.dirname(here)}/queue/{name}"):  # a partition has its disk's
        try:
            with open(queue) as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


class SystemCalls:
    """The calls that touch storage, each replaceable: a test overrides the one that is to fail."""

    fstat: Callable[..., os.stat_result] = staticmethod(os.fstat)
    preadv: Callable[..., int] = staticmethod(os.preadv)
    pwritev: Callable[..., int] = staticmethod(os.pwritev)
    fdatasync: Callable[..., None] = staticmethod(os.fdatasync)
    fallocate: Callable[..., None] = staticmethod(_fallocate)
    ftruncate: Callable[..., None] = staticmethod(os.ftruncate)
    lseek: Callable[..., int] = staticmethod(os.lseek)
    ioctl: Callable[..., bytes] = staticmethod(_ioctl)
    queue_limit: Callable[..., int] = staticmethod(queue_limit)


def lock(fd: int, *, shared: bool) -> bool:
    """Lock all of an open file until it is closed; say whether nobody else had.

    An OFD lock belongs to the open file, not to the process: two devices of one daemon exclude each other too.
    """
    request = struct.pack("hhqqi4x", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _rest(buffers: list[memoryview], done: int) -> list[memoryview]:
    """Return what is left of ``buffers`` behind their first ``done`` bytes."""
    rest = []
    for buffer in buffers:
        if done < len(buffer):
            rest.append(buffer[done:])
            done = 0
        else:
            done -= len(buffer)
    return rest


def read_fully(preadv: Callable[..., int], fd: int, buffers: list[memoryview], offset: int) -> int:
    """Fill ``buffers`` from ``offset`` on; return how many bytes there were, fewer only at the end of the file."""
    total = 0
    while buffers:
        got = preadv(fd, buffers[:IOV_MAX], offset + total)
        total += got
        rest = _rest(buffers, got)
        if got == 0 and rest:
            break
        buffers = rest
    return total


def write_fully(pwritev: Callable[..., int], fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> None:
    """Store all of ``buffers`` at ``offset``."""
    buffers = _rest(buffers, 0)
    while buffers:
        put = pwritev(fd, buffers[:IOV_MAX], offset, flags)
        if put == 0:
            raise OSError(errno.EIO, "write made no progress")
        offset += put
        buffers = _rest(buffers, put)
