"""What the tests of txtcmu.lun share: a backstore that does what a test says, and whole devices around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtcmu.interfaces import IBackstore, IDiscard, IWriteZeroes
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig

GOOD, CHECK_CONDITION, BUSY, TASK_ABORTED = 0x00, 0x02, 0x08, 0x40
BECOMING_READY = (2, 4, 1)
MANUAL_INTERVENTION = (2, 4, 3)
HARDWARE_ERROR = (4, 0x44, 0)
INVALID_OPCODE = (5, 0x20, 0)
INVALID_FIELD = (5, 0x24, 0)
MISCOMPARE = (0xE, 0x1D, 0)
WRITE_ERROR = (3, 0x0C, 0)


@implementer(IBackstore)
class ScriptedBackstore:
    """A disk of zeroes, done at once unless ``script`` says otherwise.

    :ivar script: method name to what is called in its place, with its arguments.
    :ivar calls: what was called: the name, and offset and length where there are any.
    """

    read_only = False
    physical_block_size = 512

    def __init__(self, size: int = 1 << 20, **script: Callable[..., Any]) -> None:
        self.size = size
        self.script = script
        self.calls: list[tuple[Any, ...]] = []

    @property
    def names(self) -> list[str]:
        """The names of the methods called."""
        return [call[0] for call in self.calls]

    def read(self, offset: int, length: int) -> Any:
        self.calls.append(("read", offset, length))
        return self.script["read"](offset, length) if "read" in self.script else bytes(length)

    def write(self, offset: int, data: memoryview) -> Any:
        self.calls.append(("write", offset, len(data)))
        return self.script["write"](offset, data) if "write" in self.script else None

    def flush(self) -> Any:
        self.calls.append(("flush",))
        return self.script["flush"]() if "flush" in self.script else None

    def close(self) -> Any:
        self.calls.append(("close",))
        return self.script["close"]() if "close" in self.script else None


class Disk(ScriptedBackstore):
    """Keeps what is written, and knows what of it is durable.

    A script's Deferred holds an operation: it is carried out when that fires, and not if that fails.

    :ivar content: what a read sees, and ``durable``: what a power cut leaves.
    """

    def __init__(self, size: int = 1 << 20, **script: Callable[..., Any]) -> None:
        super().__init__(size, **script)
        self.content = bytearray(size)
        self.durable = bytearray(size)

    def perform(self, call: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        """Note ``call``, and do what it is for: now, or when the script says."""
        self.calls.append(call)
        held = self.script[call[0]](*call[1:]) if call[0] in self.script else None
        return held.addCallback(lambda _: act()) if isinstance(held, Deferred) else act()

    def put(self, offset: int, data: bytes) -> None:
        """Change the content."""
        self.content[offset : offset + len(data)] = data

    def read(self, offset: int, length: int) -> Any:
        return self.perform(("read", offset, length), lambda: bytes(self.content[offset : offset + length]))

    def write(self, offset: int, data: memoryview) -> Any:
        return self.perform(("write", offset, len(data)), lambda: self.put(offset, bytes(data)))

    def flush(self) -> Any:
        def flush() -> None:
            self.durable[:] = self.content

        return self.perform(("flush",), flush)


@implementer(IDiscard)
class ThinDisk(Disk):
    """A disk that gives space back, which then reads as zeroes."""

    discard_granularity = 4096
    discard_zeroes = True

    def discard(self, offset: int, length: int) -> Any:
        return self.perform(("discard", offset, length), lambda: self.put(offset, bytes(length)))


@implementer(IWriteZeroes)
class ZeroingDisk(ThinDisk):
    """A thin disk that can also write zeroes."""

    def write_zeroes(self, offset: int, length: int) -> Any:
        return self.perform(("write_zeroes", offset, length), lambda: self.put(offset, bytes(length)))


class Held(Deferred[Any]):
    """A result that does not let go when it is cancelled."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Later:
    """Makes results that fire when the test says so; put an instance where a method is expected.

    :param kind: what to make: a Deferred lets go when it is cancelled, a :class:`Held` does not.
    :ivar made: the Deferreds, in order.
    """

    def __init__(self, kind: type[Deferred[Any]] = Deferred) -> None:
        self.kind = kind
        self.made: list[Deferred[Any]] = []

    def __call__(self, *_: Any) -> Deferred[Any]:
        self.made.append(self.kind())
        return self.made[-1]


def information(command: FakeCommand) -> int | None:
    """Return the INFORMATION field of fixed format sense data, ``None`` when it is not valid."""
    return int.from_bytes(command.sense[3:7], "big") if command.sense[0] & 0x80 else None


class RigTestCase(SynchronousTestCase):
    """Makes rigs that are closed at the end, and must then have broken no rule."""

    def rig(self, backstore: Any, **options: Any) -> Rig:
        rig = Rig(backstore, **options)
        self.addCleanup(rig.close)
        return rig
