"""``memory/NAME``: a disk in this host's memory.

It is a file in shared memory (tmpfs), so that it survives the daemon, costs nothing until written, and gives
back what is discarded.  It is read and written by system calls although it could be mapped: a write that finds
the memory full is an error then, and not the SIGBUS that would end the daemon with all its devices.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from txtcmu.backstores.image import Image, create_image, open_image
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError
from txtcmu.interfaces import (
    IBackstore,
    IBackstoreFactory,
    IBlockStatus,
    IDiscard,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.threads import run

__all__ = ["MemoryBackstore", "MemoryFactory"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONG = 64 << 20  # freeing it takes 8 ms: more is no work for the reactor's thread


@implementer(IBackstore, IVectoredBackstore, IDiscard, IWriteZeroes, IBlockStatus, IResizable)
class MemoryBackstore:
    """A disk in memory, whose operations are done when they return.

    :param storage: how many bytes, for a disk that ends with its last user; or the image of a named one.
    :param reactor: with one, what takes long goes to a thread.
    """

    read_only = False
    physical_block_size = 512  # nothing is ever read first
    discard_zeroes = True

    def __init__(self, storage: int | Image, reactor: Any = None) -> None:
        if isinstance(storage, int):
            fd = os.memfd_create("txtcmu", os.MFD_CLOEXEC)
            os.ftruncate(fd, storage)
            storage = Image(fd)
        self._image = storage
        self.discard_granularity = storage.discard_granularity
        self._fd = storage.fd
        self._preadv = storage.system.preadv
        self._pwritev = storage.system.pwritev
        self._reactor = reactor

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._image.size

    def readv(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill ``buffers``."""
        if len(buffers) == 1:  # tmpfs gives all of it at once, but not of more buffers than IOV_MAX
            return self._preadv(self._fd, buffers, offset)
        return self._image.read_into(offset, buffers)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes."""
        return os.pread(self._fd, length, offset)

    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers``."""
        if len(buffers) != 1 or self._pwritev(self._fd, buffers, offset) != len(buffers[0]):
            self._image.write_from(offset, buffers)  # which raises, when it was memory that lacked

    def write(self, offset: int, data: memoryview) -> None:
        """Store ``data``."""
        self.writev(offset, [data])

    def flush(self) -> None:
        """Do nothing: memory is as durable as it gets."""

    def discard(self, offset: int, length: int) -> Deferred[None] | None:
        """Give memory back."""
        if length > _LONG and self._reactor is not None:
            return run(self._reactor, self._image.discard, offset, length)
        self._image.discard(offset, length)
        return None

    # Memory that holds zeroes is better free.
    write_zeroes = discard

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]] | Deferred[list[tuple[int, bool]]]:
        """Tell what memory is taken: looked up page by page."""
        if length > _LONG and self._reactor is not None:
            return run(self._reactor, self._image.extents, offset, length)
        return self._image.extents(offset, length)

    def resize(self, size: int) -> Deferred[None] | None:
        """Grow, which takes no memory until it is written, or shrink, which gives it back."""
        if self.size - size > _LONG and self._reactor is not None:
            return run(self._reactor, self._image.resize, size)
        self._image.resize(size)
        return None

    def close(self) -> None:
        """Let go of the memory, which a named disk keeps."""
        self._image.close()


@implementer(IPlugin, IBackstoreFactory)
@frozen
class MemoryFactory:
    """The handler ``memory``.

    :ivar directory: a directory on tmpfs.
    """

    directory: str = "/dev/shm"

    name = "memory"
    summary = "a disk in this host's memory, for tests and scratch space"
    config_help = """\
memory/NAME: a disk of the LUN's size in the file /dev/shm/txtcmu-NAME.  Memory is taken when it is written and
given back when it is discarded.  The disk survives the daemon, not the host; remove the file to end it.
create=yes  make it when there is none (default no)"""
    options = frozenset({"create"})

    def path(self, config: DeviceConfig) -> str:
        """Return where the memory of a disk is."""
        if not _NAME.fullmatch(config.path):
            raise ConfigError(f"memory/{config.path}: a name has letters, digits, '_', '.' and '-' only; rename it")
        return os.path.join(self.directory, f"txtcmu-{config.path}")

    def check(self, config: Any) -> str | None:
        """Say what is wrong with the name, or whether the disk is missing."""
        try:
            path, creates = self.path(config), _creates(config)
        except ConfigError as error:
            return str(error)
        return None if creates or os.path.exists(path) else f"{path} does not exist; {_make(config)}"

    def create(self, parameters: Any) -> None:
        """Make a disk of the LUN's size."""
        if parameters.size is None:
            raise ConfigError("memory: a new disk needs a size; give --size")
        create_image(self.path(parameters.config), parameters.size)

    def open(self, parameters: Any) -> MemoryBackstore:
        """Open a disk that exists."""
        path = self.path(parameters.config)
        if _creates(parameters.config) and not os.path.lexists(path):
            self.create(parameters)
        _refuse_foreign(path)
        image = open_image(path, block_size=parameters.block_size, make=_make(parameters.config))
        return MemoryBackstore(image, parameters.reactor)


def _refuse_foreign(path: str) -> None:
    """Refuse what somebody else put into the directory, where everybody may: a link, or a file of theirs."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} is not a file of ours; remove it or choose another name")


def _creates(config: DeviceConfig) -> bool:
    return config.choice("create", ("no", "yes")) == "yes"


def _make(config: DeviceConfig) -> str:
    return f"make it: txtcmu create memory/{config.path} --new --size SIZE"
