"""``file/PATH``: a raw image file or a block device.

Which calls run in the reactor's thread, and which pay 60-80 µs for a thread of the pool:

*Reads* run in the reactor with ``RWF_NOWAIT`` (0.6 µs for 4 KiB), which copies what the page cache has and never
waits for a disk; the rest of a miss is read in a thread.

*Writes* into the page cache take 3 µs and rarely more, but the kernel may make the writer wait: for a page that
must be read first, for a journal commit, for the dirty limit.  XFS and btrfs can be asked not to wait, ext4 and
block devices cannot.  So a write runs in the reactor when it is small, covers whole pages, and nothing else of
this image holds the file's lock in a thread; and as soon as one took long, all go to threads for a second.  One
slow call a second is what a disk that cannot keep up may cost the other devices.

*Filesystems that do not know* ``RWF_NOWAIT`` (NFS, FUSE and the like) may hang for minutes: everything goes to
threads there.

*Flush, FUA, discard, zeroing and looking for holes* always go to a thread.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThread
from twisted.plugin import IPlugin
from zope.interface import alsoProvides, implementer

from txtcmu.backstores.fileio import UNSUPPORTED, SystemCalls
from txtcmu.backstores.image import Image, create_image, open_image
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import BackstoreError, ConfigError
from txtcmu.interfaces import (
    IBackstore,
    IBackstoreFactory,
    IBlockStatus,
    IDiscard,
    IForceUnitAccess,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.threads import run, uncancellable

__all__ = ["FileBackstore", "FileFactory"]

_PAGE_MASK = mmap.PAGESIZE - 1
_INLINE_WRITE = 128 << 10  # beyond it the copy takes longer than the way to a thread and back
_SLOW = 0.01  # a busy processor alone can take a few milliseconds away
_PATIENCE = 1.0


@implementer(IBackstore, IVectoredBackstore, IForceUnitAccess, IWriteZeroes, IBlockStatus)
class FileBackstore:
    """A disk in an :class:`~txtcmu.backstores.image.Image`, which belongs to it from now on."""

    def __init__(self, image: Image, reactor: Any) -> None:
        self.read_only = image.read_only
        self.physical_block_size = image.physical_block_size
        self._image = image
        self._fd = image.fd
        self._reactor = reactor
        self._preadv = image.system.preadv
        self._pwritev = image.system.pwritev
        self._seconds = reactor.seconds
        self._may_wait = not self._knows_nowait()
        self._write_flags = os.RWF_NOWAIT
        self._threads_until = 0.0
        self._writing = 0  # calls in threads that may hold the file's lock
        self._fua_turn = DeferredLock()
        self._flushes_running: list[Deferred[None]] = []
        self._flushes_waiting: list[Deferred[None]] = []
        if image.discard_granularity:
            self.discard_granularity = image.discard_granularity
            self.discard_zeroes = image.discard_zeroes
            alsoProvides(self, IDiscard)
        if image.resizable:
            alsoProvides(self, IResizable)

    @property
    def size(self) -> int:
        """Length in bytes; that of a block device can be changed by others."""
        return self._image.look_again()

    def _knows_nowait(self) -> bool:
        try:
            self._preadv(self._fd, [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError as error:
            return error.errno == errno.EAGAIN
        return True

    def readv(self, offset: int, buffers: list[memoryview]) -> int | Deferred[int]:
        """Fill ``buffers``, at once when the page cache has it all."""
        if not self._may_wait:
            try:
                done = self._preadv(self._fd, buffers, offset, os.RWF_NOWAIT)
            except OSError:
                pass  # not cached, or an error that the thread will meet again and report
            else:
                if done == sum(map(len, buffers)):
                    return done
        return run(self._reactor, self._image.read_into, offset, buffers)

    def read(self, offset: int, length: int) -> bytearray | Deferred[bytearray]:
        """Return ``length`` bytes in memory of their own."""
        data = bytearray(length)
        done = self.readv(offset, [memoryview(data)])
        return done.addCallback(lambda _: data) if isinstance(done, Deferred) else data

    def writev(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """Store ``buffers`` in the page cache."""
        length = sum(map(len, buffers))
        if (
            not self._writing
            and length <= _INLINE_WRITE
            and not (offset | length) & _PAGE_MASK
            and not self._may_wait
            and (started := self._seconds()) >= self._threads_until
        ):
            try:
                done = self._pwritev(self._fd, buffers, offset, self._write_flags)
            except OSError as error:
                done = -1
                if error.errno in UNSUPPORTED:
                    self._write_flags = 0
            if self._seconds() - started > _SLOW:
                self._threads_until = started + _PATIENCE
            if done == length:
                return None
            # Short, or failed: the thread does it all again, and reports what is wrong.
        return self._change(self._image.write_from, offset, buffers)

    def write(self, offset: int, data: memoryview) -> Deferred[None] | None:
        """Store ``data`` in the page cache."""
        return self.writev(offset, [data])

    def _change(self, function: Any, *args: Any) -> Deferred[None]:
        """Run in a thread what takes the file's lock, while writes keep out of the reactor's."""
        self._writing += 1
        return run(self._reactor, function, *args).addBoth(self._changed)

    def _changed(self, result: Any) -> Any:
        self._writing -= 1
        return result

    def flush(self) -> Deferred[None]:
        """Make durable what was written; flushes that come while one runs share the next fdatasync."""
        result: Deferred[None] = Deferred()
        self._flushes_waiting.append(result)
        if not self._flushes_running:
            self._start_flush()
        return uncancellable(result)

    def _start_flush(self) -> None:
        self._flushes_running, self._flushes_waiting = self._flushes_waiting, []
        run(self._reactor, self._image.sync).addBoth(self._flushed)

    def _flushed(self, result: Any) -> None:
        done, self._flushes_running = self._flushes_running, []
        if self._flushes_waiting:
            self._start_flush()
        for flush in done:
            flush.callback(result)  # a Failure is passed on as such

    async def write_fua(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` and wait until they are durable."""
        await self._fua_turn.acquire()
        try:
            await self._change(self._image.write_durably, offset, buffers)
        finally:
            self._fua_turn.release()

    def discard(self, offset: int, length: int) -> Deferred[None]:
        """Punch a hole, or trim a device that cannot."""
        return self._change(self._image.discard, offset, length)

    def write_zeroes(self, offset: int, length: int) -> Deferred[None]:
        """Zero a range without sending it."""
        return self._change(self._image.write_zeroes, offset, length)

    def extents(self, offset: int, length: int) -> Deferred[list[tuple[int, bool]]]:
        """Tell data from holes; of a block device all is data."""
        return run(self._reactor, self._image.extents, offset, length)

    def resize(self, size: int) -> Deferred[None]:
        """Change the length of a file; that of a block device is not ours to change."""
        return self._change(self._image.resize, size)

    def close(self) -> Deferred[None]:
        """Close the image; on a network filesystem that can take as long as a flush."""
        return run(self._reactor, self._image.close)


