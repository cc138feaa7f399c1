"""A disk on an object store: what is written goes into batches, batches become objects, the map knows where all is.

Everything happens in the reactor's thread, in the order in which it is asked for: that order is the order of the log.
"""

from __future__ import annotations

from mmap import mmap
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.errors import ConfigError, FencedError, ObjectStoreError
from txtcmu.iovec import scatter
from txtcmu.results import Promise, as_deferred
from txtcmu.volume.batch import ClosedBatch
from txtcmu.volume.cache import BlockCache
from txtcmu.volume.checkpoint import Checkpointer
from txtcmu.volume.clockwatch import ClockWatch
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import Log
from txtcmu.volume.lookup import Lookup
from txtcmu.volume.persistent import PersistentStore
from txtcmu.volume.readahead import ReadAhead
from txtcmu.volume.reader import Reader
from txtcmu.volume.replay import Replay
from txtcmu.volume.slots import BLOCK, SLOT
from txtcmu.volume.sweep import sweep
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.writer import Writer

__all__ = ["Volume"]

#: Epochs in the head after which a checkpoint is due: each opening adds one, and the head is small.
_MANY_EPOCHS: Final = 16

#: How often, and after how many seconds, a writer that has found a seal looks who has taken the volume over.
_LOOKS: Final = 10
_LOOK_DELAY: Final = 0.5

_logger = Logger()


