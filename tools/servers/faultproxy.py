"""A proxy before a real S3 server, on 127.0.0.1, that fails as it is told to, and adds a round-trip time.

What can befall a request is the fake S3's own vocabulary, :mod:`txtcmu.testing.faults`.  Everything else passes as
it comes: each client's connection has one of its own to the server, heads and bodies go through byte by byte, and so
signatures hold as long as the client's endpoint is the proxy's, which is in the Host field that it signs.

``python -m tools.servers.faultproxy PORT --delay 0.02`` serves until interrupted, before the server on that port.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tools.servers.http1 import Framer
from txtcmu.testing.fakebucket import error
from txtcmu.testing.faults import Fault, FaultPlan, flipped, strike

__all__ = ["FaultProxy"]

_HOST = "127.0.0.1"


class _Connection(Protocol):
    """One that the proxy knows of."""

    transport: Any

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy

    def connectionMade(self) -> None:
        self.proxy.connections.add(self)
        self.transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.proxy.connections.discard(self)
        self.proxy.closed()


class _Upstream(_Connection):
    """A connection to the server.

    :param passed: called with what it sends.
    :param ended: called with ``True`` when a reply is complete, ``False`` when the server hung up.
    """

    def __init__(self, proxy: FaultProxy, passed: Callable[[bytes], None], ended: Callable[[bool], None]) -> None:
        super().__init__(proxy)
        self._passed = passed
        self._ended = ended
        self._method = b""
        self._interim = False
        self._framer = Framer(self._began, passed, self._complete)

    def send(self, head: bytes) -> None:
        """Begin a request."""
        self._method = head.partition(b" ")[0]
        self.transport.write(head)

    def dataReceived(self, data: bytes) -> None:
        self._framer.feed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._ended(False)

    def _began(self, head: bytes) -> bool:
        status = head[9:12]
        self._interim = status.startswith(b"1")
        self._passed(head)
        return self._method != b"HEAD" and not self._interim and status not in (b"204", b"304")

    def _complete(self) -> None:
        if not self._interim:
            self._ended(True)


class _Downstream(_Connection):
    """A client's connection."""

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self._upstream: _Upstream | None = None
        self._opening: list[bytes] | None = None
        self._fault: Fault | None = None
        self._head = b""
        self._body: list[bytes] = []
        self._late: deque[tuple[float, bytes | None]] = deque()
        self._gone = False
        self._framer = Framer(self._began, self._more, self._complete)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._gone = True
        if self._upstream is not None:
            self._upstream.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._framer.feed(data)

    def _began(self, head: bytes) -> bool:
        method, _, rest = head.partition(b" ")
        path = unquote(rest.partition(b" ")[0].partition(b"?")[0].decode("ascii"))
        key = path.lstrip("/").partition("/")[2]
        self._fault = strike(self.proxy.faults, method.decode("ascii"), key)
        self._head = head
        self._body = []
        if self._fault is None:
            self._pass(head)
        return True

    def _more(self, data: bytes) -> None:
        if self._fault is None:
            self._pass(data)
        else:
            self._body.append(data)

    def _complete(self) -> None:
        if self._fault is not None:
            Deferred.fromCoroutine(self._fail(self._fault, self._head, b"".join(self._body)))

    def _pass(self, data: bytes) -> None:
        """Send a part of a request to the server."""
        if self._upstream is not None:
            if data is self._head:
                self._upstream.send(data)
            else:
                self._upstream.transport.write(data)
        elif self._opening is not None:
            self._opening.append(data)
        else:
            self._opening = [data]
            self.proxy.connect(self._reply, self._replied).addCallbacks(self._opened, lambda _: self._lose())

    def _opened(self, upstream: _Upstream) -> None:
        waiting, self._opening = self._opening or [], None
        if self._gone:
            upstream.transport.loseConnection()
            return
        self._upstream = upstream
        upstream.send(waiting[0])
        upstream.transport.writeSequence(waiting[1:])
        if not self.proxy.delay:  # the delay line has no bounds of its own
            self.transport.registerProducer(upstream.transport, True)

    def _replied(self, complete: bool) -> None:
        if not complete:
            self._reply(None)

    def _reply(self, data: bytes | None) -> None:
        """Send a part of a reply to the client, a round trip later; ``None`` hangs up."""
        if not self.proxy.delay:
            self._write(data)
            return
        self._late.append((self.proxy.reactor.seconds() + self.proxy.delay, data))
        if len(self._late) == 1:
            self.proxy.later(self.proxy.delay, self._deliver)

    def _deliver(self) -> None:
        now = self.proxy.reactor.seconds()
        while self._late and self._late[0][0] <= now:
            self._write(self._late.popleft()[1])
        if self._late:
            self.proxy.later(self._late[0][0] - now, self._deliver)

    def _write(self, data: bytes | None) -> None:
        if data is None:
            self._lose()
        elif not self._gone:
            self.transport.write(data)

    def _lose(self) -> None:
        if not self._gone:
            self.transport.loseConnection()

    async def _fail(self, fault: Fault, head: bytes, body: bytes) -> None:
        """Do with a request what its fault says."""
        proxy = self.proxy
        body = flipped(body, fault.flip_sent)
        started = proxy.reactor.seconds()
        reply = _reply_of(500, "InternalError")
        for seconds in (fault.applied, fault.again):
            if seconds is not None:
                await proxy.until(started + seconds)
                reply = await proxy.forward(head, body)
        if fault.answered is None:
            return
        await proxy.until(started + fault.answered)
        if self._gone:
            return
        if fault.reset or not reply:
            self.transport.abortConnection()
            return
        if fault.status is not None:
            reply = _reply_of(fault.status, fault.code, fault.retry_after)
        top, separator, rest = reply.partition(b"\r\n\r\n")
        if head.startswith(b"HEAD"):
            rest = b""
        self._reply(top + separator + flipped(rest, fault.flip)[: fault.truncate])
        if fault.truncate is not None:
            self._reply(None)


