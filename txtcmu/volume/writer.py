"""What changes the disk: taken in order of arrival, gathered in batches, closed by size, flush, idleness and age."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from mmap import mmap
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from txtcmu.results import Promise, all_of
from txtcmu.volume.batch import Batch
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.log import Log
from txtcmu.volume.lookup import Lookup
from txtcmu.volume.slots import BLOCK
from txtcmu.volume.state import State
from txtcmu.volume.tuning import Tuning

__all__ = ["Writer"]


class Writer:
    """The writing side of a volume.

    :param mark: whose item 0 is 1 while something that was taken, and so acknowledged, is not durable.
    :ivar batch: the open one.
    """

    def __init__(
        self,
        state: State,
        keeper: HeadKeeper,
        log: Log,
        lookup: Lookup,
        clock: Any,
        tuning: Tuning,
        mark: bytearray | mmap,
    ) -> None:
        self._state = state
        self._keeper = keeper
        self._log = log
        self._lookup = lookup
        self._clock = clock
        self._tuning = tuning
        self._mark = mark
        self._cached = True
        self.batch = self._new_batch()
        # Operations that wait until less is on its way, and the Deferreds of those who wait for them.
        self._held: deque[tuple[Callable[[], Deferred[None] | None], Deferred[None]]] = deque()
        self._flushed: Promise | None = None
        self._timer: Any = None
        self._changes = 0
        log.ended.wait().addErrback(self._fenced)

    def _new_batch(self) -> Batch:
        return Batch(self._keeper.head.geometry.batch_blocks)

    def write(self, offset: int, data: memoryview) -> Deferred[None] | None:
        """Take ``data`` for ``offset``; both in whole sectors.

        :return: ``None``, or a Deferred that fires when it is taken: it may be in memory only until a flush.
        """
        if self._must_wait():
            return self._hold_back(lambda: self._write(offset, data))
        return self._write(offset, data)

    def _must_wait(self) -> bool:
        """Tell whether what changes the disk has to wait, for ever perhaps: too much is on its way, or waits itself."""
        return bool(self._held) or self._log.pending >= self._tuning.pending or self._log.fenced is not None

    def _hold_back(self, operation: Callable[[], Deferred[None] | None]) -> Deferred[None]:
        """Carry out what changes the disk when its turn has come."""
        if self._log.fenced is not None:
            return fail(self._log.fenced)
        held: Deferred[None] = Deferred(self._forget)
        self._held.append((operation, held))
        return held

    def _admit(self, operation: Callable[[], Deferred[None] | None]) -> Deferred[None] | None:
        """Carry out what changes the disk, now or in its turn."""
        return self._hold_back(operation) if self._must_wait() else operation()

    def _forget(self, held: Deferred[None]) -> None:
        self._held = deque(each for each in self._held if each[1] is not held)

    def _fenced(self, failure: Failure) -> None:
        while self._held:
            self._held.popleft()[1].errback(failure)
        flushed, self._flushed = self._flushed, None
        if flushed is not None:
            flushed.resolve(failure)

    def _write(self, offset: int, data: memoryview) -> Deferred[None] | None:
        most = self._keeper.head.geometry.batch_blocks * BLOCK
        waiting: list[Deferred[None]] = []
        while data:
            part = data[: most - offset % BLOCK]
            waiting += self._write_part(offset, part)
            offset, data = offset + len(part), data[len(part) :]
        return all_of(waiting) if waiting else None

    def _write_part(self, offset: int, data: memoryview) -> list[Deferred[None]]:
        """Put ``data`` into one batch."""
        block, start = divmod(offset, BLOCK)
        length = len(data)
        if not self.batch.has_room(block, (start + length - 1) // BLOCK + 1):
            self.close_batch()
        self._begin()
        batch = self.batch
        waiting = []
        at = 0
        while at < length:
            if start == 0 and length - at >= BLOCK:
                batch.write(block, data[at : at + BLOCK])
                at += BLOCK
            else:
                end = min(length, at + BLOCK - start)
                if batch.write_sectors(block, start, data[at:end]):
                    self._read_base(batch, block)
                if block in batch.partial:
                    waiting.append(batch.bases[block].wait())
                at, start = end, 0
            block += 1
        return waiting

    def _read_base(self, batch: Batch, block: int) -> None:
        """Read what a block was before this batch, into it."""
        promise = batch.bases[block] = Promise()

        def lost(failure: Failure) -> Failure | None:
            if block not in batch.partial:
                return None  # it was written as a whole since, and the object may be gone for that very reason
            batch.fill(block, None)
            return failure

        def read(result: Any) -> None:
            promise.resolve(result)
            self._log.proceed()

        reading = Deferred.fromCoroutine(self._lookup.base(block))
        reading.addCallbacks(lambda data: batch.fill(block, data), lost).addBoth(read)

    def discard(self, offset: int, length: int) -> Deferred[None] | None:
        """Make a range of sectors read as zeroes: whole blocks are given back."""
        return self._admit(lambda: self._discard(offset, length))

    def _discard(self, offset: int, length: int) -> Deferred[None] | None:
        end = offset + length
        first, last = -(-offset // BLOCK), end // BLOCK
        if first > last:  # inside one block
            return self._write(offset, memoryview(bytes(length)))
        if self.batch.room < 2:
            self.close_batch()  # the blocks at both ends and the hole between belong into one batch
        waiting: list[Deferred[None]] = []
        if offset < first * BLOCK:
            waiting += self._write_part(offset, memoryview(bytes(first * BLOCK - offset)))
        if last * BLOCK < end:
            waiting += self._write_part(last * BLOCK, memoryview(bytes(end - last * BLOCK)))
        if first < last:
            self._begin()
            self.batch.discard(first, last - first)
        return all_of(waiting) if waiting else None

    def _begin(self) -> None:
        """Note that something comes into the batch: it may be acknowledged as soon as this turn ends."""
        if self._cached:
            self._mark[0] = 1
        self._changes += 1
        if self._timer is None:
            self._timer = self._clock.callLater(self._tuning.idle, self._look, self.batch, self._changes, 0.0)

    def _look(self, batch: Batch, changes: int, age: float) -> None:
        """Close a batch to which nothing has been added, or which is old."""
        self._timer = None
        if self._log.fenced is not None or not self.batch:
            return
        age = age + self._tuning.idle if batch is self.batch else 0.0
        if batch is self.batch and (changes == self._changes or age >= self._tuning.age):
            self.close_batch()
        else:
            self._timer = self._clock.callLater(self._tuning.idle, self._look, self.batch, self._changes, age)

    def close_batch(self) -> int:
        """Make the open batch an object of the log, unless it is empty; return the last sequence number."""
        if self.batch:
            batch, self.batch = self.batch, self._new_batch()
            head, state = self._keeper.head, self._state
            closed = batch.close(state.names.uuid, head.epoch.number, self._log.next, head.writer.nonce)
            state.inventory.add(closed.seq, closed.header.size, len(closed.blocks))
            for block, count in closed.holes():
                state.inventory.displaced(state.blocks.discard(block, count))
            state.inventory.displaced(state.blocks.commit(closed.blocks, closed.where))
            self._log.append(closed)
            flushed, self._flushed = self._flushed, None
            if flushed is not None:
                self._log.wait(closed.seq).addBoth(flushed.resolve)
        return self._log.next - 1

    def hold(self) -> Deferred[None] | None:
        """Have the log hold back what comes after all that was asked for before: see :meth:`Log.hold`.

        :return: ``None``, or a Deferred that fires when it does.
        """

        def hold() -> None:
            self.close_batch()
            self._log.hold()

        return self._admit(hold)

    def written(self) -> None:
        """A batch has become durable."""
        if self._flushed is not None:
            self.close_batch()
        while self._held and self._log.pending < self._tuning.pending:
            operation, held = self._held.popleft()
            result = operation()
            if result is None:
                held.callback(None)
            else:
                result.chainDeferred(held)
        if self._all_durable():
            self._mark[0] = 0

    def _all_durable(self) -> bool:
        return not self.batch and not self._log.pending

    def cache_writes(self, on: bool) -> None:
        """Note whether what is taken is acknowledged before it is durable, from now on, what is under way included."""
        self._cached = on
        if on and not self._all_durable():
            self._mark[0] = 1

    def flush(self) -> Deferred[None]:
        """Make all that was taken durable.  :return: fails with FencedError if that will never be."""
        if not self.batch:
            return self._log.wait(self._log.next - 1)
        if self._log.fenced is not None:
            return fail(self._log.fenced)
        if self._flushed is None:
            self._flushed = Promise()
        flushed = self._flushed.wait()
        if self._log.pending < self._tuning.flushes:
            self.close_batch()
        return flushed

    def stop(self) -> None:
        """Close no batch by itself any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
