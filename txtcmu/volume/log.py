"""The log: closed batches become objects, several at a time; what counts is the prefix without gaps.

An object is created and never replaced.  Whoever takes the volume over puts a seal where the next object would go, so
a writer that was deposed cannot add to the prefix, and nothing behind a gap was ever acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txtcmu.errors import ConfigError, FencedError, ObjectStoreError, PreconditionFailed
from txtcmu.results import Promise
from txtcmu.volume.batch import ClosedBatch
from txtcmu.volume.errors import Damaged
from txtcmu.volume.logobject import Header, Kind, decode_header
from txtcmu.volume.names import Names
from txtcmu.volume.persistent import PersistentStore, read_again
from txtcmu.volume.slots import SLOT

__all__ = ["Log"]

#: Objects that are on their way at a time.
WINDOW: Final = 8

_log = Logger()


class Log:
    """The end of the log, where one writer adds to it.

    :param epoch: the writer's, and ``first``: the sequence number that it begins with; ``nonce``: its own.
    :param written: called with each batch that has become durable, in order, and its bytes.
    :param deposed: called when there is a seal, fails with a FencedError that names the new writer.
    :param look: called before an object is sent, and before it counts as durable; see :meth:`.ClockWatch.look`.
    :ivar held: the first object that is not sent for now, 0 for none.
    :ivar durable: the last object of the prefix without gaps.
    :ivar fenced: why the log takes nothing any more, or ``None``; :ivar ended: fails with it.
    """

    def __init__(
        self,
        store: PersistentStore,
        names: Names,
        epoch: int,
        first: int,
        nonce: bytes,
        written: Callable[[ClosedBatch, bytearray], None],
        deposed: Callable[[], Awaitable[None]],
        look: Callable[[], Deferred[None] | None],
    ) -> None:
        self._store = store
        self._names = names
        self._epoch = epoch
        self._nonce = nonce
        self._written = written
        self._deposed = deposed
        self._look = look
        self.next = first
        self.durable = first - 1
        self.fenced: FencedError | None = None
        self.ended = Promise()
        # Closed and not durable, by sequence number.
        self._closed: dict[int, ClosedBatch] = {}
        self._queue: deque[ClosedBatch] = deque()
        self._landed: dict[int, bytearray] = {}
        self._sending: dict[int, Deferred[None]] = {}
        self._waiting: list[tuple[int, Deferred[None]]] = []
        self.held = 0

    def __getitem__(self, seq: int) -> ClosedBatch:
        """Return a batch that is closed and not durable.  :raise KeyError: ``seq`` is none."""
        return self._closed[seq]

    @property
    def pending(self) -> int:
        """How many batches are closed and not durable."""
        return len(self._closed)

    def append(self, batch: ClosedBatch) -> None:
        """Make ``batch``, whose sequence number is :attr:`next`, an object, as soon as it waits for no base."""
        assert batch.seq == self.next
        self.next += 1
        self._closed[batch.seq] = batch
        self._queue.append(batch)
        self.proceed()

    def hold(self) -> None:
        """Send nothing that is appended from now on, until :meth:`release`."""
        self.held = self.next

    def release(self) -> None:
        """End what :meth:`hold` began."""
        self.held = 0
        self.proceed()

    def proceed(self) -> None:
        """Send what can be sent: called when a batch has got the last of its bases."""
        while self._queue and len(self._sending) < WINDOW and self.fenced is None:
            batch = self._queue[0]
            if batch.partial or (self.held and batch.seq >= self.held):
                return  # in order, so that a gap is not there for longer than it must be
            self._queue.popleft()
            sending = Deferred.fromCoroutine(self._send(batch))
            self._sending[batch.seq] = sending
            sending.addBoth(self._sent, batch.seq)

    def wait(self, seq: int) -> Deferred[None]:
        """Return a Deferred that fires when all up to ``seq`` is durable.  Fails with FencedError if it never will."""
        if seq <= self.durable:
            return succeed(None)
        if self.fenced is not None:
            return fail(self.fenced)
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting.append((seq, waiting))
        return waiting

    def fence(self, error: FencedError) -> None:
        """Take nothing any more: the volume belongs to another."""
        if self.fenced is None:
            self.fenced = error
            waiting, self._waiting = self._waiting, []
            for _, each in waiting:
                each.errback(error)
            self.ended.resolve(Failure(error))  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Give up what is being sent; it may land all the same."""
        self.fence(FencedError("the volume was closed"))
        for sending in list(self._sending.values()):
            sending.cancel()

    async def _send(self, batch: ClosedBatch) -> None:
        key = self._names.log(self._epoch, batch.seq)
        data = batch.encode()
        while True:
            await self._not_asleep()
            try:
                await self._store.create(key, data)
                break
            except PreconditionFailed:
                # It may be there because an earlier attempt has landed.
                if await self._is_ours(key, batch.header):
                    break
        await self._not_asleep()
        self._landed[batch.seq] = data

    async def _not_asleep(self) -> None:
        """Go on, if nothing has happened while this process did not run.  :raise FencedError: it has."""
        looking = self._look()
        if looking is not None:
            await looking
            if self.fenced is not None:
                raise self.fenced

    async def _is_ours(self, key: str, header: Header) -> bool:
        """Read what is in the place of an object.

        :return: whether it is the object; not, if there is nothing, and it is to be sent again.
        :raise FencedError: it is somebody else's.
        """

        async def read() -> Header | None:
            found = await self._store.get(key, 0, header.slots * SLOT)
            if found is None:
                return None
            return decode_header(found.data, header.uuid, header.epoch, header.seq, found.size)

        try:
            there = await read_again(read)
        except Damaged as damaged:
            raise FencedError(f"object {key} is not ours: {damaged}") from damaged
        if there is None:
            return False
        if there.kind is Kind.DATA and there.nonce == self._nonce:
            return True
        try:
            await self._deposed()
        except (ObjectStoreError, ConfigError):
            pass  # what counts is the seal
        raise FencedError(f"{key}: another is taking the volume over")

    def _sent(self, result: Any, seq: int) -> None:
        del self._sending[seq]
        if isinstance(result, Failure):
            if self.fenced is None:
                error = result.value
                if not isinstance(error, FencedError):
                    _log.failure("object {seq} of the log", result, seq=seq)
                    error = FencedError(f"object {seq} of the log: {error}")
                self.fence(error)
            return
        while self.durable + 1 in self._landed:
            self.durable += 1
            self._written(self._closed.pop(self.durable), self._landed.pop(self.durable))
        due = [each for each in self._waiting if each[0] <= self.durable]
        if due:
            self._waiting = [each for each in self._waiting if each[0] > self.durable]
            for _, waiting in due:
                waiting.callback(None)
        self.proceed()

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting = [each for each in self._waiting if each[1] is not waiting]
