"""The backstore of one device: opened, lost, opened again, closed.

A backstore that cannot be opened, or that says in a command that it is gone, does not end the device: until it is
back the initiator hears NOT READY.  One that another writer has taken over is not opened again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from txtcmu.errors import FencedError, TCMUError
from txtcmu.interfaces import IBackstore
from txtcmu.results import as_deferred

__all__ = ["Medium"]

#: Seconds before the first and the later attempts to open a backstore again.
REOPEN_DELAYS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)


class Medium:
    """Keeps a backstore open, or trying.

    :param opener: opens the backstore; called anew for each attempt.
    :param idle: returns a Deferred that fires when no command uses the backstore any more.
    :param ready: called with each backstore that was opened.
    :param away: called with the error when there is none, or none any more.
    :param name: of the device, for the log.
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
        self._backstore: Any = None
        self._lost: Any = None
        self._work: Deferred[Any] | None = None
        self._timer: Any = None
        self._failures = 0

    def open(self) -> Deferred[BaseException | None]:
        """Try to open the backstore; fires with the error of this first attempt, or ``None``."""
        self._work = work = Deferred.fromCoroutine(self._attempt())
        return work

    def lose(self, error: BaseException) -> None:
        """A command has found the backstore gone: close it when it is idle, then open it anew."""
        if self._backstore is None:
            return
        self._log.error("{name}: the backstore is lost: {error}", name=self._name, error=error)
        self._lost, self._backstore = self._backstore, None
        self._without(error)

    async def close(self) -> None:
        """Flush and close the backstore, which must be idle, and try no more to open one.  Errors are logged."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._work is not None:
            self._work.cancel()
            await self._quietly("opening", self._work)
        backstore, self._backstore = self._backstore or self._lost, None
        if backstore is not None:
            if IBackstore.providedBy(backstore) and not backstore.read_only and self._lost is None:
                await self._quietly("flushing", backstore.flush)
            await self._quietly("closing", backstore.close)

    async def _attempt(self) -> BaseException | None:
        if self._lost is not None:
            await self._idle()
            lost, self._lost = self._lost, None
            await self._quietly("closing the lost backstore of", lost.close)
        try:
            self._backstore = await self._opener()
        except CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, TCMUError | OSError):
                self._log.failure("{name}: opening the backstore failed", name=self._name)
            elif self._failures == 0:
                self._log.error("{name}: {error}", name=self._name, error=error)
            self._without(error)
            return error
        finally:
            self._work = None
        self._failures = 0
        self._ready(self._backstore)
        return None

    def _without(self, error: BaseException) -> None:
        self._away(error)
        if isinstance(error, FencedError):
            return
        delay = REOPEN_DELAYS[min(self._failures, len(REOPEN_DELAYS) - 1)]
        self._failures += 1
        self._timer = self._reactor.callLater(delay, self._again)

    def _again(self) -> None:
        self._timer = None
        self.open()

    async def _quietly(self, doing: str, step: Callable[[], Any] | Deferred[Any]) -> None:
        """Take ``step``; an error is logged and goes no further."""
        try:
            await (step if isinstance(step, Deferred) else as_deferred(step()))
        except CancelledError:
            pass
        except Exception:
            self._log.failure("{name}: {doing} the backstore failed", name=self._name, doing=doing)
