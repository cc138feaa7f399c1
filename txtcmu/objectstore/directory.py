"""An object store in a directory of this host: no server, no network.

Any number of processes of one host may share it; several hosts may not, even where the file system is shared, since
its locks and links need not reach from one to the other.  The file system needs hard links and a case of its own
for each letter: ext4, XFS, btrfs, ZFS and tmpfs have them.

Every call runs in the reactor's thread pool and cannot be recalled: a Deferred that is cancelled fires when its call
has ended, and ``data`` is not touched afterwards.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from txtcmu.errors import ObjectStoreError, SpaceExhaustedError, StoreUnavailable
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.objectfiles import ObjectFiles, SystemCalls
from txtcmu.objectstore.objects import ObjectDamaged, Receipt, StoredObject
from txtcmu.objectstore.retry import Doubts, Patience, persist
from txtcmu.threads import run, uncancellable

__all__ = ["DirectoryObjectStore", "StoreFull", "connect"]

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MENDS = {
    errno.EACCES: "let the user that this process runs as read and write everything in it (chown -R)",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or use a smaller object_size",
    errno.EMLINK: "the file system has no room for another name of a file; use ext4, XFS or btrfs",
    errno.ENAMETOOLONG: "the file system wants shorter names; use a shorter prefix, or another file system",
    errno.ENOENT: "something else removes files there; stop it",
    errno.ENOTDIR: "it, or something in it, should be a directory; look what is there",
    errno.EOPNOTSUPP: "the file system lacks hard links or locks; use ext4, XFS or btrfs",
    errno.EPERM: "the file system lacks hard links, or forbids changes (lsattr); use ext4, XFS or btrfs",
    errno.EROFS: "the file system is read-only; see dmesg for why, and remount it (mount -o remount,rw)",
}
_LATER = {
    errno.EMFILE: "raise the limit on open files (LimitNOFILE in systemd)",
}
_LOST = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})


class StoreFull(SpaceExhaustedError, ObjectStoreError):  # noqa: N818 - named as the others
    """There is no room; nothing was changed."""


async def connect(reactor: Any, path: str, system: SystemCalls | None = None) -> DirectoryObjectStore:
    """Open the directory ``path``, which must exist, and sweep what dead processes left in it.

    :param system: instead of real system calls, in tests.
    :raise ObjectStoreError: it cannot be used; the line says why.
    """
    return DirectoryObjectStore(reactor, await run(reactor, _open, path, system))


def _open(path: str, system: SystemCalls | None) -> ObjectFiles:
    try:
        files = ObjectFiles(path, system)
    except FileNotFoundError:
        raise ObjectStoreError(f"{path} does not exist; make it: mkdir -p {path}") from None
    except OSError as error:
        raise _explain(error, path) from error
    try:
        files.sweep()
    except (OSError, ObjectStoreError):
        pass  # who may only read need not be able to; who writes meets the error again
    return files


def _explain(error: OSError, path: str, reading: bool = False) -> ObjectStoreError:
    """Return the exception that says what ``error`` means to a user of the store."""
    what = f"{path}: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
    code = error.errno or 0
    if code in _FULL:
        return StoreFull(f"{what}; free space there, or raise the quota")
    if code in _MENDS:
        return ObjectStoreError(f"{what}; {_MENDS[code]}")
    if reading and code in _LOST:
        return ObjectDamaged(f"{what}; the disk beneath has lost data: see dmesg, and restore it from a backup")
    return StoreUnavailable(f"{what}; {_LATER.get(code, 'see dmesg, and whether the disk beneath is well')}")


@implementer(IObjectStore)
class DirectoryObjectStore:
    """Objects in files of one directory; made by :func:`connect`.

    An etag is a random number: neither other content nor the same content ever has it again.

    :param files: belongs to the store from now on.
    """

    _log = Logger()

    def __init__(self, reactor: Any, files: ObjectFiles, patience: Patience | None = None) -> None:
        self._reactor = reactor
        self._files = files
        # Who holds the lock does so for microseconds, unless he was stopped.
        self._patience = patience or Patience(reactor, Random().random, first=0.005, longest=0.5)
        self._outstanding: set[Deferred[Any]] = set()
        self._idle: Deferred[None] = Deferred()  # fires when the last of them ends
        self._closed = False

    def get(
        self, key: str, start: int = 0, length: int | None = None, *, checked: bool = True
    ) -> Deferred[StoredObject | None]:
        """Read an object or a part of it."""
        return self._start(self._run(True, self._files.get, key, start, length))

    def head(self, key: str) -> Deferred[StoredObject | None]:
        """Read what is known of an object."""
        return self.get(key, 0, 0)

    def put(
        self,
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        absent: bool = False,
        checked: bool = True,
    ) -> Deferred[Receipt]:
        """Create or replace an object; durable when the Deferred fires."""
        return self._start(self._put(key, data, metadata or {}, if_match, absent))

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object; durable when the Deferred fires."""
        return self._start(self._delete(key, if_match))

    def list(self, prefix: str, after: str = "") -> Deferred[Sequence[StoredObject]]:
        """Return one page of keys; an object whose file is damaged has no etag."""
        return self._start(self._run(True, self._files.list, prefix, after))

    def close(self) -> Deferred[None]:
        """Wait for what runs in threads, fail what only waits, and close the directory."""
        return Deferred.fromCoroutine(self._close())

    async def _put(
        self, key: str, data: Any, metadata: Mapping[str, str], if_match: str | None, absent: bool
    ) -> Receipt:
        return Receipt(await self._change(f"PUT {key}", self._files.put, key, data, metadata, if_match, absent))

    async def _delete(self, key: str, if_match: str | None) -> Receipt:
        await self._change(f"DELETE {key}", self._files.delete, key, if_match)
        return Receipt("")

    async def _change(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function that needs the lock until it gets it."""

        async def attempt(_: Doubts) -> T:
            if self._closed:
                raise self._refusal()
            return await self._run(False, function, *args)

        return await persist(self._patience, what, attempt, self._trouble)

    async def _run(self, reading: bool, function: Callable[..., T], *args: Any) -> T:
        try:
            return await run(self._reactor, function, *args)
        except OSError as error:
            raise _explain(error, self._files.path, reading) from error

    def _start(self, call: Coroutine[Any, Any, T]) -> Deferred[T]:
        if self._closed:
            call.close()
            return fail(self._refusal())
        request = Deferred.fromCoroutine(call)
        self._outstanding.add(request)
        return request.addBoth(self._ended, request)

    def _ended(self, result: Any, request: Deferred[Any]) -> Any:
        self._outstanding.remove(request)
        if not self._outstanding:
            self._idle.callback(None)
            self._idle = Deferred()
        return result

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._outstanding:
            idle = self._idle
            for request in tuple(self._outstanding):
                request.cancel()
            await uncancellable(idle)
        await run(self._reactor, self._files.close)

    def _refusal(self) -> ObjectStoreError:
        return ObjectStoreError(f"{self._files.path}: the store is closed; connect anew")

    def _trouble(self, reason: str) -> None:
        self._log.debug("{reason}; trying again", reason=reason)