class FaultProxy:
    """A proxy before the server on a port of 127.0.0.1.

    :ivar endpoint: its own URL.
    :ivar delay: seconds that all that the server sends is late.
    :ivar faults: asked in order; the first that matches acts.
    """

    def __init__(self, reactor: Any, target: int, delay: float = 0.0) -> None:
        self.reactor = reactor
        self.delay = delay
        self.faults: list[Fault | FaultPlan] = []
        self.connections: set[_Connection] = set()
        self._calls: set[Any] = set()
        self._emptied: Deferred[None] | None = None
        self._server = TCP4ClientEndpoint(reactor, _HOST, target)
        clients = Factory.forProtocol(lambda: _Downstream(self))
        clients.noisy = False
        self._port = reactor.listenTCP(0, clients, 1024, _HOST)
        self.endpoint = f"http://{_HOST}:{self._port.getHost().port}"

    async def stop(self) -> None:
        """Close everything, and forget what was to be late."""
        await self._port.stopListening()
        self._emptied = Deferred()
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        for connection in list(self.connections):
            connection.transport.abortConnection()
        self.closed()
        await self._emptied

    def closed(self) -> None:
        """Take note that there is a connection less."""
        if self._emptied is not None and not self.connections and not self._emptied.called:
            self._emptied.callback(None)

    def connect(self, passed: Callable[[bytes], None], ended: Callable[[bool], None]) -> Deferred[_Upstream]:
        """Open a connection to the server; the arguments are those of :class:`_Upstream`."""
        factory = Factory.forProtocol(lambda: _Upstream(self, passed, ended))
        factory.noisy = False
        connecting: Deferred[Any] = self._server.connect(factory)
        return connecting

    def forward(self, head: bytes, body: bytes) -> Deferred[bytes]:
        """Send a request on a connection of its own; return the reply, ``b""`` when there is none."""
        pieces: list[bytes] = []
        reply: Deferred[bytes] = Deferred()

        def ended(complete: bool) -> None:
            if not reply.called:
                reply.callback(b"".join(pieces) if complete else b"")

        def opened(upstream: _Upstream) -> None:
            upstream.send(head)
            upstream.transport.write(body)
            reply.addBoth(lambda data: (upstream.transport.loseConnection(), data)[1])

        self.connect(pieces.append, ended).addCallbacks(opened, lambda _: ended(False))
        return reply

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call ``function``, unless the proxy has stopped by then."""
        if self._emptied is not None:
            return

        def due() -> None:
            self._calls.discard(call)
            function()

        call = self.reactor.callLater(max(0.0, seconds), due)
        self._calls.add(call)

    def until(self, time: float) -> Deferred[None]:
        """Return what fires at a time, at once if it has passed."""
        now = self.reactor.seconds()
        reached: Deferred[None] = Deferred()
        if time <= now:
            reached.callback(None)
        else:
            self.later(time - now, lambda: reached.callback(None))
        return reached


def _reply_of(status: int, code: str, retry_after: str = "") -> bytes:
    """Return an error reply as bytes."""
    answer = error(status, code)
    lines = [f"HTTP/1.1 {status} {code or 'Error'}", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if retry_after:
        lines.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


def main(arguments: list[str] | None = None) -> None:
    """Serve until a signal ends it; the first line of output is the endpoint."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser(prog="python -m tools.servers.faultproxy", description=main.__doc__)
    parser.add_argument("port", type=int, help="the server's, on 127.0.0.1")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that are added to each round trip")
    parser.add_argument("--rate", type=float, default=0.0, help="which part of the requests meets a fault, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    options = parser.parse_args(arguments)
    proxy = FaultProxy(reactor, options.port, options.delay)
    if options.rate:
        proxy.faults.append(FaultPlan(options.seed, options.rate))
    print(f"endpoint={proxy.endpoint}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
