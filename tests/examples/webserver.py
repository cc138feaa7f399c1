"""A web server with PUT, GET and conditions (RFC 9110), that can be told to misbehave."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.http import NOT_FOUND, PRECONDITION_FAILED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

__all__ = ["Disks", "QuietSite"]


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class QuietSite(Site):
    """Keeps no log, and no idle connection when the test is over."""

    noisy = False

    def log(self, request: Any) -> None:
        """Write nothing."""


class Disks(Resource):
    """Resources by path; an etag is a hash of the content, the least that a server may offer.

    :ivar content: what is stored.
    :ivar faults: by method: what to do with the next requests, ``"hang"`` (no answer), ``"cut"`` (connection lost),
        ``"lose"`` (applied, then connection lost), or a status to answer with.
    :ivar hung: requests without an answer, which :meth:`apply` still carries out.
    :ivar arrived: fires with each request that hangs.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, bytes] = {}
        self.faults: dict[str, list[Any]] = {"GET": [], "PUT": []}
        self.hung: list[tuple[Any, bytes]] = []
        self.arrived: Deferred[None] = Deferred()

    def render(self, request: Any) -> Any:
        """Answer, or not."""
        method = request.method.decode()
        fault = self.faults[method].pop(0) if self.faults[method] else None
        body = request.content.read()
        if fault == "hang":
            self.hung.append((request, body))
            arrived, self.arrived = self.arrived, Deferred()
            arrived.callback(None)
            request.notifyFinish().addErrback(lambda _: None)
            return NOT_DONE_YET
        if isinstance(fault, int):
            request.setResponseCode(fault)
            return b""
        if fault == "lose":
            self.put(request, body)
        if fault is not None:
            request.notifyFinish().addErrback(lambda _: None)
            request.channel.transport.abortConnection()
            return NOT_DONE_YET
        return self.get(request) if method == "GET" else self.put(request, body)

    def get(self, request: Any) -> bytes:
        """Carry a GET out."""
        content = self.content.get(request.path.decode())
        if content is None:
            request.setResponseCode(NOT_FOUND)
            return b""
        request.setHeader("etag", _etag(content))
        return content

    def put(self, request: Any, body: bytes) -> bytes:
        """Carry a PUT out, if its condition holds."""
        path = request.path.decode()
        now = self.content.get(path)
        expected = request.getHeader("if-match")
        if (expected != (now and _etag(now))) if expected else (request.getHeader("if-none-match") and now is not None):
            request.setResponseCode(PRECONDITION_FAILED)
        else:
            self.content[path] = body
        return b""

    def apply(self) -> None:
        """Carry out, late, the PUTs that hang; nobody waits for them any more."""
        hung, self.hung = self.hung, []
        for request, body in hung:
            self.put(request, body)
