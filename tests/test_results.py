"""One shape for what backstores return."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.results import as_deferred


class AsDeferredTests(SynchronousTestCase):
    def test_value(self) -> None:
        """A value is there at once; None is a value."""
        for value in (None, 0, b"data", [1]):
            self.assertIs(self.successResultOf(as_deferred(value)), value)

    def test_deferred(self) -> None:
        """A Deferred is itself, so that cancelling it reaches its maker."""
        cancelled: list[Deferred[None]] = []
        maker: Deferred[None] = Deferred(cancelled.append)
        result = as_deferred(maker)
        self.assertIs(result, maker)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(cancelled, [maker])

    def test_coroutine(self) -> None:
        """A coroutine runs; its value or exception is the Deferred's."""
        gate: Deferred[int] = Deferred()

        async def work() -> int:
            return await gate + 1

        result = as_deferred(work())
        self.assertNoResult(result)
        gate.callback(1)
        self.assertEqual(self.successResultOf(result), 2)

        async def fail() -> None:
            raise KeyError

        self.failureResultOf(as_deferred(fail()), KeyError)

    def test_cancelled_coroutine(self) -> None:
        """Cancelling reaches what the coroutine awaits."""
        gate: Deferred[None] = Deferred()

        async def work() -> str:
            try:
                await gate
            except CancelledError:
                return "let go"
            return "done"

        result = as_deferred(work())
        result.cancel()
        self.assertEqual(self.successResultOf(result), "let go")
