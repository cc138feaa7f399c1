"""Keeping a backstore open, apart from any device."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tests.lun.support import Held, Later, ScriptedBackstore
from txtcmu.errors import ConfigError, FencedError, NotReadyError
from txtcmu.lun.medium import Medium


class _Empty(ScriptedBackstore):
    """A backstore that is false, being a container of nothing."""

    def __len__(self) -> int:
        return 0


class MediumTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[Any] = []
        self.idle: Deferred[None] = succeed(None)
        self.results: list[Any] = []
        self.refusal: Exception | None = None
        self.medium = Medium(self.clock, self.opener, lambda: self.idle, self.ready, self.away, Logger(), "disk")

    async def opener(self) -> Any:
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return await result if isinstance(result, Deferred) else result

    def ready(self, backstore: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.events.append(backstore)

    def away(self, error: BaseException) -> None:
        self.events.append(str(error))

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.medium.close())

    def test_first_attempt(self) -> None:
        """Opening fires with the first attempt's error; later attempts go on behind it."""
        backstore = ScriptedBackstore()
        self.results = [NotReadyError("one"), NotReadyError("two"), backstore]
        self.assertEqual(str(self.successResultOf(self.medium.open())), "one")
        self.clock.pump([1, 2])
        self.assertEqual(self.events, ["one", "two", backstore])
        self.successResultOf(self.close())
        self.assertEqual(backstore.names, ["flush", "close"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_delays_begin_anew(self) -> None:
        """After a success the delays between attempts begin with the shortest again."""
        self.results = [*[NotReadyError("away")] * 4, ScriptedBackstore(), ScriptedBackstore()]
        self.medium.open()
        self.clock.pump([1, 2, 5, 10])
        self.medium.lose(NotReadyError("gone"))
        self.clock.advance(1)
        self.assertEqual(self.results, [])

    def test_lost_once(self) -> None:
        """Every command that was outstanding reports the loss; the first one counts."""
        lost, found = ScriptedBackstore(), ScriptedBackstore()
        self.results = [lost, found]
        self.medium.open()
        self.idle = Deferred()
        self.medium.lose(NotReadyError("gone"))
        self.medium.lose(FencedError("also gone"))
        self.clock.advance(1)
        self.assertEqual((self.events, lost.names), ([lost, "gone"], []))
        self.idle.callback(None)
        self.assertEqual((self.events[2:], lost.names), ([found], ["close"]))

    def test_refused_when_opened(self) -> None:
        """A backstore that is refused after it was opened is closed, and it is an error of the attempt."""
        backstore = ScriptedBackstore()
        self.results, self.refusal = [backstore], ConfigError("too small")
        self.assertIs(self.successResultOf(self.medium.open()), self.refusal)
        self.assertEqual((self.events, backstore.names), (["too small"], ["close"]))
        self.successResultOf(self.close())
        self.assertEqual(backstore.names, ["close"])

    def test_fails_to_close_when_lost(self) -> None:
        """A lost backstore that cannot be closed is logged, whatever it raises, and the next one opened."""
        for error in (OSError("no such socket"), asyncio.CancelledError()):
            self.results = [ScriptedBackstore(close=lambda error=error: fail(error)), ScriptedBackstore()]
            self.medium.open()
            self.medium.lose(NotReadyError("gone"))
            self.clock.advance(1)
            self.assertEqual(self.results, [])
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_false_backstore(self) -> None:
        """A backstore that happens to be false is one all the same."""
        backstore = _Empty()
        self.results = [backstore]
        self.medium.open()
        self.successResultOf(self.close())
        self.assertEqual(backstore.names, ["flush", "close"])

    def test_close_before_open(self) -> None:
        """Closing what was never opened does nothing."""
        self.successResultOf(self.close())

    def test_close_while_opening(self) -> None:
        """Closing waits for an opening that does not let itself be cancelled, and closes what it opens."""
        backstore, opening = ScriptedBackstore(), Held()
        self.results = [opening]
        self.medium.open()
        closed = self.close()
        self.assertTrue(opening.cancelled)
        self.assertNoResult(closed)
        opening.callback(backstore)
        self.successResultOf(closed)
        self.assertEqual(backstore.names, ["flush", "close"])

    def test_flush_before_close(self) -> None:
        """Close is called when flush has ended, whether it was good or not."""
        flush = Later()
        backstore = ScriptedBackstore(flush=flush)
        self.results = [backstore]
        self.medium.open()
        closed = self.close()
        self.assertEqual(backstore.names, ["flush"])
        flush.made[0].errback(OSError("lost"))
        self.successResultOf(closed)
        self.assertEqual(backstore.names, ["flush", "close"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
