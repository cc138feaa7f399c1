"""A file system that remembers what a power cut would leave, and processes on it that can be killed at every call."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from txtcmu.objectstore.objectfiles import SystemCalls


class Killed(BaseException):
    """What a process sees of its death; every call of it raises this from then on, so it cannot tidy up."""


class CrashDisk:
    """What is durable below a directory, by POSIX alone: names after fsync of their directory, bytes of their file.

    :ivar durable: inode by path, as a power cut would leave them.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.durable: dict[str, int] = {}
        self._pending: dict[str, int | None] = {}
        self._synced: set[int] = set()

    def named(self, path: str, inode: int | None) -> None:
        """Take note of a name that was given or, by ``None``, removed."""
        self._pending[path] = inode

    def synced(self, fd: int) -> None:
        """Take note of an fsync."""
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            self._synced.add(status.st_ino)
            return
        folder = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self.root)
        for path in [each for each in self._pending if (os.path.dirname(each) or ".") == folder]:
            inode = self._pending.pop(path)
            if inode is None:
                self.durable.pop(path, None)
            else:
                self.durable[path] = inode

    def survivor(self, path: str) -> int | None:
        """Return the inode that a power cut would leave at ``path``, whole and reachable."""
        inode = self.durable.get(path)
        folder = os.path.dirname(path)
        while folder:
            if folder not in self.durable:
                return None
            folder = os.path.dirname(folder)
        return inode if inode in self._synced else None

    def process(self, calls: int | None = None) -> SystemCalls:
        """Return the system calls of a process, which is killed after so many of them."""
        return _Process(self, calls)


class _Process(SystemCalls):
    def __init__(self, disk: CrashDisk, calls: int | None) -> None:
        super().__init__()
        self._disk = disk
        self._left = calls
        self.write = self._mortal(self._write)
        self.fsync = self._mortal(self._fsync)
        self.mkdir = self._mortal(self._mkdir)
        self.link = self._mortal(self._link)
        self.rename = self._mortal(self._rename)
        self.unlink = self._mortal(self._unlink)

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._left is not None:
                if not self._left:
                    raise Killed
                self._left -= 1
            return call(*args, **kwargs)

        return wrapped

    def _write(self, fd: int, data: Any) -> int:
        return os.write(fd, data[: len(data) // 2 + 1])

    def _fsync(self, fd: int) -> None:
        self._disk.synced(fd)

    def _inode(self, path: str) -> int:
        return os.stat(os.path.join(self._disk.root, path)).st_ino

    def _mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:
        os.mkdir(path, mode, dir_fd=dir_fd)
        self._disk.named(path, self._inode(path))

    def _link(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._disk.named(target, self._inode(target))

    def _rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._disk.named(target, self._inode(target))
        self._disk.named(source, None)

    def _unlink(self, path: str, *, dir_fd: int) -> None:
        os.unlink(path, dir_fd=dir_fd)
        self._disk.named(path, None)