def path_of(config: DeviceConfig) -> str:
    """Return the path that dev_config names: from the root, with or without a second slash."""
    return "/" + config.path.lstrip("/")


@implementer(IPlugin, IBackstoreFactory)
@frozen
class FileFactory:
    """The handler ``file``.

    :ivar system: the system calls to use.
    """

    system: SystemCalls | None = None

    name = "file"
    summary = "a raw image file or a block device of this host"
    config_help = """\
file/PATH: PATH is taken from the root, so file/var/lib/disk.img is /var/lib/disk.img.  A raw image or a block
device; the size of the LUN is that of the file.  The image is locked: one device may write it, or many read it.
create=yes     make a sparse file of the LUN's size when there is none (default no)
read-only=yes  open it for reading only; writes are answered WRITE PROTECTED (default no)"""
    options = frozenset({"create", "read-only"})

    def check(self, config: Any) -> str | Deferred[str | None] | None:
        """Say what is wrong with the options or the path, which a thread looks at: a network filesystem may hang."""
        try:
            creates, read_only = _flag(config, "create"), _flag(config, "read-only")
        except ConfigError as error:
            return str(error)
        if creates and read_only:
            return "file: create=yes and read-only=yes exclude each other; leave one away"
        return deferToThread(_check_path, config, creates)

    def create(self, parameters: Any) -> Deferred[None]:
        """Make a sparse file of the LUN's size."""
        return run(parameters.reactor, create_image, path_of(parameters.config), _size(parameters))

    async def open(self, parameters: Any) -> FileBackstore:
        """Open the image in a thread, since that can hang on a network filesystem."""
        image = await run(parameters.reactor, self._open, parameters)
        try:
            return FileBackstore(image, parameters.reactor)
        except OSError as error:
            image.close()
            raise BackstoreError(f"cannot use {path_of(parameters.config)}: {error.strerror}") from error

    def _open(self, parameters: Any) -> Image:
        """Open the image, and make it before if that is wanted; blocking."""
        config = parameters.config
        path = path_of(config)
        if _flag(config, "create") and not os.path.exists(path):
            create_image(path, _size(parameters))
        return open_image(
            path,
            read_only=_flag(config, "read-only"),
            block_size=parameters.block_size,
            make=_make(config),
            system=self.system,
        )


def _check_path(config: DeviceConfig, creates: bool) -> str | None:
    path = path_of(config)
    if os.path.isdir(path):
        return f"{path} is a directory; name an image file or a block device"
    if not creates and not os.path.exists(path):
        return f"{path} does not exist; {_make(config)}"
    return None


def _size(parameters: Any) -> int:
    if parameters.size is None:
        raise ConfigError("file: a new image needs a size; give --size")
    size: int = parameters.size
    return size


def _flag(config: DeviceConfig, key: str) -> bool:
    return config.choice(key, ("no", "yes")) == "yes"


def _make(config: DeviceConfig) -> str:
    return f"make it: txtcmu create {config.handler}/{config.path} --new --size SIZE"
