"""Overlapping calls one after the other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.lun.ranges import BusyRanges


class Call:
    """One call on a range: made or not, ended or not, and what its caller got."""

    def __init__(self, number: int, start: int, end: int) -> None:
        self.number = number
        self.start = start
        self.end = end
        self.made = False
        self.cancelled = False
        self.work: Deferred[int] = Deferred(lambda _: None)
        self.outcome: list[Any] = []
        self.result: Deferred[Any] = Deferred()

    def overlaps(self, other: Call) -> bool:
        return self.start < other.end and other.start < self.end

    @property
    def under_way(self) -> bool:
        return self.made and not self.work.called


class Model:
    """Runs calls on ranges, and sees that no two that overlap are under way, nor made in the wrong order."""

    def __init__(self) -> None:
        self.ranges = BusyRanges()
        self.calls: list[Call] = []
        self.broken: list[str] = []
        #: Calls that end others, by their index, in the moment they are made.
        self.ends: dict[int, int] = {}

    def make(self, call: Call, at_once: bool) -> Deferred[int] | None:
        for other in self.calls:
            if other is not call and other.overlaps(call):
                if other.under_way:
                    self.broken.append(f"{call.number} meets {other.number}")
                if other.number < call.number and not other.made and not other.cancelled:
                    self.broken.append(f"{call.number} overtook {other.number}")
        call.made = True
        for other in self.calls:
            if other.number == self.ends.get(call.number) and other is not call and other.under_way:
                other.work.callback(other.number)
        if at_once:
            call.work.callback(call.number)
            return None
        return call.work

    def run(self, start: int, length: int, at_once: bool) -> None:
        call = Call(len(self.calls), start, start + length)
        self.calls.append(call)
        result = self.ranges.run(call.start, call.end, self.make, call, at_once)
        if result is None:
            call.outcome.append(None)
        else:
            call.result = result.addBoth(call.outcome.append)

    def cancel(self, call: Call) -> None:
        if not call.outcome:
            call.cancelled = True
            call.result.cancel()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(0, 12), st.integers(1, 8), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("fail"), st.integers(0, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
    ),
    max_size=40,
)


class BusyRangesTests(SynchronousTestCase):
    @given(operations=OPERATIONS, ends=st.dictionaries(st.integers(0, 30), st.integers(0, 30), max_size=10))
    def test_any_order(self, operations: list[Any], ends: dict[int, int]) -> None:
        """Overlapping calls never meet and are made in the order of arrival, and all end, whatever ends when.

        Calls end at once, later, with errors, in the middle of others, and are cancelled while they wait or run.
        """
        model = Model()
        model.ends = ends
        for name, *arguments in operations:
            if name == "run":
                model.run(*arguments)
                continue
            if not model.calls:
                continue
            call = model.calls[arguments[0] % len(model.calls)]
            if name == "cancel":
                model.cancel(call)
            elif name == "end" and call.under_way:
                call.work.callback(call.number)
            elif name == "fail" and call.under_way:
                call.work.errback(OSError("failed"))
        for _ in model.calls:
            for call in model.calls:
                if call.under_way:
                    call.work.callback(call.number)
        for call in model.calls:
            self.assertEqual(len(call.outcome), 1, f"call {call.number} never ended")
            if not call.made:
                self.assertIsInstance(call.outcome[0].value, CancelledError)
        self.assertEqual(model.broken, [])
        self.assertEqual((model.ranges._starts, model.ranges._ends, model.ranges._waiting), ([], [], []))

    def test_call_that_ends_another(self) -> None:
        """A call that ends another while it is being made is not overtaken by what waits for itself."""
        model = Model()
        model.run(100, 10, False)
        model.run(0, 10, False)
        model.run(0, 20, False)
        model.run(15, 15, False)
        model.ends = {2: 0}
        model.calls[1].work.callback(1)
        self.assertEqual([call.made for call in model.calls], [True, True, True, False])
        model.calls[2].work.callback(2)
        self.assertTrue(model.calls[3].under_way)

    def test_long_queue(self) -> None:
        """A thousand calls that wait for one and end at once do so without a stack as high."""
        model = Model()
        model.run(0, 1, False)
        for _ in range(1000):
            model.run(0, 1, True)
        model.calls[0].work.callback(0)
        self.assertEqual([call.outcome for call in model.calls], [[0], *[[None]] * 1000])

    def test_cancelled_while_waiting(self) -> None:
        """A call cancelled while it waits is never made, and lets through what waited for it."""
        model = Model()
        model.run(0, 10, False)
        model.run(5, 10, False)
        model.run(12, 10, False)
        model.cancel(model.calls[1])
        self.assertEqual([call.made for call in model.calls], [True, False, True])
        self.assertIsInstance(model.calls[1].outcome[0].value, CancelledError)

    def test_result_of_call(self) -> None:
        """What a call returns or raises reaches its caller, and leaves nothing busy."""
        ranges = BusyRanges()
        self.assertIsNone(ranges.run(0, 1, lambda: None))
        self.assertEqual(self.successResultOf(ranges.run(0, 1, lambda: succeed(7))), 7)
        with self.assertRaises(OSError):
            ranges.run(0, 1, _raise)
        first: Deferred[None] = Deferred()
        ranges.run(0, 1, lambda: first)
        second = ranges.run(0, 1, _raise)
        third = ranges.run(0, 1, lambda: None)
        first.callback(None)
        self.failureResultOf(second, OSError)
        self.assertIsNone(self.successResultOf(third))


def _raise() -> None:
    raise OSError("refused")
