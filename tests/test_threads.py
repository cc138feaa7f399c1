"""Work in threads, and Deferreds that fire when it has ended and not before."""

from __future__ import annotations

import threading

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txtcmu.threads import run, uncancellable


class UncancellableTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have work that is not done yet."""
        self.work: Deferred[str] = Deferred()
        self.held = uncancellable(self.work)

    def test_result(self) -> None:
        """It fires with the result, or the failure, of the work."""
        self.assertNoResult(self.held)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(self.held), "done")
        failing: Deferred[str] = Deferred()
        held = uncancellable(failing)
        failing.errback(ZeroDivisionError())
        self.failureResultOf(held, ZeroDivisionError)

    def test_cancel_waits(self) -> None:
        """Cancelling does nothing, however often: it fires when the work has ended."""
        self.held.cancel()
        self.held.cancel()
        self.assertNoResult(self.held)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(self.held), "done")

    def test_cancel_with_callbacks(self) -> None:
        """The same holds for the Deferred that callbacks were added to."""
        result = self.held.addCallback(str.upper)
        result.cancel()
        self.assertNoResult(result)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(result), "DONE")

    def test_cancelled_coroutine_waits(self) -> None:
        """A coroutine that awaits it goes on waiting when it is cancelled, and then goes on."""

        async def waiter() -> str:
            return await self.held + ", and then the rest"

        result = Deferred.fromCoroutine(waiter())
        result.cancel()
        self.assertNoResult(result)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(result), "done, and then the rest")

    def test_cancelled_chain_waits(self) -> None:
        """So does a Deferred whose callback returned it."""
        first: Deferred[None] = Deferred()
        result = first.addCallback(lambda _: self.held)
        first.callback(None)
        result.cancel()
        self.assertNoResult(result)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(result), "done")


class RunTests(TestCase):
    """In the real reactor's threads."""

    timeout = 10

    async def test_in_a_thread(self) -> None:
        """The function runs in another thread, with its arguments; the Deferred fires in this one."""
        from twisted.internet import reactor

        def function(one: int, *, two: int) -> tuple[int, bool]:
            return one + two, threading.current_thread() is threading.main_thread()

        result = run(reactor, function, 1, two=2)
        self.assertEqual(await result, (3, False))
        self.assertIs(threading.current_thread(), threading.main_thread())

    async def test_failure(self) -> None:
        """An exception of the function is the Deferred's failure."""
        from twisted.internet import reactor

        def function() -> None:
            raise BlockingIOError("no")

        with self.assertRaises(BlockingIOError):
            await run(reactor, function)

    async def test_cancelled_while_it_runs(self) -> None:
        """When a cancelled one fires, the thread has touched the buffer for the last time."""
        from twisted.internet import reactor

        await run(reactor, int)  # from here on the reactor, and so its thread pool, runs
        buffer = bytearray(1)
        begun, go = threading.Event(), threading.Event()

        def function() -> str:
            begun.set()
            go.wait(10)
            buffer[0] = 1
            return "ended"

        result = run(reactor, function)
        self.assertTrue(begun.wait(10))
        result.cancel()
        self.assertFalse(result.called)
        go.set()
        self.assertEqual(await result, "ended")
        self.assertEqual(buffer[0], 1)
