"""The load generator: a number of operations outstanding at a time, in one order, through any front end."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Protocol

from benchmarks.s3.sequences import Sequence
from benchmarks.s3.stamps import BLOCK, Stamps

__all__ = ["Front", "Generator"]


class Front(Protocol):
    """A way to a disk.  Commands are given in slots, one at a time in each.

    A command that fails raises :class:`OSError` in :meth:`wait`.

    :ivar buffers: for each slot the data of its command, as long as an operation.
    """

    buffers: list[memoryview]

    def write(self, slot: int, offset: int) -> None:
        """Write what is in a slot's buffer."""

    def read(self, slot: int, offset: int) -> None:
        """Read into a slot's buffer."""

    def flush(self, slot: int) -> None:
        """Have all that was written before, and acknowledged, made durable."""

    def wait(self) -> list[int]:
        """Wait until commands have ended; return their slots."""

    def close(self) -> None:
        """Let go of the disk."""


class Generator:
    """A load on a disk.

    :param unit: bytes of an operation, whole blocks.
    :param flushes: an operation that writes is a write and the flush that follows it.
    :ivar operations: how many were begun.
    :ivar flushed: for each unit one more than the last operation that wrote it before a flush was acknowledged, 0 for
        none.
    :ivar wrong: operations that read a first block which nobody has written.
    :ivar latencies: seconds that each operation took.
    """

    def __init__(self, front: Front, sequence: Sequence, stamps: Stamps, unit: int, flushes: bool = False) -> None:
        self.operations = 0
        self.wrong = 0
        self.flushed: dict[int, int] = {}
        self.latencies = array("d")
        self._front = front
        self._sequence = sequence
        self._stamps = stamps
        self._unit = unit
        self._flushes = flushes

    def write(self, enough: Callable[[int], bool]) -> float:
        """Write until ``enough``, called with the number of operations begun, says so; then flush.

        :return: the seconds until all was acknowledged.
        """
        began = time.monotonic()
        self._run(self._begin_write, self._end_write, enough)
        self._front.flush(0)
        self._front.wait()
        elapsed = time.monotonic() - began
        for operation in range(self.operations):
            self._note(operation)
        return elapsed

    def write_until_killed(self, seconds: float, kill: Callable[[], None]) -> None:
        """Go on writing, and kill the engine while it is at it.

        What it has not acknowledged as flushed may be there or not; what it has, must be.
        """
        end = time.monotonic() + seconds
        self._run(self._begin_write, self._end_write, lambda _: time.monotonic() >= end, kill)

    def read(self, enough: Callable[[int], bool]) -> float:
        """Read until ``enough`` says so.

        :return: the seconds that it took.
        """
        began = time.monotonic()
        self._run(self._begin_read, self._end_read, enough)
        return time.monotonic() - began

    def _note(self, operation: int) -> None:
        """Note that an operation has been flushed."""
        unit = self._sequence[operation]
        self.flushed[unit] = max(self.flushed.get(unit, 0), operation + 1)

    def _begin_write(self, slot: int, operation: int) -> None:
        unit, buffer = self._sequence[operation], self._front.buffers[slot]
        block = unit * (self._unit // BLOCK)
        for offset in range(0, self._unit, BLOCK):
            self._stamps.put(buffer, offset, block, operation)
            block += 1
        self._front.write(slot, unit * self._unit)

    def _begin_read(self, slot: int, operation: int) -> None:
        self._front.read(slot, self._sequence[operation] * self._unit)

    def _end_write(self, slot: int, operation: int) -> None:
        if self._flushes:
            self._note(operation)

    def _end_read(self, slot: int, operation: int) -> None:
        block = self._sequence[operation] * (self._unit // BLOCK)
        self.wrong += self._stamps.operation(self._front.buffers[slot], 0, block) is None

    def _run(
        self,
        begin: Callable[[int, int], None],
        end: Callable[[int, int], None],
        enough: Callable[[int], bool],
        kill: Callable[[], None] | None = None,
    ) -> None:
        """Keep all slots busy until ``enough``; then wait for the last ones, or ``kill``."""
        depth = len(self._front.buffers)
        begun = [0.0] * depth
        operations = [0] * depth
        flushing = [False] * depth
        clock, wait, done = time.perf_counter, self._front.wait, self.latencies.append
        ended = list(range(depth))
        busy = 0
        while True:
            for slot in ended:
                if enough(self.operations):
                    if kill is not None:
                        kill()
                        return
                    continue
                begun[slot] = clock()
                operations[slot] = self.operations
                begin(slot, self.operations)
                self.operations += 1
                busy += 1
            if not busy:
                return
            ended = []
            for slot in wait():
                if self._flushes and not flushing[slot]:
                    flushing[slot] = True
                    self._front.flush(slot)
                    continue
                flushing[slot] = False
                busy -= 1
                done(clock() - begun[slot])
                end(slot, operations[slot])
                ended.append(slot)