class Volume:
    """An open volume, and its only writer.

    :param keeper: of the head, and ``replay``: of the state, as :func:`~txtcmu.volume.takeover.take_over` left them.
    :param mark: see :class:`~txtcmu.volume.writer.Writer`; for those who want to know.
    """

    def __init__(
        self,
        store: Any,
        keeper: HeadKeeper,
        replay: Replay,
        clock: Any,
        tuning: Tuning,
        mark: bytearray | mmap | None = None,
    ) -> None:
        mark = bytearray(1) if mark is None else mark
        self._store = store
        self._clock = clock
        self._tuning = tuning
        self._keeper = keeper
        self._state = state = replay.state
        self._cache = BlockCache(tuning.cache_blocks)
        head = keeper.head
        persistent = PersistentStore(store, clock)
        self._watch = ClockWatch(clock, self._look_at_head)
        self._log = Log(
            persistent,
            state.names,
            head.epoch.number,
            replay.next,
            head.writer.nonce,
            self._written,
            self._deposed,
            self._watch.look,
        )
        loader = Loader(persistent, state, keeper.check)
        reader = Reader(persistent, state, self._cache)
        self._lookup = Lookup(state, keeper, self._log, loader, reader, self._cache)
        self._ahead = ReadAhead(min(tuning.read_ahead_blocks, tuning.cache_blocks // 4))
        self._writer = Writer(state, keeper, self._log, self._lookup, clock, tuning, mark)
        self._checkpointer = Checkpointer(store, state, keeper, self._log, loader)
        self._checkpoint: Promise | None = None
        self._sweeping: Deferred[Any] | None = None
        self._swept = False
        self._resizing = DeferredLock()
        self._timer: Any = None
        self._replayable = replay.replayed
        #: Takes what changes the disk; see :class:`~txtcmu.volume.writer.Writer`.
        self.write = self._writer.write
        self.discard = self._writer.discard
        self.flush = self._writer.flush
        self.cache_writes = self._writer.cache_writes
        self._look_for_checkpoint()

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._state.blocks.blocks * BLOCK

    def read(self, offset: int, buffers: list[memoryview]) -> Deferred[int] | int:
        """Fill ``buffers`` from ``offset`` on; both in whole sectors.  :return: how many bytes that are."""
        if self._log.fenced is not None:
            return fail(self._log.fenced)
        length = sum(map(len, buffers))
        first, start = divmod(offset, BLOCK)
        blocks = list(range(first, (offset + length - 1) // BLOCK + 1))
        ahead = self._ahead.read(first, len(blocks))
        if ahead is not None:
            self._lookup.read_ahead(*ahead)
        if self._state.blocks.missing(first, len(blocks)):
            reading = Deferred.fromCoroutine(self._load_and_read(blocks))
        else:
            found = self._lookup.find(blocks, self._writer.batch)
            if isinstance(found, list):
                return _fill(found, start, length, buffers)
            reading = found
        return reading.addCallback(_fill, start, length, buffers)

    async def _load_and_read(self, blocks: list[int]) -> list[Any]:
        await self._lookup.load(blocks)
        found: list[Any] = await as_deferred(self._lookup.find(blocks, self._writer.batch))
        return found

    def _written(self, batch: ClosedBatch, data: bytearray) -> None:
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

    async def _deposed(self) -> None:
        """There is a seal: name its writer, who replaces the head next, unless he dies before.

        :raise FencedError: the head names him.
        """
        for _ in range(_LOOKS):
            await self._keeper.check()
            await deferLater(self._clock, _LOOK_DELAY)

    async def _look_at_head(self) -> None:
        """The clock has jumped: see whether the volume is still this writer's."""
        try:
            await self._keeper.check()
        except FencedError as fenced:
            self._log.fence(fenced)
        except (ObjectStoreError, ConfigError):
            pass  # the next object of the log will show it

    # Checkpoints

    def _look_for_checkpoint(self) -> None:
        """Begin a checkpoint when one is due, or see to it that one is made in time."""
        if self._checkpoint is not None or self._log.fenced is not None:
            return
        if self._replayable >= self._tuning.checkpoint_objects or len(self._keeper.head.epochs) >= _MANY_EPOCHS:
            self._checkpoint_by_itself()
        elif self._timer is None and self._replayable:
            self._timer = self._clock.callLater(self._tuning.checkpoint_age, self._checkpoint_by_itself)

    def _checkpoint_by_itself(self) -> None:
        self.checkpoint().addErrback(self._checkpoint_failed)

    def _checkpoint_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, FencedError):
            self._log.fence(failure.value)
        elif isinstance(failure.value, ObjectStoreError):
            _logger.warn("checkpoint: {error}; later", error=failure.value)
        else:
            _logger.failure("checkpoint", failure)

    def checkpoint(self) -> Deferred[None]:
        """Make a checkpoint of all that was taken, or wait for the one that is being made."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._checkpoint is None:
            self._checkpoint = promise = Promise()
            writing = Deferred.fromCoroutine(self._checkpointer.write(self._writer.close_batch()))
            writing.addBoth(self._checkpointed, self._replayable).addBoth(promise.resolve)
            return promise.wait()
        return self._checkpoint.wait()

    def _checkpointed(self, result: Any, replayable: int) -> Any:
        self._checkpoint = None
        if not isinstance(result, Failure):
            self._replayable -= replayable
            self._sweep_once()
        return result

    def _sweep_once(self) -> None:
        """After the first checkpoint of an opening: what is needless by then is left for nobody else to find."""
        if not self._swept and self._sweeping is None:
            self._sweeping = as_deferred(self.sweep())
            self._sweeping.addBoth(self._sweep_ended)

    def _sweep_ended(self, result: Any) -> None:
        self._sweeping = None
        if not isinstance(result, Failure):
            self._swept = True
        elif isinstance(result.value, ObjectStoreError):
            _logger.warn("sweep: {error}; after the next checkpoint", error=result.value)
        elif not isinstance(result.value, CancelledError):
            _logger.failure("sweep", result)

    async def sweep(self) -> int:
        """Delete what writers have left behind that died or were too late.

        :return: how many objects that was.
        :raise ObjectStoreError: the store fails; what is left will be found the next time.
        """
        return await sweep(self._store, self._state, self._keeper)

    # Size, and the end

    async def resize(self, size: int) -> None:
        """Make the disk larger, or smaller; a smaller one loses first what is cut off, and then the room for it.

        Several at once are carried out one after the other.

        :param size: bytes.
        :raise txtcmu.errors.ConfigError: it is no whole number of blocks.
        """
        if size <= 0 or size % BLOCK:
            raise ConfigError(f"a volume is a multiple of {BLOCK} bytes long, not {size}")
        async with self._resizing:
            await self._resize(size)

    async def _resize(self, size: int) -> None:
        if size < self.size:
            discarded = self.discard(size, self.size - size)
            if discarded is not None:
                await discarded
            if self._checkpoint is not None:
                await self._checkpoint.wait()
            # Neither the log nor the map may speak of blocks that are not there.
            await self.checkpoint()
        # What is written from now on must not outlive a crash in which the new size does not.
        held = self._writer.hold()
        if held is not None:
            await held
        try:
            await self._log.wait(self._log.held - 1)
            await self._keeper.replace(lambda _: {"size": size})
        finally:
            self._log.release()
        self._state.blocks.resize(size // BLOCK)

    async def close(self) -> None:
        """Make everything durable, write a checkpoint, and let go of the volume.

        :raise FencedError: another has it.
        """
        self._swept = True  # or will be, by whoever opens it next
        await self.flush()
        while self._replayable:
            await self.checkpoint()
        await self._keeper.replace(lambda head: {"writer": evolve(head.writer, closed=True)})
        self.abandon()

    def abandon(self) -> None:
        """Stop at once, without a word to the store: what is not durable is lost."""
        self._writer.stop()
        self._watch.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._log.stop()


def _fill(found: list[Any], start: int, length: int, buffers: list[memoryview]) -> int:
    data = found[0] if len(found) == 1 else b"".join(found)
    scatter(memoryview(data)[start : start + length], buffers)
    return length
