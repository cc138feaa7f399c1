"""An object store on S3, or on anything that speaks S3.

Plain requests only, in one part, without chunk framing or trailers, which many stores get wrong.  The body's
SHA-256 is signed where nothing else protects it (http); Content-MD5 goes with every PUT, and :mod:`.checksums` tell
whether what is read is what was written.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import md5, sha256
from random import Random
from typing import Any, Protocol, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.checksums import CHECKSUMS, GRAIN, Damaged, Window, checksums, keyed, verify
from txtcmu.objectstore.http import HTTP, LARGE, Reply
from txtcmu.objectstore.listing import page_of
from txtcmu.objectstore.objects import ObjectDamaged, Receipt, StoredObject
from txtcmu.objectstore.retry import Doubts, Later, Patience, persist
from txtcmu.objectstore.s3errors import error_code, refusal
from txtcmu.objectstore.settings import S3Settings
from txtcmu.objectstore.startingline import StartingLine
from txtcmu.threads import run

__all__ = ["S3ObjectStore", "connect"]

_META = "x-amz-meta-"
# Seconds until an attempt is given up: for the reply to come, more with each one that hung, and for the bytes.
_QUICK = 2.0  # of a small object; its reply is all that takes time
_ANSWER = 5.0
_RATE = 1e6  # bytes per second
_SLOWER = 8  # times, at most: a slow line must get it through at last, however many share it
_NOTHING = sha256(b"").hexdigest()
_HASHED = 1 << 20  # more takes milliseconds: not in the reactor's thread
_DAMAGED = 4  # replies in a row, and it is the object that is damaged

T = TypeVar("T")


class _Signs(Protocol):
    generation: int

    async def reconsider(self, generation: int, code: str, date: str) -> bool: ...

    async def sign(self, method: str, url: str, headers: Mapping[str, str], payload_hash: str) -> dict[str, str]: ...


@implementer(IObjectStore)
class S3ObjectStore:
    """A bucket.

    :param signer: as :class:`txtcmu.objectstore.credentials.Signer`.
    :param agent: instead of real connections, in tests.
    :ivar settings: how it is reached.
    :ivar quote_etags: whether conditions carry etags in quotes, as the standard has it; some stores differ.
    """

    quote_etags = True
    _log = Logger()

    def __init__(
        self, reactor: Any, settings: S3Settings, signer: _Signs, patience: Patience | None = None, agent: Any = None
    ) -> None:
        self._reactor = reactor
        self.settings = settings
        self._signer = signer
        self._patience = patience or Patience(reactor, Random().random)
        self._http = HTTP(reactor, settings.connections, agent)
        self._signs_payload = settings.base.startswith("http:")
        self._in_trouble = False
        # What is known of the objects read last.
        self._grain = GRAIN
        self._size = 0
        self._etag_is_md5 = False

    def get(
        self, key: str, start: int = 0, length: int | None = None, *, checked: bool = True
    ) -> Deferred[StoredObject | None]:
        """Read an object or a part of it."""
        return Deferred.fromCoroutine(self._get(key, start, length, checked))

    def head(self, key: str) -> Deferred[StoredObject | None]:
        """Read what is known of an object."""
        return Deferred.fromCoroutine(self._head(key))

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
        """Create or replace an object."""
        return Deferred.fromCoroutine(self._put(key, bytes(data), metadata or {}, if_match, absent, checked))

    def delete(self, key: str, *, if_match: str | None = None) -> Deferred[Receipt]:
        """Remove an object."""
        return Deferred.fromCoroutine(self._delete(key, if_match))

    def list(self, prefix: str, after: str = "") -> Deferred[Sequence[StoredObject]]:
        """Return one page of keys."""
        return Deferred.fromCoroutine(self._list(prefix, after))

    def close(self) -> Deferred[None]:
        """Close connections."""
        return Deferred.fromCoroutine(self._http.close())

    def together(self, count: int, abreast: int) -> S3ObjectStore:
        """Return the same store for ``count`` PUTs that have to be at the server at the same time.

        They share its connections, but not the limit on them; it need not be closed.

        :param abreast: see :class:`.StartingLine`.
        """
        line = StartingLine(self._reactor, self._http.agent, count, abreast)
        settings = evolve(self.settings, connections=count)
        twin = S3ObjectStore(self._reactor, settings, self._signer, self._patience, line)
        twin.quote_etags = self.quote_etags
        return twin

    async def _get(self, key: str, start: int, length: int | None, checked: bool) -> StoredObject | None:
        if not checked:
            window = Window.around(start, length, 1)
            found, _ = await self._read(key, window, checked=False)
            return None if found is None else window.cut(found, start, length)
        grain = self._grain
        while True:
            window = Window.around(start, length, grain)
            found, needed = await self._read(key, window)
            if found is None:
                return None
            if needed is not None:
                self._grain = needed
            if needed is None or window.serves(needed, found.size):
                return window.cut(found, start, length)
            grain = needed

    async def _head(self, key: str) -> StoredObject | None:
        # HEAD has no error codes: its 404 may be a proxy's, its 403 says nothing.  One byte costs no more.
        window = Window(0, 1)
        found, _ = await self._read(key, window, checked=False)
        return None if found is None else window.cut(found, 0, 0)

    async def _read(self, key: str, window: Window, checked: bool = True) -> tuple[StoredObject | None, int | None]:
        """Return a part of an object, and the grain of its checksums as :func:`.verify` does."""
        url = self.settings.url(key)
        reads = (self._size if window.stop is None else window.stop) - window.start
        damaged = 0

        async def attempt(doubts: Doubts) -> tuple[StoredObject | None, int | None]:
            nonlocal damaged
            reply = await self._attempt("GET", url, window.header, b"", _NOTHING, doubts.hung, reads)
            if reply.status == 404:
                code = error_code(reply.body)[0]
                if code == "NoSuchKey":
                    return None, None
                # To a disk, absence is data, and any proxy in between says 404 as well; or a bit of the code flipped.
                damaged += 1
                if code != "NoSuchBucket" and damaged < _DAMAGED:
                    raise Later(f"{key}: a 404 that says nothing", doubtful=False)
            if reply.status == 416:
                found = await self._head_request(key, doubts.hung)
                if found is not None and found.size > window.start:
                    raise Later(f"{key}: it was replaced while it was read", doubtful=False)
                return found, None
            if reply.status not in (200, 206):
                raise self._refuse(reply)
            part = self._part(key, window, reply)
            self._size = part.size
            if not checked:
                return part, None
            try:
                return part, verify(part, window, self._etag_is_md5 and not keyed(reply.headers))
            except Damaged as error:
                damaged += 1
                if damaged < _DAMAGED:
                    raise Later(f"{key}: {error}", doubtful=False) from None
                raise ObjectDamaged(
                    f"GET {key}: {error} ({damaged} times); write it anew, or mend what alters it on its way"
                ) from None

        return await self._persist(f"GET {key}", attempt)

    def _part(self, key: str, window: Window, reply: Reply) -> StoredObject:
        found = self._describe(key, reply)
        if reply.status == 200:  # to a Range as well: a store may ignore it
            return evolve(found, data=reply.body[window.start : window.stop])
        first, _, size = reply.headers.get("content-range", "").removeprefix("bytes ").partition("/")
        if not first.startswith(f"{window.start}-") or not size.isdecimal():
            raise Later(f"{key}: the store answered a range that was not asked for", doubtful=False)
        if len(reply.body) != min(int(size), window.stop or int(size)) - window.start:
            raise Later(
                f"{key}: the store answered {len(reply.body)} bytes of {window.header['Range']}", doubtful=False
            )
        return evolve(found, size=int(size), data=reply.body)

    async def _head_request(self, key: str, hung: int) -> StoredObject | None:
        reply = await self._attempt("HEAD", self.settings.url(key), {}, b"", _NOTHING, hung)
        if reply.status not in (200, 404):
            raise self._refuse(reply)
        if reply.status == 404:
            return None
        size = reply.headers.get("content-length", "")
        if not size.isdecimal():
            raise Later(f"{key}: the store did not tell its size", doubtful=False)
        return evolve(self._describe(key, reply), size=int(size))

    async def _put(
        self, key: str, body: bytes, metadata: Mapping[str, str], if_match: str | None, absent: bool, checked: bool
    ) -> Receipt:
        headers = {_META + name: value for name, value in metadata.items()}
        if len(body) > _HASHED:
            # The body is this store's own, so who cancels need not wait for the thread.
            pool = self._reactor.getThreadPool()
            digest, payload_hash, sums = await deferToThreadPool(self._reactor, pool, self._hash, body, checked)
        else:
            digest, payload_hash, sums = self._hash(body, checked)
        if checked:
            headers[_META + CHECKSUMS] = sums
        headers["Content-MD5"] = b64encode(digest).decode("ascii")
        headers["Content-Type"] = "application/octet-stream"
        if absent:
            headers["If-None-Match"] = "*"
        receipt = await self._conditional("PUT", key, if_match, headers, body, payload_hash)
        self._etag_is_md5 = receipt.etag == digest.hex()
        return receipt

    async def _delete(self, key: str, if_match: str | None) -> Receipt:
        return await self._conditional("DELETE", key, if_match, {}, b"", _NOTHING)

    async def _conditional(
        self, method: str, key: str, if_match: str | None, headers: dict[str, str], body: bytes, payload_hash: str
    ) -> Receipt:
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"' if self.quote_etags else if_match
        refused = (404, 412) if if_match is not None else (412,)

        async def attempt(doubts: Doubts) -> Receipt:
            reply = await self._attempt(method, self.settings.url(key), headers, body, payload_hash, doubts.hung)
            if reply.status == 412 or (reply.status in refused and error_code(reply.body)[0] == "NoSuchKey"):
                raise PreconditionFailed(f"{key}: the object is not as the condition says")
            if reply.status not in (200, 204) and not (method == "DELETE" and reply.status == 404):
                raise self._refuse(reply)
            etag = reply.headers.get("etag", "").strip('"')
            if method == "PUT" and not etag:
                raise ObjectStoreError(f"{key}: the store sent no ETag with a PUT; it cannot be used")
            return Receipt(etag, doubts.count)

        return await self._persist(f"{method} {key}", attempt)

    async def _list(self, prefix: str, after: str) -> Sequence[StoredObject]:
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if after:
            query["start-after"] = after
        url = self.settings.url("", query.items())
        damaged = 0

        async def attempt(doubts: Doubts) -> list[StoredObject]:
            nonlocal damaged
            reply = await self._attempt("GET", url, {}, b"", _NOTHING, doubts.hung)
            if reply.status != 200:
                raise self._refuse(reply)
            try:
                return page_of(reply.body, prefix, after)
            except ValueError as error:
                damaged += 1
                reason = f"LIST {prefix}: the store answered something that is no list ({error})"
                if damaged < _DAMAGED:
                    raise Later(reason, doubtful=False) from None
                raise ObjectStoreError(f"{reason}; see whether the endpoint is that of an S3 service") from None

        return await self._persist(f"LIST {prefix}", attempt)

    async def _attempt(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        payload_hash: str,
        hung: int,
        reads: int | None = None,
    ) -> Reply:
        """Make one attempt, and another if a new signature may mend what is wrong.

        :param hung: how many earlier attempts of this request were not answered in time.
        :param reads: how many bytes of an object will come, ``None`` if it is none that is read.
        """
        answer = _QUICK if reads is not None and reads < LARGE else _ANSWER
        seconds = min(self.settings.request_timeout, answer * 2.0 ** min(hung, 30))
        seconds += max(len(body), reads or 0) / _RATE * min(_SLOWER, 2**hung)
        while True:
            signed = await self._signer.sign(method, url, headers, payload_hash)
            generation = self._signer.generation
            reply = await self._http.exchange(method, url, signed, body, seconds)
            if reply.status not in (400, 401, 403):
                return reply
            code, date = error_code(reply.body)[0], reply.headers.get("date", "")
            if not await self._signer.reconsider(generation, code, date):
                return reply

    async def _persist(self, what: str, attempt: Callable[[Doubts], Awaitable[T]]) -> T:
        result = await persist(self._patience, what, attempt, self._trouble)
        if self._in_trouble:
            self._in_trouble = False
            self._log.info("bucket {bucket}: the store answers again", bucket=self.settings.bucket)
        return result

    def _trouble(self, reason: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._log.warn("bucket {bucket}: {reason}; trying again", bucket=self.settings.bucket, reason=reason)

    def _refuse(self, reply: Reply) -> Later | ObjectStoreError:
        return refusal(self.settings, reply.status, reply.headers, reply.body)

    def _hash(self, body: bytes, checked: bool) -> tuple[bytes, str, str]:
        """Return MD5, signed hash and checksums (``""`` unless they are wanted) of a body."""
        payload_hash = sha256(body).hexdigest() if self._signs_payload else "UNSIGNED-PAYLOAD"
        return md5(body, usedforsecurity=False).digest(), payload_hash, checksums(body) if checked else ""

    @staticmethod
    def _describe(key: str, reply: Reply) -> StoredObject:
        headers = reply.headers
        metadata = {name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)}
        return StoredObject(
            key,
            headers.get("etag", "").strip('"'),
            len(reply.body),
            metadata=metadata,
            encoding=headers.get("content-encoding", ""),
        )


async def connect(reactor: Any, settings: S3Settings) -> S3ObjectStore:
    """Find credentials, in a thread, and return the store; nothing is sent to it yet."""

    def prepare() -> tuple[_Signs, S3Settings]:
        from txtcmu.objectstore.credentials import load  # a third of a second of imports

        return load(reactor, settings)

    signer, complete = await run(reactor, prepare)
    return S3ObjectStore(reactor, complete, signer)
