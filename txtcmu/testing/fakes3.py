"""An S3 server in memory that checks signatures, honours conditions, and fails as it is told to.

It is a resource of Twisted's web server.  :meth:`FakeS3.connect` reaches it without a network, so that a
:class:`~twisted.internet.task.Clock` decides when anything happens; a ``Site`` serves it on a real port.

What makes object stores hard is that a request has three moments: it is sent, applied and answered.  A
:class:`Fault` moves the second and third apart, or leaves one out.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5, sha256
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from attrs import define, field, frozen
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from txtcmu.errors import PreconditionFailed
from txtcmu.objectstore.credentials import Signer
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.retry import Patience
from txtcmu.objectstore.s3 import S3ObjectStore
from txtcmu.objectstore.settings import S3Settings

__all__ = ["FakeS3", "Fault"]

_META = b"x-amz-meta-"
_NO_BODY = frozenset({204, 304})


@define
class Fault:
    """What to do with the next requests that match, instead of applying and answering them at once.

    :ivar method: of the request, ``""`` for any; and :ivar key: a part of its key.
    :ivar times: how many requests it befalls.
    :ivar applied: seconds from arrival until the request takes effect; ``None`` for never.
    :ivar answered: seconds from arrival until the reply; ``None`` for never.
    :ivar status: instead of the status that would be due, with :ivar code: in the body.
    :ivar retry_after: the header of that name.
    :ivar reset: break the connection instead of answering.
    :ivar truncate: break the connection when so many bytes of the body are sent.
    """

    method: str = ""
    key: str = ""
    times: int = 1
    applied: float | None = 0.0
    answered: float | None = 0.0
    status: int | None = None
    code: str = ""
    retry_after: str = ""
    reset: bool = False
    truncate: int | None = None

    @classmethod
    def refuse(cls, status: int, code: str = "", **where: Any) -> Fault:
        """Answer an error, and do nothing."""
        return cls(applied=None, status=status, code=code, **where)

    @classmethod
    def hang(cls, **where: Any) -> Fault:
        """Do nothing, and do not answer."""
        return cls(applied=None, answered=None, **where)

    @classmethod
    def lose_reply(cls, **where: Any) -> Fault:
        """Apply it, and break the connection."""
        return cls(reset=True, **where)

    @classmethod
    def late(cls, seconds: float, **where: Any) -> Fault:
        """Apply it after so long, and never answer."""
        return cls(applied=seconds, answered=None, **where)

    def hits(self, method: str, key: str) -> bool:
        """Tell whether a request falls to it, and count."""
        if self.times <= 0 or (self.method and method != self.method) or self.key not in key:
            return False
        self.times -= 1
        return True


@frozen
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(factory=dict)


def _error(status: int, code: str) -> _Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return _Answer(status, body.encode(), {"Content-Type": "application/xml"})


class FakeS3(Resource):
    """One bucket.

    :ivar objects: what is stored, a :class:`~txtcmu.objectstore.memory.MemoryObjectStore`.
    :ivar faults: asked in order; the first that matches acts.
    :ivar requests: method, key and status of each request that arrived (status 0: not yet, or never, applied).
    :ivar conditions: False makes it a store that ignores conditions, as several do.
    :ivar delete_conditions: the same for DELETE alone.
    """

    isLeaf = True
    conditions = True
    delete_conditions = True
    bucket = "disks"
    access_key = "fake-key"
    secret_key = "fake-secret"
    region = "us-east-1"

    def __init__(self, clock: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clock = clock
        self.objects = MemoryObjectStore()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self._agent: Any = RequestTraversalAgent(self)  # type: ignore[no-untyped-call]

    def connect(self, patience: Patience | None = None, **settings: Any) -> S3ObjectStore:
        """Return a store whose requests come here; ``settings`` are those of ``S3Settings``."""
        chosen = S3Settings(**{"bucket": self.bucket, "endpoint": "http://fake.test", **settings})
        signer = Signer(self.clock, Credentials(self.access_key, self.secret_key), settings.get("region", self.region))
        return S3ObjectStore(
            self.clock, chosen, signer, patience or Patience(self.clock, lambda: 1.0), agent=self._agent
        )

    def count(self, method: str, key: str = "") -> int:
        """Return how many requests of a method arrived whose key holds ``key``."""
        return sum(1 for each, where, _ in self.requests if each == method and key in where)

    def render(self, request: Any) -> int:
        """Take a request; apply and answer it when its fault says."""
        method = request.method.decode("ascii")
        bucket, _, quoted = request.path.decode("ascii").lstrip("/").partition("/")
        key = unquote(quoted)
        number = len(self.requests)
        self.requests.append((method, key, 0))
        body = request.content.read() if request.content is not None else b""
        refused = self._check(request, method, bucket, body)
        fault = next((each for each in self.faults if each.hits(method, key)), Fault())
        answer = refused or _error(500, "InternalError")
        gone: list[Any] = []
        finished: Deferred[None] = request.notifyFinish()
        finished.addErrback(gone.append)

        def apply() -> None:
            nonlocal answer
            answer = refused or self._apply(request, method, key, body)
            self.requests[number] = (method, key, answer.status)

        def respond() -> None:
            if not gone:
                self._respond(request, method, fault, answer)
                if fault.answered:
                    self._agent.flush()

        if fault.applied is not None:
            self._after(fault.applied, apply)
        if fault.answered is not None:
            self._after(fault.answered, respond)
        return NOT_DONE_YET

    def _after(self, seconds: float, action: Any) -> None:
        if seconds:
            self.clock.callLater(seconds, action)
        else:
            action()

    def _respond(self, request: Any, method: str, fault: Fault, answer: _Answer) -> None:
        if fault.reset:
            request.loseConnection()
            return
        if fault.status is not None:
            answer = _error(fault.status, fault.code)
        request.setResponseCode(answer.status)
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        if fault.retry_after:
            request.setHeader("Retry-After", fault.retry_after)
        if answer.status not in _NO_BODY and "Content-Length" not in answer.headers:
            request.setHeader("Content-Length", str(len(answer.body)))
        if fault.truncate is not None:
            request.write(answer.body[: fault.truncate])
            request.loseConnection()
            return
        if method != "HEAD":
            request.write(answer.body)
        request.finish()

    def _check(self, request: Request, method: str, bucket: str, body: bytes) -> _Answer | None:
        """Return the error reply to a request that is not properly signed, or not intact."""
        headers = {
            name.decode("ascii").lower(): ",".join(value.decode("latin-1") for value in values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if scheme != "AWS4-HMAC-SHA256":
            return _error(403, "AccessDenied")
        access_key, _, scope = fields["Credential"].partition("/")
        if access_key != self.access_key:
            return _error(403, "InvalidAccessKeyId")
        region = scope.split("/")[1]
        if region != self.region:
            return _error(400, "AuthorizationHeaderMalformed")
        signed = {name: headers[name] for name in fields["SignedHeaders"].split(";")}
        again = AWSRequest(method, f"http://{headers['host']}{request.uri.decode('ascii')}", headers=signed)
        again.context["timestamp"] = headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", region)
        text = auth.string_to_sign(again, auth.canonical_request(again))
        if auth.signature(text, again) != fields["Signature"]:
            return _error(403, "SignatureDoesNotMatch")
        payload = headers["x-amz-content-sha256"]
        if payload not in ("UNSIGNED-PAYLOAD", sha256(body).hexdigest()):
            return _error(400, "XAmzContentSHA256Mismatch")
        digest = headers.get("content-md5")
        if digest not in (None, b64encode(md5(body, usedforsecurity=False).digest()).decode()):
            return _error(400, "BadDigest")
        return None if bucket == self.bucket else _error(404, "NoSuchBucket")

    def _apply(self, request: Request, method: str, key: str, body: bytes) -> _Answer:
        if_match = request.getHeader("if-match")
        absent = request.getHeader("if-none-match") == "*"
        if not self.conditions or (method == "DELETE" and not self.delete_conditions):
            if_match, absent = None, False
        etag = if_match.strip('"') if if_match is not None else None
        try:
            if method == "PUT":
                metadata = {
                    name.decode("ascii").lower().removeprefix(_META.decode()): values[-1].decode("latin-1")
                    for name, values in request.requestHeaders.getAllRawHeaders()
                    if name.lower().startswith(_META)
                }
                receipt = _now(self.objects.put(key, body, metadata=metadata, if_match=etag, absent=absent))
                return _Answer(200, b"", {"ETag": f'"{receipt.etag}"'})
            if method == "DELETE":
                _now(self.objects.delete(key, if_match=etag))
                return _Answer(204)
        except PreconditionFailed:
            return _error(412, "PreconditionFailed")
        return self._read(request, method, key) if key else self._list(request)

    def _read(self, request: Request, method: str, key: str) -> _Answer:
        found = self.objects.objects.get(key)
        if found is None:
            return _error(404, "NoSuchKey")
        headers = {"ETag": f'"{found.etag}"', "Content-Type": "application/octet-stream"}
        headers.update({f"X-Amz-Meta-{name}": value for name, value in found.metadata.items()})
        if found.encoding:
            headers["Content-Encoding"] = found.encoding
        ranged = request.getHeader("range")
        if ranged is None:
            return _Answer(200, found.data, {**headers, "Content-Length": str(found.size)})
        first, _, last = ranged.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else found.size, found.size)
        if start >= found.size:
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        return _Answer(206, found.data[start:end], headers)

    def _list(self, request: Request) -> _Answer:
        arguments = {name.decode(): values[-1].decode() for name, values in (request.args or {}).items()}
        page = _now(self.objects.list(arguments.get("prefix", ""), arguments.get("start-after", "")))
        entries = "".join(
            f"<Contents><Key>{escape(quote(each.key))}</Key><ETag>&quot;{each.etag}&quot;</ETag>"
            f"<Size>{each.size}</Size></Contents>"
            for each in page
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{space}"><EncodingType>url</EncodingType>{entries}</ListBucketResult>'
        return _Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _now(deferred: Deferred[Any]) -> Any:
    """Return the result of a Deferred that has fired, or raise its failure."""
    results: list[Any] = []
    failures: list[Any] = []
    deferred.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]
