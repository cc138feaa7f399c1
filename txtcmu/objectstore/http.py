"""One exchange of HTTP: a request, and all of its reply.

Agent alone would keep two connections, let any number be open, repeat requests whose connection broke, and wait for
ever.  Here a deadline spans all of an exchange; connections are counted, kept, and closed when what they carried did
not end well; and everything that can go wrong becomes :class:`~txtcmu.objectstore.retry.Later`, or the one line that
names the mend where waiting is vain.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from attrs import frozen
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseDone,
    _HTTP11ClientFactory,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from txtcmu.errors import ObjectStoreError
from txtcmu.objectstore.retry import Hung, Later

__all__ = ["HTTP", "LARGE", "Reply"]

#: Bytes from which on a body is a large one.
LARGE: Final = 512 << 10

T = TypeVar("T")

_IDLE = 15  # stores close idle connections after 20 s and more; a request on a closed one is a doubt
_CONNECT = 5.0
_LARGE_SHARE = 4  # one in so many connections may carry a large body to the store
_TLS_MENDS = {
    "wrong version number": "what answers there speaks no TLS; write the endpoint with http://",
    "http request": "what answers there speaks no TLS; write the endpoint with http://",
    "packet length too long": "what answers there speaks no TLS; write the endpoint with http://",
    "record layer failure": "what answers there speaks no TLS; write the endpoint with http://",
    "certificate verify failed": "its certificate is not of an authority that this host trusts; add that one"
    " (update-ca-certificates), or set SSL_CERT_FILE",
}


@frozen
class Reply:
    """A response with all of its body.

    :ivar headers: by lower-case name; of repeated ones the last.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@implementer(IBodyProducer)
class _Body:
    """A body written in one piece."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything is written already."""

    resumeProducing = stopProducing = pauseProducing


class _Collector(Protocol):
    """Collects a response with its body; cancelling :attr:`done` closes the connection, which is then of no use."""

    def __init__(self, response: IResponse) -> None:
        self._response = response
        self._pieces: list[bytes] = []
        self.done: Deferred[tuple[IResponse, bytes]] = Deferred(self._abort)

    def _abort(self, _: Deferred[tuple[IResponse, bytes]]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.done.callback((self._response, b"".join(self._pieces)))
        else:
            self.done.errback(reason)


class _SilentFactory(_HTTP11ClientFactory):
    """Writes no two lines into the log for each connection; there is no public way to ask for that."""

    noisy = False


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """As Agent's own, which checks the host's name anew for each request."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._policy = BrowserLikePolicyForHTTPS()  # type: ignore[no-untyped-call]
        self._made: dict[tuple[bytes, bytes, int], Any] = {}

    def endpointForURI(self, uri: URI) -> Any:
        key = uri.scheme, uri.host, uri.port
        endpoint = self._made.get(key)
        if endpoint is None:
            endpoint = HostnameEndpoint(self._reactor, uri.host.decode("ascii"), uri.port, timeout=_CONNECT)
            if uri.scheme == b"https":
                endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
            self._made[key] = endpoint
        return endpoint


class HTTP:
    """Exchanges with one server.

    :param connections: how many at the same time, of which a quarter may carry large bodies to the store, so that
        what is small, and every read, never waits for megabytes to leave.  Further ones wait, and the wait does not
        count.
    :param agent: an IAgent instead of real connections, in tests.
    """

    def __init__(self, reactor: Any, connections: int, agent: Any = None) -> None:
        self._reactor = reactor
        self._gate = DeferredSemaphore(connections)
        self._large = DeferredSemaphore(max(1, connections // _LARGE_SHARE))
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = _IDLE
        self._pool.retryAutomatically = False
        self._pool._factory = _SilentFactory
        self.agent = agent or Agent.usingEndpointFactory(reactor, _Endpoints(reactor), self._pool)  # type: ignore[no-untyped-call]

    async def exchange(self, method: str, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Reply:
        """Send one request.

        :param seconds: from the connection's allotment to the last byte of the reply.
        :raise Later: anything went wrong; :class:`.Hung` when it was the time.
        :raise ObjectStoreError: what is wrong does not pass by itself.
        """
        if len(body) < LARGE:
            return await self._admitted(method, url, headers, body, seconds)
        await self._large.acquire()
        try:
            return await self._admitted(method, url, headers, body, seconds)
        finally:
            self._large.release()

    async def _admitted(self, method: str, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Reply:
        await self._gate.acquire()
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            answer.cancel()

        deadline = self._reactor.callLater(seconds, expire)
        try:
            exchange = self.agent.request(
                method.encode("ascii"),
                url.encode("ascii"),
                Headers({name: [value] for name, value in headers.items()}),
                _Body(body) if body else None,
            ).addCallback(_collect)
            answer = _cancellable(exchange)
            response, data = await answer
        except CancelledError:
            if not late:
                raise
            # Those that idle beside it may be as dead: the next attempt is made on a new one.
            self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
            raise Hung(seconds) from None
        except Exception as error:
            raise _explained(error) from None
        finally:
            if deadline.active():
                deadline.cancel()
            self._gate.release()
        return _reply(method, response, data)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]


def _cancellable(exchange: Deferred[T]) -> Deferred[T]:
    """Return its result; cancelled, it fails with CancelledError, for which Agent has names such as DNSLookupError."""

    def cancel(answer: Deferred[T]) -> None:
        answer.errback(CancelledError())
        exchange.cancel()

    def fire(result: Any) -> None:
        if not answer.called:
            answer.callback(result)

    answer: Deferred[T] = Deferred(cancel)
    exchange.addBoth(fire)
    return answer


def _collect(response: IResponse) -> Deferred[tuple[IResponse, bytes]]:
    collector = _Collector(response)
    response.deliverBody(collector)  # type: ignore[no-untyped-call]
    return collector.done


def _reply(method: str, response: IResponse, data: bytes) -> Reply:
    headers = {
        name.decode("ascii").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    # A connection that breaks looks like an end to HTTP without a length.
    length = headers.get("content-length", "" if method == "HEAD" else str(len(data)))
    if method != "HEAD" and response.code != 204 and length != str(len(data)):
        raise Later(f"{len(data)} bytes came of {length}", doubtful=True)
    return Reply(response.code, headers, data)


def _explained(error: BaseException) -> BaseException:
    """Return what to raise for an exchange that failed."""
    if isinstance(error, ConnectingCancelledError):
        return CancelledError()
    if isinstance(error, ConnectError | DNSLookupError):
        return Later(f"no connection: {error}", doubtful=False)
    while reasons := getattr(error, "reasons", None):  # the wrappings that twisted.web puts it in
        error = reasons[0].value
    if isinstance(error, VerificationError):
        return ObjectStoreError("the endpoint's certificate is for another name; write the endpoint as it says")
    if isinstance(error, TLSError):
        reason = "; ".join(each[-1] for each in error.args[0]) if error.args else ""
        for text, mend in _TLS_MENDS.items():
            if text in reason:
                return ObjectStoreError(f"no TLS with the endpoint ({reason}): {mend}")
    return Later(f"connection failed: {str(error) or type(error).__name__}", doubtful=True)
