"""The fake kernel does what ``tests/kernel/test_fake_and_real.py`` sees the real one do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from tests.kernel.ringsuite import BUSY, RING_SIZE, Bench, BrokenRingSuite, RingSuite, Sent
from txtcmu.kernel.ring import Ring
from txtcmu.kernel.uio import UIO
from txtcmu.testing.fakekernel import FakeCommand, FakeKernel, RuleBroken


class FakeBench(Bench):
    """A bench without a kernel, where everything happens at once."""

    def __init__(self, data_area_mb: int = 8, cmd_time_out: float | None = None, quick: bool = False) -> None:
        self._clock = Clock()
        self.kernel = FakeKernel(
            RING_SIZE, data_area_mb << 20, cmd_time_out=cmd_time_out, clock=self._clock, suspicious=not quick
        )
        self.kernel.tmr_notification = True
        self.uio = self.open()
        self.ring = Ring(self.memory)
        self._misbehaved = False

    def send(self, cdb: bytes, data_out: bytes = b"", data_in_length: int = 0, seconds: float = 60) -> Sent:
        return self.kernel.submit(cdb, data_out, data_in_length)

    def abort(self, sent: Sent) -> None:
        self.kernel.abort(cast(FakeCommand, sent))

    def again(self, sent: Sent, status: int = BUSY) -> Sent:
        assert isinstance(sent, FakeCommand)
        assert (sent.done, sent.status) == (True, status)
        return self.kernel.submit(sent.cdb, sent.data_out, sent.data_in_length)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 0) -> None:
        self._clock.advance(seconds)
        assert condition(), what

    def write(self, name: str, value: int) -> None:
        if name == "qfull_time_out":
            self.kernel.qfull_time_out = value
        else:
            action: Any = getattr(self.kernel, name)
            action(value)

    def doorbell(self, *, wrong: bool = False) -> None:
        if wrong:
            self._misbehaved = True
            with pytest.raises(RuleBroken):
                self.uio.doorbell()
        else:
            self.uio.doorbell()

    def open(self) -> UIO:
        return self.kernel.open()

    def remove(self) -> None:
        self.kernel.remove()

    def close(self) -> None:
        """See that no rule was broken, but where one was meant to be."""
        if not self._misbehaved:
            self.kernel.verify()


class TestFake(RingSuite, BrokenRingSuite):
    """The suite on the fake kernel."""

    @pytest.fixture
    def make(self) -> Iterator[Callable[..., Bench]]:
        benches: list[FakeBench] = []

        def make(**options: Any) -> Bench:
            benches.append(FakeBench(**options))
            return benches[-1]

        yield make
        for bench in benches:
            bench.close()
