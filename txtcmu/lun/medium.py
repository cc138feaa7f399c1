"""The backstore of one device: opened, lost, opened again, closed.

A backstore that cannot be opened, or that says in a command that it is gone, does not end the device: until it is
back the initiator hears NOT READY.  One that another writer has taken over is not opened again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.errors import FencedError, NotReadyError, TCMUError
from txtcmu.interfaces import ICommandHandler
from txtcmu.results import Promise, as_deferred

__all__ = ["Medium"]

#: Seconds before the first and the later attempts to open a backstore again.
REOPEN_DELAYS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)


class Medium:
    """Keeps a backstore open, or trying.

    :param opener: opens the backstore; called anew for each attempt.
    :param idle: returns a Deferred that fires when no command uses the backstore any more.
    :param ready: called with each backstore that was opened; may refuse it by raising.
    :param away: called with the error when there is none, or none any more.
    :param name: of the device, for the log.
    :ivar backstore: the one that is open, or ``None``.
    """

    def __init__(
        self,
        reactor: Any,
        opener: Callable[[], Awaitable[Any]],
        idle: Callable[[], Deferred[None]],
        ready: Callable[[Any], None],
        away: Callable[[BaseException], None],
        log: Logger,
        name: str,
    ) -> None:
        self._reactor = reactor
        self._opener = opener
        self._idle = idle
        self._ready = ready
        self._away = away
        self._log = log
        self._name = name
        self.backstore: Any = None
        self._lost: Any = None
        self._attempt: Promise | None = None
        self._opening: Deferred[Any] | None = None
        self._timer: Any = None
        self._failures = 0
        self._reported = ""
        self._closing = False

    def open(self) -> Deferred[BaseException | None]:
        """Try to open the backstore; fires with the error of this first attempt, or ``None``."""
        self._attempt = attempt = Promise()
        Deferred.fromCoroutine(self._try()).addBoth(attempt.resolve)
        return attempt.wait()

    def lose(self, error: BaseException) -> None:
        """A command has found the backstore gone: close it when it is idle, then open it anew."""
        if self.backstore is None:
            return
        self._lost, self.backstore = self.backstore, None
        self._without(error, "the backstore is lost")

    def reopen(self) -> Deferred[BaseException | None]:
        """Close the backstore, which must be idle and flushed, and open it anew; see :meth:`open`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.backstore is not None:
            self._lost, self.backstore = self.backstore, None
            self._away(NotReadyError("being opened anew"))
        return self.open()

    async def close(self) -> None:
        """Flush and close the backstore, which must be idle, and try no more to open one.  Errors are logged."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._opening is not None:
            self._opening.cancel()
        if self._attempt is not None:
            await self._attempt.wait()
        backstore, self.backstore = self.backstore, None
        if backstore is not None:
            if not ICommandHandler.providedBy(backstore) and not backstore.read_only:
                await self._quietly("flushing", backstore.flush)
            await self._quietly("closing", backstore.close)
        await self._close_lost()

    async def _try(self) -> BaseException | None:
        if self._lost is not None:
            await self._idle()
            await self._close_lost()
        if self._closing:
            return None
        try:
            self._opening = Deferred.fromCoroutine(self._opened())
            self.backstore = await self._opening
        except BaseException as error:  # whatever it is, it may have come from a handler
            if not self._closing:
                self._without(error, "opening the backstore failed")
            return error
        finally:
            self._opening = None
        self._failures = 0
        self._reported = ""
        return None

    async def _opened(self) -> Any:
        backstore = await self._opener()
        try:
            self._ready(backstore)
        except Exception:
            await self._quietly("closing", lambda: backstore.close())  # which it may not even have
            raise
        return backstore

    def _without(self, error: BaseException, what: str) -> None:
        if self._reported != repr(error):  # not the same again with each attempt
            self._reported = repr(error)
            if isinstance(error, TCMUError | OSError):
                self._log.error("{name}: {what}: {error}", name=self._name, what=what, error=error)
            else:
                failure = Failure(error)  # type: ignore[no-untyped-call]
                self._log.failure("{name}: {what}", failure, name=self._name, what=what)
        self._away(error)
        if isinstance(error, FencedError) or self._closing:
            return
        delay = REOPEN_DELAYS[min(self._failures, len(REOPEN_DELAYS) - 1)]
        self._failures += 1
        self._timer = self._reactor.callLater(delay, self._again)

    def _again(self) -> None:
        self._timer = None
        self.open()

    async def _close_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            await self._quietly("closing", lost.close)

    async def _quietly(self, doing: str, step: Callable[[], Any]) -> None:
        """Take ``step``; an error is logged and goes no further."""
        try:
            await as_deferred(step())
        except BaseException:  # whatever it is, the device goes on
            self._log.failure("{name}: {doing} the backstore failed", name=self._name, doing=doing)
