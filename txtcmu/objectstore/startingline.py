"""Requests that are at a server at the same time: all but the last byte of each body is sent, then the last bytes.

Writers that only begin together prove little: a server that takes one request after the other, as a small one does
that is quick, makes no race of it.  So nobody ends before everybody has begun, and the server has had the time to look
at what was sent.  Of the stores that decide before they have all of a body, Apache's mod_dav for one, every writer is
told that it has won; of those that decide afterwards, without a lock, those whose ends come together.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

__all__ = ["StartingLine"]

_PATIENCE = 1.0
_MOMENT = 0.1  # seconds, for the server to look at what it has; no distance makes that longer


@implementer(IBodyProducer)
class _Held:
    """A body without its end, and then its end."""

    def __init__(self, body: IBodyProducer, line: StartingLine) -> None:
        self.length = body.length
        self._body = body
        self._line = line
        self._end = b""
        self._stopped = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        self._body.startProducing(cast(IConsumer, self))  # type: ignore[no-untyped-call]
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())  # of what is given up, nothing more is sent
        self._line.reached().addCallback(self._finish, done)
        return done

    def write(self, data: bytes) -> None:
        """Take what the body writes, in one piece."""
        self._end = data[-1:]
        self._consumer.write(data[:-1])

    def _finish(self, _: None, done: Deferred[None]) -> None:
        if not self._stopped:
            self._consumer.write(self._end)
            done.callback(None)

    def stopProducing(self) -> None:
        self._stopped = True

    def pauseProducing(self) -> None:
        """Everything that may be is written already."""

    resumeProducing = pauseProducing


@implementer(IAgent)
class StartingLine:
    """Passes requests on; no body ends before ``count`` have begun.  An attempt that is made later is not held.

    Bodies must be written in one piece.

    :param abreast: how many ends are sent at once; each answer lets the next go, and a second all of them, for a
        server may have begun with one of those that still wait.
    """

    def __init__(self, reactor: Any, agent: Any, count: int, abreast: int) -> None:
        self._reactor = reactor
        self._agent = agent
        self._missing = count
        self._abreast = abreast
        self._rest: Any = None
        self._waiting: list[Deferred[None]] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See :class:`~twisted.web.iweb.IAgent`."""
        body = None if bodyProducer is None else _Held(bodyProducer, self)
        sent: Deferred[IResponse] = self._agent.request(method, uri, headers, body)
        return sent.addCallback(self._answered)

    def reached(self) -> Deferred[None]:
        """Return what fires when all may end."""
        self._missing -= 1
        reached: Deferred[None] = Deferred()
        if self._missing < 0:
            reached.callback(None)
            return reached
        self._waiting.append(reached)
        if not self._missing:
            self._reactor.callLater(_MOMENT, self._go)
        return reached

    def _go(self) -> None:
        self._rest = self._reactor.callLater(_PATIENCE, self._release, len(self._waiting))
        self._release(self._abreast)

    def _answered(self, result: Any) -> Any:
        if self._rest is not None:
            self._release(1)
        return result

    def _release(self, count: int) -> None:
        going, self._waiting = self._waiting[:count], self._waiting[count:]
        if not self._waiting and self._rest.active():
            self._rest.cancel()
        for each in going:
            each.callback(None)
