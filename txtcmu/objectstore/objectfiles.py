"""Objects as files: written, replaced and found so that neither a kill nor a power cut shows half of one.

A file holds the body, a description (JSON: key, etag, metadata), and :data:`_TAIL`.  It is written and fsynced under
a name in ``temporary/``, gets its own name in ``objects/`` by ``link()`` or ``rename()``, and then its directory is
fsynced.  The name in ``temporary/`` goes last: *a file with two names may not be durable yet*.  Whoever meets one
fsyncs its directory before telling anybody of it, since its writer may have been killed in between, or have had no
descriptor left for the directory.  So what was seen once is not lost by a power cut.  (Backups made of hard links make
every read pay for that.)

Who replaces or removes holds ``flock`` on ``lock`` for that moment.  Who writes a temporary file holds ``flock`` on
it: one that can be locked has lost its writer, and is swept.

Directories are never removed.  Everything here blocks, and may run in several threads.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from secrets import token_hex
from struct import Struct
from threading import Lock
from typing import Any
from zlib import crc32

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.objectstore.filenames import path_of, walk
from txtcmu.objectstore.objects import ObjectDamaged, StoreBroken, StoredObject
from txtcmu.objectstore.retry import Later

__all__ = ["ObjectFiles", "SystemCalls"]

_TAIL = Struct("<II8s")  # length and CRC-32 of the description
_MAGIC = b"txtcmu1\n"
_GUESS = 1024  # bytes that hold the tail and nearly every description
_OBJECTS = "objects/"
_TEMPORARY = "temporary/"
_LOCK = "lock"
_PAGE = 1000


class SystemCalls:
    """The calls that touch objects, each replaceable: a test overrides the one that is to fail."""

    def __init__(self) -> None:
        self.open = os.open
        self.pread = os.pread
        self.write = os.write
        self.fsync = os.fsync
        self.mkdir = os.mkdir
        self.link = os.link
        self.rename = os.rename
        self.unlink = os.unlink


class _FileDamaged(ObjectDamaged):
    """A file that is not as it was written; ``size`` is its length."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class ObjectFiles:
    """The objects in a directory, which must exist.

    Every method raises :class:`OSError` when the system refuses; then nothing has happened, or all of it, and whoever
    is told of an object is told of a durable one.

    :param path: it is held open, and so cannot be unmounted and be taken for empty.
    """

    def __init__(self, path: str, system: SystemCalls | None = None) -> None:
        self.path = path
        self._system = system or SystemCalls()
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._turn = Lock()
        self._durable: set[str] = set()  # directories made, or seen to be made, for good
        self._failure = ""

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)

    def put(self, key: str, data: Any, metadata: Mapping[str, str], if_match: str | None, absent: bool) -> str:
        """Create or replace an object; return its etag, which is random and so never comes back.

        :raise PreconditionFailed: the condition does not hold.
        :raise Later: another process holds the lock.
        :raise StoreBroken: an fsync of a directory failed, now or earlier: nobody knows what is durable.
        """
        self._refuse_after_failure()
        try:
            return self._put(key, data, metadata, if_match, absent)
        except FileNotFoundError:
            self._nothing()
            self._durable.clear()  # somebody tidied up empty directories
            return self._put(key, data, metadata, if_match, absent)

    def delete(self, key: str, if_match: str | None) -> None:
        """Remove an object, if it is there; errors as for :meth:`put`."""
        self._refuse_after_failure()
        path = _OBJECTS + path_of(key)
        try:
            with self._lock():
                self._compare(key, if_match)
                self._unlink(path)
        except FileNotFoundError:
            self._nothing()
        try:
            self._fsync_folder(path)  # gone since a moment ago, perhaps
        except FileNotFoundError:
            pass

    def get(self, key: str, start: int, length: int | None) -> StoredObject | None:
        """Return an object with ``length`` bytes of it from ``start`` on."""
        path = _OBJECTS + path_of(key)
        try:
            fd = self._system.open(path, os.O_RDONLY, dir_fd=self._root)
        except FileNotFoundError:
            self._nothing()
            return None
        try:
            description, size = self._describe(fd, path)
            if description["key"] != key:
                raise ObjectStoreError(
                    f"{self.path}/{path} holds {description['key']!r}: it was renamed, or the file system ignores case;"
                    " name it back, or use another file system"
                )
            if os.fstat(fd).st_nlink > 1:
                self._fsync_folder(path)
            end = size if length is None else min(start + length, size)
            data = self._read(fd, start, end)
            return StoredObject(key, description["etag"], size, data, description["metadata"])
        finally:
            os.close(fd)

    def list(self, prefix: str, after: str) -> Sequence[StoredObject]:
        """Return the first objects with ``prefix`` behind ``after``; a damaged one has no etag."""
        page = []
        found: StoredObject | None
        for _, key in islice(walk(self._names_in, _encode(prefix), _encode(after)), _PAGE):
            try:
                found = self.get(key, 0, 0)
            except _FileDamaged as damage:
                found = StoredObject(key, "", damage.size)
            if found is not None:
                page.append(found)
        return page

    def sweep(self) -> None:
        """Remove the temporary files of processes that are dead."""
        for name in self._names(_TEMPORARY):
            path = _TEMPORARY + name
            try:
                fd = self._system.open(path, os.O_RDWR, dir_fd=self._root)
            except FileNotFoundError:
                continue
            try:
                if _try_lock(fd):
                    if os.fstat(fd).st_nlink > 1:  # killed after link(), or between link() and rename()
                        self._fsync_folder(_OBJECTS + path_of(self._describe(fd, path)[0]["key"]))
                    self._unlink(path)
            except FileNotFoundError:
                pass  # somebody else removed it
            finally:
                os.close(fd)

    def _put(self, key: str, data: Any, metadata: Mapping[str, str], if_match: str | None, absent: bool) -> str:
        path = _OBJECTS + path_of(key)
        etag = token_hex(16)
        description = json.dumps({"key": key, "etag": etag, "metadata": dict(metadata)}).encode()
        fd, temporary = self._make_temporary()
        pending = False  # while it is, the second name goes on telling that the object may not be durable
        with os.fdopen(fd, "wb", 0):
            try:
                for piece in (data, description, _TAIL.pack(len(description), crc32(description), _MAGIC)):
                    self._write(fd, memoryview(piece).cast("B"))
                self._system.fsync(fd)
                self._make_folders(path)
                if absent:
                    self._create(temporary, path, key)
                else:
                    self._replace(temporary, path, key, if_match)
                pending = True
                self._fsync_folder(path)
                pending = False
            finally:
                if not pending:
                    for name in (temporary, temporary + "+"):
                        try:
                            self._unlink(name)
                        except OSError:
                            pass  # there is none, or it will be swept
        return etag

    def _make_temporary(self) -> tuple[int, str]:
        """Return descriptor and path of a new file, locked."""
        while True:
            path = _TEMPORARY + token_hex(8)
            self._make_folders(path)
            fd = self._system.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._root)
            try:
                if _try_lock(fd) and os.fstat(fd).st_nlink:
                    return fd, path
            except OSError:
                os.close(fd)
                raise
            os.close(fd)  # it is being swept: it had no writer yet

    def _create(self, temporary: str, path: str, key: str) -> None:
        try:
            self._system.link(temporary, path, src_dir_fd=self._root, dst_dir_fd=self._root)
        except FileExistsError:
            self.get(key, 0, 0)  # who is told that it exists builds on it: it must be durable
            raise PreconditionFailed(f"{key}: the object exists") from None

    def _replace(self, temporary: str, path: str, key: str, if_match: str | None) -> None:
        second = temporary + "+"
        with self._lock():
            self._compare(key, if_match)
            self._system.link(temporary, second, src_dir_fd=self._root, dst_dir_fd=self._root)
            self._system.rename(second, path, src_dir_fd=self._root, dst_dir_fd=self._root)

    def _compare(self, key: str, if_match: str | None) -> None:
        if if_match is not None:
            found = self.get(key, 0, 0)
            if found is None or found.etag != if_match:
                raise PreconditionFailed(f"{key}: the object is not the one that the condition names")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep out other threads, for which we wait, and processes, for which we do not: they may be stopped."""
        with self._turn:
            fd = self._system.open(_LOCK, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=self._root)
            try:
                if not _try_lock(fd):
                    raise Later(f"another process holds {self.path}/{_LOCK}", doubtful=False)
                yield
            finally:
                os.close(fd)

    def _make_folders(self, path: str) -> None:
        """Make the directories on the way to ``path``, durably; others may have made them, and been killed."""
        end = path.find("/")
        while end >= 0:
            folder = path[:end]
            if folder not in self._durable:
                try:
                    self._system.mkdir(folder, 0o700, dir_fd=self._root)
                except FileExistsError:
                    pass
                self._fsync_folder(folder)
                self._durable.add(folder)
            end = path.find("/", end + 1)

    def _fsync_folder(self, path: str) -> None:
        """Make the names in the directory that ``path`` is in durable.

        An fsync that failed is not tried again: the next one would succeed, and mean nothing.
        """
        self._refuse_after_failure()
        fd = self._system.open(path.rpartition("/")[0] or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        try:
            self._system.fsync(fd)
        except OSError as error:
            self._failure = (
                f"{self.path}: fsync of a directory failed ({error.strerror}), so what is durable is not known;"
                " see dmesg, check the file system, then start anew"
            )
        finally:
            os.close(fd)
        self._refuse_after_failure()  # one beside this may have failed for what this should have written

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise StoreBroken(self._failure)

    def _describe(self, fd: int, path: str) -> tuple[dict[str, Any], int]:
        """Return the description of a file, and the length of its body."""
        whole = os.fstat(fd).st_size
        end = self._read(fd, max(0, whole - _GUESS), whole)
        if len(end) >= _TAIL.size:
            length, checksum, magic = _TAIL.unpack(end[-_TAIL.size :])
            size = whole - _TAIL.size - length
            if magic == _MAGIC and size >= 0:
                description = (end if len(end) >= whole - size else self._read(fd, size, whole))[
                    size - whole : -_TAIL.size
                ]
                if crc32(description) == checksum:
                    return json.loads(description), size
        raise _FileDamaged(f"{self.path}/{path} is damaged, or not of this store; restore it, or remove it", whole)

    def _nothing(self) -> None:
        """Tell what does not exist from what was removed with all the rest."""
        if not os.fstat(self._root).st_nlink:
            raise ObjectStoreError(f"{self.path} was removed while in use; restore it and start anew")

    def _read(self, fd: int, start: int, end: int) -> bytes:
        pieces = []
        while start < end and (piece := self._system.pread(fd, end - start, start)):
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _write(self, fd: int, data: memoryview) -> None:
        while data:
            data = data[self._system.write(fd, data) :]

    def _unlink(self, path: str) -> None:
        self._system.unlink(path, dir_fd=self._root)

    def _names_in(self, folder: str) -> Sequence[str]:
        return self._names(_OBJECTS + folder)

    def _names(self, folder: str) -> Sequence[str]:
        try:
            fd = self._system.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            self._nothing()
            return ()
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # of a prefix that no key can have


def _try_lock(fd: int) -> bool:
    """Lock a file unless somebody has; it is unlocked when it is closed, or its process dies."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
