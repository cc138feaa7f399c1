"""One who uses a volume: opens it, sends it commands, several at a time, and may be paused or killed at any moment."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tests.simulation.client import StoreClient
from tests.simulation.history import History
from tests.simulation.hosts import Host
from tests.simulation.network import Network
from tests.simulation.stamps import SECTOR, read_stamps, runs, stamped
from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.errors import BackstoreError, FencedError, MediumError, ObjectStoreError, TCMUError
from txtcmu.results import as_deferred
from txtcmu.volume.head import Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

__all__ = ["PREFIX", "Killed", "User", "Workload", "World"]

#: Where the volume lives.
PREFIX: Final = "v/"
_BLOCK: Final = 8  # sectors


class Killed(Exception):  # noqa: N818
    """The process died before it had an answer."""


@frozen
class Workload:
    """What users of one seed do.

    :ivar depth: commands at a time; :ivar think: seconds between two of them, on average.
    :ivar hot: where most of them go, in sectors from the start of the disk.
    :ivar largest: sectors that a disk grows to.
    :ivar weights: of the kinds of commands.
    """

    depth: int
    think: float
    hot: int
    largest: int
    weights: dict[str, int]
    tuning: Tuning


@frozen
class World:
    """What all users of one seed share.

    :ivar operations: yields the numbers of operations.
    """

    network: Network
    random: Random
    history: History
    operations: Iterator[int]
    workload: Workload


class User:
    """One life of a writer.

    :param number: of this life, in the history.
    :ivar host: the process; :ivar volume: what was opened.
    :ivar commands: how many it has sent; :ivar outstanding: how many of them have not ended.
    :ivar fenced: another has taken the volume over, and :ivar gone: it has ended, in whatever way.
    """

    def __init__(self, number: int, host: Host, world: World) -> None:
        self.number = number
        self.host = host
        self.volume: Volume | None = None
        self.commands = 0
        self.outstanding = 0
        self.fenced = False
        self.gone = False
        self._world = world
        self._random = world.random
        self._history = world.history
        self._disk: Any = None
        self._awaited: Deferred[None] | None = None
        self._working: Deferred[None] | None = None
        self._budget = 0
        self._ticking = False
        self._resizing = False
        self._stream = 0

    # Its life

    def open(self) -> Deferred[None]:
        """Take the volume over.  :return: fails as the opening does, with Killed if this dies meanwhile."""
        self._history.record("open", life=self.number)
        return self._await(self._open())

    async def _open(self) -> None:
        store = StoreClient(self.host, self._world.network, self._random)
        random = self._random.randbytes
        writer = Writer(random(16), f"machine {self.number}", f"host{self.number}", self.number, "now")
        try:
            keeper, replay = await take_over(store, PREFIX, writer, random, self.host, forced=True)
            self.volume = Volume(store, keeper, replay, self.host, self._world.workload.tuning)
        except TCMUError as error:
            self._history.note("not opened", life=self.number, why=f"{type(error).__name__}: {error}")
            self.leave()
            raise
        self._disk = VolumeDisk(self.volume, lambda: None)
        self._history.note("opened", life=self.number)

    def close(self) -> Deferred[None]:
        """Leave in good order.

        :return: fails when that was impossible, and the volume has been let go of all the same; with Killed if this
            dies meanwhile.
        """
        self._stop()
        return self._await(self._close())

    async def _close(self) -> None:
        closed: Deferred[None] = Deferred()
        self._start("close", {}, lambda: as_deferred(self._let_go()), ended=lambda: closed.callback(None))
        await closed
        self.leave()

    async def _let_go(self) -> None:
        """Close the disk, which says nothing when another has the volume: then it promises nothing, either."""
        assert self.volume is not None
        await self._disk.close()
        if not self.volume._keeper.head.writer.closed:
            raise FencedError("another has it")

    def _await(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        awaited: Deferred[None] = Deferred()
        self._awaited = awaited

        def ended(result: Any) -> None:
            self._awaited = None
            awaited.callback(result)

        Deferred.fromCoroutine(work).addBoth(ended)
        return awaited

    def kill(self) -> None:
        """Die at once."""
        self.host.kill()
        self._history.record("crash", life=self.number)
        self._stop()
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            awaited.errback(Killed())

    def leave(self) -> None:
        """End without a word to the store, as a process does that has been deposed."""
        self._history.record("close", life=self.number)
        self._stop()
        if self.volume is not None:
            self.volume.abandon()
        self.host.kill()

    def _stop(self) -> None:
        self.gone = True
        self._end_work()

    def _end_work(self) -> None:
        self._budget = 0
        if self._working is not None:
            working, self._working = self._working, None
            working.callback(None)

    def sweep(self) -> None:
        """Delete what others have left behind, beside all else."""
        if self.volume is not None and not self.gone:
            Deferred.fromCoroutine(self.volume.sweep()).addErrback(lambda failure: failure.trap(ObjectStoreError))

    # Its commands

    @property
    def size(self) -> int:
        """Sectors of the disk."""
        return int(self._disk.size) // SECTOR

    def work(self, commands: int) -> Deferred[None]:
        """Send so many commands.  :return: when the last was sent, or when there is no point in going on."""
        self._end_work()
        working: Deferred[None] = Deferred()
        self._working = working
        if self.gone or self.fenced:
            self._end_work()
        else:
            self._budget = commands
            if not self._ticking:
                self._ticking = True
                self.host.callLater(0.0, self._tick)
        return working

    def _tick(self) -> None:
        self._ticking = False
        for _ in range(self._random.choice((1, 1, 2, 6))):
            if self._budget and self.outstanding < self._world.workload.depth:
                self._budget -= 1
                self._command()
        if self._budget:
            self._think()
        else:
            self._end_work()

    def _think(self) -> None:
        """Have the next commands sent in a while; if there are as many as may be, one of them has to end first."""
        workload = self._world.workload
        if self._budget and not self._ticking and self.outstanding < workload.depth:
            self._ticking = True
            self.host.callLater(self._random.expovariate(1 / workload.think), self._tick)

    def _command(self) -> None:
        random, workload = self._random, self._world.workload
        [kind] = random.choices(list(workload.weights), list(workload.weights.values()))
        if kind == "flush":
            self.flush()
        elif kind == "resize":

            def resized() -> None:
                self._resizing = False

            size = min(workload.largest, self.size + _BLOCK * random.randrange(1, 40))
            if size > self.size and not self._resizing:  # the kernel asks for one at a time
                self._resizing = True
                where = {"sector": 0, "count": size}
                self._start("resize", where, lambda: as_deferred(self._disk.resize(size * SECTOR)), ended=resized)
        elif kind == "read":
            self.read(*self._range(26))
        elif kind in ("write", "write, flush"):
            self._write(*self._range(26), then_flush=kind == "write, flush")
        else:
            sector, count = self._range(80)
            method = self._disk.discard if kind == "discard" else self._disk.write_zeroes
            where = {"sector": sector, "count": count}
            self._start(kind, where, lambda: method(sector * SECTOR, count * SECTOR))

    def _range(self, longest: int) -> tuple[int, int]:
        """Choose where: some sectors, or blocks, or a stretch of up to ``longest``; mostly where others go, or on."""
        random, size = self._random, self.size
        shape, place = random.random(), random.random()
        if shape < 0.3:
            count = random.randrange(1, 2 * _BLOCK)
        elif shape < 0.95:
            count = _BLOCK * random.choice((1, 1, 1, 2, 4))
        else:
            count = random.randrange(1, longest * _BLOCK)
        if place < 0.1:
            sector = self._stream
        else:
            sector = random.randrange(min(size, self._world.workload.hot) if place < 0.7 else size)
            if shape >= 0.3:
                sector -= sector % _BLOCK
        count = min(count, size - sector)
        self._stream = (sector + count) % size
        return sector, count

    def flush(self) -> None:
        """Send SYNCHRONIZE CACHE."""
        self._start("flush", {}, lambda: self._disk.flush())

    def read(self, sector: int, count: int) -> None:
        """Send READ."""

        def found(data: Any) -> dict[str, Any]:
            return {"data": runs(read_stamps(bytes(data), sector))}

        where = {"sector": sector, "count": count}
        self._start("read", where, lambda: self._disk.read(sector * SECTOR, count * SECTOR), found)

    def _write(self, sector: int, count: int, *, then_flush: bool) -> None:
        operation = next(self._world.operations)
        data = stamped(operation, sector, count)

        def written(_: Any) -> dict[str, Any]:
            data[:] = b"\xee" * len(data)  # the memory is the kernel's again
            return {}

        def ended() -> None:
            if then_flush and not self.gone:
                self.flush()

        where = {"sector": sector, "count": count}
        self._start(
            "write", where, lambda: self._disk.write(sector * SECTOR, memoryview(data)), written, ended, operation
        )

    def _start(
        self,
        kind: str,
        where: dict[str, int],
        send: Callable[[], Any],
        found: Callable[[Any], dict[str, Any]] = lambda _: {},
        ended: Callable[[], None] = lambda: None,
        operation: int = 0,
    ) -> None:
        """Send a command, and record what comes of it."""
        operation = operation or next(self._world.operations)
        self.commands += 1
        self.outstanding += 1
        self._history.record("submit", op=operation, life=self.number, kind=kind, **where)

        def succeeded(result: Any) -> None:
            self._history.record("complete", op=operation, **found(result))

        def failed(failure: Failure) -> None:
            error = failure.value
            at = {}
            if isinstance(error, FencedError):
                self.fenced = True
                self._end_work()
            elif isinstance(error, MediumError) and error.offset is not None:
                at["at"] = error.offset // SECTOR
            self._history.record("complete", op=operation, error=type(error).__name__, what=str(error), **at)

        def over(_: None) -> None:
            self.outstanding -= 1
            ended()
            self._think()

        try:
            waiting = as_deferred(send())
        except BackstoreError as error:
            waiting = fail(error)
        waiting.addCallbacks(succeeded, failed).addCallback(over).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        assert isinstance(failure.value, Exception)
        self._history.fail(failure.value)
