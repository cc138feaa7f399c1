"""What an S3 server makes of one request, without time and connections: signature, conditions, objects, errors.

``tests/objectstore/wirecontract.py`` compares it with a real server, reply by reply.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from attrs import field, frozen
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from twisted.internet.defer import Deferred

from txtcmu.errors import PreconditionFailed
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.objects import StoredObject

__all__ = ["Answer", "FakeBucket", "Sent", "error"]

_META = "x-amz-meta-"
_SKEW = timedelta(minutes=15)
_MD5 = re.compile(r"[A-Za-z0-9+/]{22}==")
_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


@frozen
class Sent:
    """A request as it came.

    :ivar uri: path and query, still quoted.
    :ivar headers: by lower-case name.
    """

    method: str
    uri: str
    headers: dict[str, str]
    body: bytes

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._path[0]

    @property
    def key(self) -> str:
        """The object's key, ``""`` for the bucket itself."""
        return unquote(self._path[1])

    @property
    def query(self) -> dict[str, str]:
        """The arguments behind the question mark."""
        return dict(parse_qsl(self.uri.partition("?")[2], keep_blank_values=True))

    @property
    def _path(self) -> tuple[str, str]:
        bucket, _, quoted = self.uri.partition("?")[0].lstrip("/").partition("/")
        return bucket, quoted


@frozen
class Answer:
    """A reply."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(factory=dict)


def error(status: int, code: str) -> Answer:
    """Return an error reply as S3 words it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class FakeBucket:
    """One bucket and its owner.

    :ivar objects: what is stored.
    :ivar conditions: False makes it a store that ignores conditions, as several do.
    :ivar delete_conditions: the same for DELETE alone.
    :ivar expired: session tokens that are good no more; all others are good.
    """

    conditions = True
    delete_conditions = True
    bucket = "disks"
    access_key = "fake-key"
    secret_key = "fake-secret"
    region = "us-east-1"
    #: Seconds that its clock is before this host's.
    clock_ahead = 0.0

    def __init__(self) -> None:
        self.objects = MemoryObjectStore()
        self.expired: set[str] = set()

    @property
    def now(self) -> datetime:
        """What time it is here."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_ahead)

    def refusal(self, sent: Sent) -> Answer | None:
        """Return the error reply to a request that is not properly signed, or not intact."""
        headers = sent.headers
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if scheme != "AWS4-HMAC-SHA256":
            return error(403, "AccessDenied")
        if abs(self.now - datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%S%z")) > _SKEW:
            return error(403, "RequestTimeTooSkewed")
        access_key, _, scope = fields["Credential"].partition("/")
        if access_key != self.access_key:
            return error(403, "InvalidAccessKeyId")
        if headers.get("x-amz-security-token") in self.expired:
            return error(400, "ExpiredToken")
        region = scope.split("/")[1]
        if region != self.region:
            return error(400, "AuthorizationHeaderMalformed")
        signed = {name: headers.get(name, "") for name in fields["SignedHeaders"].split(";")}
        again = AWSRequest(sent.method, f"http://{headers['host']}{sent.uri}", headers=signed)
        again.context["timestamp"] = headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", region)
        text = auth.string_to_sign(again, auth.canonical_request(again))
        if auth.signature(text, again) != fields["Signature"]:
            return error(403, "SignatureDoesNotMatch")
        payload = headers["x-amz-content-sha256"]
        if payload not in ("UNSIGNED-PAYLOAD", sha256(sent.body).hexdigest()):
            return error(400, "XAmzContentSHA256Mismatch")
        digest = headers.get("content-md5")
        if digest is not None and not _MD5.fullmatch(digest):
            return error(400, "InvalidDigest")
        if digest not in (None, b64encode(md5(sent.body, usedforsecurity=False).digest()).decode()):
            return error(400, "BadDigest")
        return None if sent.bucket == self.bucket else error(404, "NoSuchBucket")

    def answer(self, sent: Sent) -> Answer:
        """Apply a request."""
        if sent.key and not sent.query:
            if sent.method in ("GET", "HEAD"):
                return self._read(sent)
            if sent.method in ("PUT", "DELETE"):
                try:
                    return self._change(sent)
                except PreconditionFailed:
                    return error(412, "PreconditionFailed")
        elif sent.method == "GET" and sent.query.get("list-type") == "2":
            return self._list(sent.query)
        else:
            return error(501, "NotImplemented")
        return error(405, "MethodNotAllowed")

    def _change(self, sent: Sent) -> Answer:
        headers = sent.headers
        if_match, absent = headers.get("if-match"), headers.get("if-none-match") == "*"
        if not self.conditions or (sent.method == "DELETE" and not self.delete_conditions):
            if_match, absent = None, False
        etag = if_match.strip('"') if if_match is not None else None
        if sent.method == "DELETE":
            _now(self.objects.delete(sent.key, if_match=etag))
            return Answer(204)
        metadata = {name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)}
        receipt = _now(self.objects.put(sent.key, sent.body, metadata=metadata, if_match=etag, absent=absent))
        return Answer(200, b"", {"ETag": f'"{receipt.etag}"'})

    def _read(self, sent: Sent) -> Answer:
        found = self.objects.objects.get(sent.key)
        if found is None:
            return error(404, "NoSuchKey")
        headers = {"ETag": f'"{found.etag}"', "Content-Type": "application/octet-stream"}
        headers.update({f"X-Amz-Meta-{name}": value for name, value in found.metadata.items()})
        if found.encoding:
            headers["Content-Encoding"] = found.encoding
        asked = _RANGE.fullmatch(sent.headers.get("range", ""))
        if asked is None:
            return Answer(200, found.data, headers)
        window = _window(asked, found)
        if not window:
            refused = error(416, "InvalidRange")
            return Answer(refused.status, refused.body, {**refused.headers, "Content-Range": f"bytes */{found.size}"})
        headers["Content-Range"] = f"bytes {window.start}-{window.stop - 1}/{found.size}"
        return Answer(206, found.data[window.start : window.stop], headers)

    def _list(self, query: dict[str, str]) -> Answer:
        if not query.get("max-keys", "0").isdecimal():
            return error(400, "InvalidArgument")
        after = query.get("continuation-token") or query.get("start-after", "")
        found = _now(self.objects.list(query.get("prefix", ""), after))
        most = min(int(query.get("max-keys", "1000")), self.objects.page)
        page = found[:most]
        more = bool(page) and bool(_now(self.objects.list(query.get("prefix", ""), page[-1].key)))
        encode = quote if query.get("encoding-type") == "url" else str
        entries = "".join(
            f"<Contents><Key>{escape(encode(each.key))}</Key><ETag>&quot;{each.etag}&quot;</ETag>"
            f"<Size>{each.size}</Size></Contents>"
            for each in page
        )
        head = f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        if encode is quote:
            head += "<EncodingType>url</EncodingType>"
        if more:
            head += f"<NextContinuationToken>{escape(encode(page[-1].key))}</NextContinuationToken>"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{space}">{head}{entries}</ListBucketResult>'
        return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _window(asked: re.Match[str], found: StoredObject) -> range:
    """Return the bytes that a Range header means; empty when there are none."""
    first, last, suffix = asked.groups()
    if suffix is not None:
        return range(max(0, found.size - int(suffix)), found.size)
    return range(int(first), min(int(last) + 1, found.size) if last else found.size)


def _now(deferred: Deferred[Any]) -> Any:
    """Return the result of a Deferred that has fired, or raise its failure."""
    results: list[Any] = []
    failures: list[Any] = []
    deferred.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]
