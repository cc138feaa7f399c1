"""One HTTP exchange at a time and place: a bounded pool of kept-alive connections, a deadline over all of it.

treq alone would open a connection for each request, keep two, stop its timeout at the response's headers, follow
redirects with the wrong signature, and undo gzip behind a ranged read's back.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, _HTTP11ClientFactory
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from txtcmu.objectstore.retry import Later

__all__ = ["HTTP", "Reply"]

_IDLE = 15  # stores close idle connections after 20 s and more; a request on a closed one is a doubt
_CONNECT = 5.0


@frozen
class Reply:
    """A response with all of its body.

    :ivar headers: by lower-case name; of repeated ones the last.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@implementer(IAgent)
class _PlainAgent:
    """Takes back the ``Accept-Encoding: gzip`` that treq adds."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        if headers is not None:
            headers.removeHeader(b"accept-encoding")
        sent: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return sent


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
    """Collects a body; cancelling :attr:`done` closes the connection, which can then not be used again."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.done: Deferred[bytes] = Deferred(self._abort)

    def _abort(self, _: Deferred[bytes]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)


class _SilentFactory(_HTTP11ClientFactory):
    """Writes no two lines into the log for each connection; there is no public way to ask for that."""

    noisy = False


class HTTP:
    """Exchanges with one server.

    :param connections: how many at the same time; further ones wait, and the wait does not count.
    :param agent: instead of real connections, in tests.
    """

    def __init__(self, reactor: Any, connections: int, agent: Any = None) -> None:
        self._reactor = reactor
        self._gate = DeferredSemaphore(connections)
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = _IDLE
        self._pool.retryAutomatically = False
        self._pool._factory = _SilentFactory
        if agent is None:
            agent = Agent(reactor, connectTimeout=_CONNECT, pool=self._pool)  # type: ignore[no-untyped-call]
        self._client = HTTPClient(_PlainAgent(agent))

    async def exchange(self, method: str, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Reply:
        """Send one request.

        :param seconds: from the connection's allotment to the last byte of the reply.
        :raise Later: anything went wrong.
        """
        await self._gate.acquire()
        attempt = Deferred.fromCoroutine(self._exchange(method, url, headers, body))
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            attempt.cancel()

        deadline = self._reactor.callLater(seconds, expire)
        try:
            return await attempt
        except Later:
            raise
        except (ConnectError, DNSLookupError) as error:
            raise Later(f"no connection: {error}", doubtful=False) from None
        except Exception as error:
            cause = _cause(error)
            if late:
                raise Later(f"no answer in {seconds:.0f} s", doubtful=True) from None
            if isinstance(cause, CancelledError):
                raise cause from None
            raise Later(f"connection failed: {str(cause) or type(cause).__name__}", doubtful=True) from None
        finally:
            if deadline.active():
                deadline.cancel()
            self._gate.release()

    async def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Reply:
        response = await self._client.request(
            method,
            EncodedURL.from_text(url),
            headers=Headers({name: [value] for name, value in headers.items()}),
            data=_Body(body) if body else None,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        collector = _Collector()
        response.deliverBody(collector)
        data: bytes = await collector.done
        found = {
            name.decode("ascii").lower(): values[-1].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        # A connection that breaks looks like an end to HTTP without a length, and a decoded body has none.
        length = found.get("content-length", "" if method == "HEAD" else str(len(data)))
        if method != "HEAD" and response.code != 204 and int(length or -1) != len(data):
            raise Later(f"{len(data)} bytes came of {length}", doubtful=True)
        return Reply(response.code, found, data)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]


def _cause(error: BaseException) -> BaseException:
    """Return what happened, out of the wrappings that twisted.web put it in."""
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    return error
