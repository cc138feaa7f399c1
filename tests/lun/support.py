"""What the tests of txtcmu.lun share: a backstore that does what a test says, and whole devices around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtcmu.interfaces import IBackstore
from txtcmu.testing.rig import Rig

GOOD, CHECK_CONDITION, BUSY, TASK_ABORTED = 0x00, 0x02, 0x08, 0x40
BECOMING_READY = (2, 4, 1)
MANUAL_INTERVENTION = (2, 4, 3)
HARDWARE_ERROR = (4, 0x44, 0)
INVALID_OPCODE = (5, 0x20, 0)
INVALID_FIELD = (5, 0x24, 0)


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


class RigTestCase(SynchronousTestCase):
    """Makes rigs that are closed at the end, and must then have broken no rule."""

    def rig(self, backstore: Any, **options: Any) -> Rig:
        rig = Rig(backstore, **options)
        self.addCleanup(rig.close)
        return rig
