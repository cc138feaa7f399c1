"""A disk on an object store: what is written goes into batches, batches become objects, the map knows where all is.

Everything happens in the reactor's thread, in the order in which it is asked for: that order is the order of the log.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.errors import ConfigError, FencedError, ObjectStoreError
from txtcmu.iovec import scatter
from txtcmu.volume.batch import ClosedBatch
from txtcmu.volume.cache import BlockCache
from txtcmu.volume.checkpoint import Checkpointer
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import Log
from txtcmu.volume.lookup import Lookup
from txtcmu.volume.persistent import PersistentStore
from txtcmu.volume.reader import Reader
from txtcmu.volume.replay import Replay
from txtcmu.volume.slots import BLOCK, SLOT
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.waiting import gathered
from txtcmu.volume.writer import Writer

__all__ = ["Volume"]

#: Epochs in the head after which a checkpoint is due: each opening adds one, and the head is small.
_MANY_EPOCHS: Final = 16

_logger = Logger()


class Volume:
    """An open volume, and its only writer.

    :param keeper: of the head, and ``replay``: of the state, as :func:`~txtcmu.volume.takeover.take_over` left them.
    """

    def __init__(self, store: Any, keeper: HeadKeeper, replay: Replay, clock: Any, tuning: Tuning) -> None:
        self._clock = clock
        self._tuning = tuning
        self._keeper = keeper
        self._state = state = replay.state
        self._cache = BlockCache(tuning.cache_blocks)
        head = keeper.head
        persistent = PersistentStore(store, clock)
        self._log = Log(persistent, state.names, head.epoch.number, replay.next, head.writer.nonce, self._written)
        loader = Loader(persistent, state)
        reader = Reader(persistent, state, self._cache)
        self._lookup = Lookup(state, keeper, self._log, loader, reader, self._cache)
        self._writer = Writer(state, keeper, self._log, self._lookup, clock, tuning)
        self._checkpointer = Checkpointer(store, state, keeper, self._log, loader)
        self._checkpoint: Deferred[None] | None = None
        self._timer: Any = None
        self._replayable = replay.next - 1 - (head.checkpoint.seq if head.checkpoint else 0)
        #: Takes what changes the disk; see :class:`~txtcmu.volume.writer.Writer`.
        self.write = self._writer.write
        self.discard = self._writer.discard
        self.flush = self._writer.flush
        self._look_for_checkpoint()

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._state.blocks.blocks * BLOCK

    def read(self, offset: int, buffers: list[memoryview]) -> Deferred[int] | int:
        """Fill ``buffers`` from ``offset`` on; both in whole sectors.  :return: how many bytes that are."""
        length = sum(map(len, buffers))
        first, start = divmod(offset, BLOCK)
        blocks = list(range(first, (offset + length - 1) // BLOCK + 1))
        if self._state.blocks.missing(first, len(blocks)):
            reading = Deferred.fromCoroutine(self._load_and_read(blocks))
        else:
            found = self._lookup.find(blocks, self._writer.batch)
            if not any(isinstance(each, Deferred) for each in found):
                return _fill(found, start, length, buffers)
            # What comes from the open batch is copied now: it may be overwritten meanwhile.
            reading = gathered([each if isinstance(each, Deferred) else bytes(each) for each in found])
        return reading.addCallback(_fill, start, length, buffers)

    async def _load_and_read(self, blocks: list[int]) -> list[Any]:
        await self._lookup.load(blocks)
        found = self._lookup.find(blocks, self._writer.batch)
        return await gathered([each if isinstance(each, Deferred) else bytes(each) for each in found])

    def _written(self, batch: ClosedBatch, data: bytes) -> None:
        """A batch has become durable."""
        view, at = memoryview(data), batch.header.slots * SLOT
        blocks = batch.blocks.tolist()
        for block, where in zip(blocks, batch.where.tolist(), strict=True):
            if block not in batch.spoiled:
                self._cache.put(where, view[at : at + BLOCK])
            at += SLOT
        self._replayable += 1
        self._writer.written()
        self._look_for_checkpoint()

    # Checkpoints

    def _look_for_checkpoint(self) -> None:
        """Begin a checkpoint when one is due, or see to it that one is made in time."""
        if self._checkpoint is not None or self._log.fenced is not None:
            return
        if self._replayable >= self._tuning.checkpoint_objects or len(self._keeper.head.epochs) >= _MANY_EPOCHS:
            self._begin_checkpoint()
        elif self._timer is None and self._replayable:
            self._timer = self._clock.callLater(self._tuning.checkpoint_age, self._begin_checkpoint)

    def _begin_checkpoint(self) -> Deferred[None]:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._checkpoint is None:
            before = self._replayable
            seq = self._writer.close_batch()
            self._checkpoint = Deferred.fromCoroutine(self._checkpointer.write(seq))
            self._checkpoint.addBoth(self._checkpointed, before)
        return self._checkpoint

    def _checkpointed(self, result: Any, before: int) -> None:
        self._checkpoint = None
        if not isinstance(result, Failure):
            self._replayable -= before
        elif isinstance(result.value, FencedError):
            self._log.fence(result.value)
        elif isinstance(result.value, ObjectStoreError):
            _logger.warn("checkpoint: {error}; later", error=result.value)
        else:
            _logger.failure("checkpoint", result)

    # Size, and the end

    async def grow(self, size: int) -> None:
        """Make the disk larger.

        :param size: bytes.
        :raise txtcmu.errors.ConfigError: it is no larger, or no whole number of blocks.
        """
        if size < self.size or size % BLOCK:
            raise ConfigError(f"a volume of {self.size} bytes can become larger, by multiples of {BLOCK}, not {size}")
        seq = self._writer.close_batch()
        # What is written from now on must not outlive a crash in which the new size does not.
        self._log.hold()
        try:
            await self._log.wait(seq)
            await self._keeper.replace(lambda _: {"size": size})
        finally:
            self._log.release()
        self._state.blocks.grow(size // BLOCK)

    async def close(self) -> None:
        """Make everything durable, write a checkpoint, and let go of the volume.

        :raise FencedError: another has it.
        """
        self._writer.stop()
        await self.flush()
        if self._checkpoint is not None:
            await self._checkpoint
        if self._replayable:
            await self._begin_checkpoint()
        if self._timer is not None:
            self._timer.cancel()
        await self._keeper.replace(lambda head: {"writer": evolve(head.writer, closed=True)})
        self._log.stop()


def _fill(found: list[Any], start: int, length: int, buffers: list[memoryview]) -> int:
    data = found[0] if len(found) == 1 else b"".join(found)
    scatter(memoryview(data)[start : start + length], buffers)
    return length
