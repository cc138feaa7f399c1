"""An S3 server in memory that checks signatures, honours conditions, and fails as it is told to.

It is a resource of Twisted's web server.  :meth:`FakeS3.connect` reaches it without a network, so that a
:class:`~twisted.internet.task.Clock` decides when anything happens; a ``Site`` serves it on a real port.  A test of
a backstore that must survive a lost reply::

    clock = Clock()
    fake = FakeS3(clock)
    store = fake.connect()
    fake.faults.append(Fault.lose_reply(method="PUT", key="journal"))
    done = store.put("journal/1", b"entry", absent=True)  # applied; the client knows only that the connection broke
    clock.advance(1.0)  # it tries again, and is refused: there is such an object now
    assert done.result.check(MaybeMine)

What can go wrong is told in :mod:`txtcmu.testing.faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

from botocore.credentials import Credentials
from treq.testing import RequestTraversalAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from txtcmu.objectstore.credentials import Signer
from txtcmu.objectstore.retry import Patience
from txtcmu.objectstore.s3 import S3ObjectStore
from txtcmu.objectstore.settings import S3Settings
from txtcmu.testing.fakebucket import Answer, FakeBucket, Sent, error
from txtcmu.testing.faults import Fault, FaultPlan, flipped, strike

__all__ = ["FakeS3"]

_NO_BODY = frozenset({204, 304})


class FakeS3(FakeBucket, Resource):
    """One bucket, and its troubles; what is in it, and who may use it, is :class:`.FakeBucket`'s.

    :ivar faults: asked in order; the first that matches acts.
    :ivar requests: method, key and status of each request that arrived (status 0: not yet, or never, applied).
    """

    isLeaf = True

    def __init__(self, clock: Any) -> None:
        Resource.__init__(self)  # type: ignore[no-untyped-call]
        FakeBucket.__init__(self)
        self.clock = clock
        self.faults: list[Fault | FaultPlan] = []
        self.requests: list[tuple[str, str, int]] = []
        self._agent: Any = _Wire(clock, self)

    def connect(
        self, patience: Patience | None = None, find: Callable[[], Credentials] | None = None, **settings: Any
    ) -> S3ObjectStore:
        """Return a store whose requests come here.

        :param find: returns the credentials, and others when those are refused; by default the bucket's owner's.
        :param settings: those of ``S3Settings``; with an ``endpoint``, at which a ``Site`` serves this, requests go
            there over real connections.
        """
        chosen = S3Settings(**{"bucket": self.bucket, "endpoint": "http://fake.test", **settings})
        credentials = find() if find else Credentials(self.access_key, self.secret_key)
        signer = Signer(self.clock, credentials, settings.get("region", self.region), find)
        agent = None if "endpoint" in settings else self._agent
        return S3ObjectStore(self.clock, chosen, signer, patience or Patience(self.clock, lambda: 1.0), agent=agent)

    def count(self, method: str, key: str = "") -> int:
        """Return how many requests of a method arrived whose key holds ``key``."""
        return sum(1 for each, where, _ in self.requests if each == method and key in where)

    def render(self, request: Any) -> int:
        """Take a request; apply and answer it when its fault says."""
        sent = _sent(request)
        fault = strike(self.faults, sent.method, sent.key)
        if fault is None:
            fault = Fault()
        else:
            sent = Sent(sent.method, sent.uri, sent.headers, flipped(sent.body, fault.flip_sent))
        number = len(self.requests)
        self.requests.append((sent.method, sent.key, 0))
        refused = self.refusal(sent)
        answer = refused or error(500, "InternalError")
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        def apply() -> None:
            nonlocal answer
            answer = refused or self.answer(sent)
            self.requests[number] = (sent.method, sent.key, answer.status)

        def respond() -> None:
            if not gone:
                self._respond(request, fault, answer)
                if fault.answered:
                    self._agent.flush()

        for seconds, action in ((fault.applied, apply), (fault.again, apply), (fault.answered, respond)):
            if seconds:
                self.clock.callLater(seconds, action)
            elif seconds is not None:
                action()
        return NOT_DONE_YET

    def _respond(self, request: Any, fault: Fault, answer: Answer) -> None:
        if fault.reset:
            request.loseConnection()
            return
        if fault.status is not None:
            answer = error(fault.status, fault.code)
        request.setResponseCode(answer.status)
        request.setHeader("Date", format_datetime(self.now, usegmt=True))
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        if fault.retry_after:
            request.setHeader("Retry-After", fault.retry_after)
        if answer.status not in _NO_BODY:
            request.setHeader("Content-Length", str(len(answer.body)))
        body = flipped(answer.body, fault.flip)
        if fault.truncate is not None:
            request.write(body[: fault.truncate])
            request.loseConnection()
            return
        if request.method != b"HEAD":
            request.write(body)
        request.finish()


class _Wire(RequestTraversalAgent):
    """Connections in memory, which carry what is written later, too: the ends of bodies that were held back."""

    def __init__(self, clock: Any, root: Resource) -> None:
        super().__init__(root)  # type: ignore[no-untyped-call]
        self._clock = clock

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:
        if bodyProducer is not None:
            begin = bodyProducer.startProducing

            def begin_and_flush(consumer: Any) -> Any:
                written = begin(consumer)
                if not written.called:
                    written.addCallback(lambda _: self._clock.callLater(0, self.flush))
                return written

            bodyProducer.startProducing = begin_and_flush
        return super().request(method, uri, headers, bodyProducer)  # type: ignore[no-untyped-call]


def _sent(request: Any) -> Sent:
    """Return a request of Twisted's web server as a value."""
    headers = {
        name.decode("ascii").lower(): ",".join(value.decode("latin-1") for value in values)
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
    body = b""
    if request.content is not None:
        body = request.content.read()
        request.content.close()  # a large one is a file, and a request that hangs is never finished
    return Sent(request.method.decode("ascii"), request.uri.decode("ascii"), headers, body)
