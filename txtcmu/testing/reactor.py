"""A reactor for tests: time stands still, threads run at once, and events happen when the test says so."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["FakeReactor"]


class _Pool:
    """A thread pool whose work is done in the call; or, while ``held``, when it is let go."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] | None = None

    def start(self) -> None:
        """Do nothing: there are no threads."""

    def stop(self) -> None:
        """Do nothing: there are no threads."""

    def callInThreadWithCallback(
        self, finished: Callable[[bool, Any], None], function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        def work() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception:
                finished(False, Failure())  # type: ignore[no-untyped-call]
            else:
                finished(True, result)

        if self.held is None:
            work()
        else:
            self.held.append(work)


@implementer(IReactorFDSet)
class FakeReactor(Clock):
    """A :class:`~twisted.internet.task.Clock` that also reads descriptors and has threads.

    :ivar readers: who is read at the moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self._pool = _Pool()

    def addReader(self, reader: Any) -> None:
        """See IReactorFDSet."""
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        """See IReactorFDSet."""
        if reader in self.readers:
            self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None:
        """Refuse: nothing in a device writes through the reactor."""
        raise NotImplementedError

    def removeWriter(self, writer: Any) -> None:
        """Refuse, as :meth:`addWriter`."""
        raise NotImplementedError

    def removeAll(self) -> list[Any]:
        """See IReactorFDSet."""
        readers, self.readers = self.readers, []
        return readers

    def getReaders(self) -> list[Any]:
        """See IReactorFDSet."""
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        """See IReactorFDSet."""
        return []

    def getThreadPool(self) -> _Pool:
        """Return the pool; see :meth:`hold_threads`."""
        return self._pool

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call at once: every thread here is the reactor's."""
        function(*args, **kwargs)

    def hold_threads(self) -> None:
        """From now on work for threads waits for :meth:`release_threads`."""
        self._pool.held = []

    def release_threads(self) -> None:
        """Do what waits, and hold no more."""
        held, self._pool.held = self._pool.held or [], None
        for work in held:
            work()

    def turn(self, turns: int = 1) -> None:
        """Let the reactor turn: readable descriptors are read, and what is due now is called.

        As in a real one, what becomes due meanwhile has to wait for the next turn.
        """
        for _ in range(turns):
            due = [call for call in self.calls if call.getTime() <= self.seconds()]
            readable = {reader.fileno(): reader for reader in self.readers if reader.fileno() >= 0}
            for descriptor in select.select(list(readable), [], [], 0)[0]:
                readable[descriptor].doRead()
            for call in due:
                if call.active():
                    self.calls.remove(call)
                    call.called = 1
                    call.func(*call.args, **call.kw)

    def settle(self, limit: int = 1000) -> None:
        """Turn until nothing is readable and nothing is due now."""
        for _ in range(limit):
            readable = [reader.fileno() for reader in self.readers if reader.fileno() >= 0]
            due = [call for call in self.getDelayedCalls() if call.getTime() <= self.seconds()]
            if not due and not select.select(readable, [], [], 0)[0]:
                return
            self.turn()
        raise AssertionError(f"the reactor does not come to rest in {limit} turns")
