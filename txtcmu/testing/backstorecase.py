"""How a test speaks to a backstore: as the daemon does, and suspicious of everything.

:class:`BackstoreCase` holds no tests; :mod:`txtcmu.testing.contract` and tests of single backstores build on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import TestCase

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.task import deferLater

from txtcmu.results import as_deferred

__all__ = ["BackstoreCase", "needs"]

if TYPE_CHECKING:
    from unittest import TestCase as _Base  # trial's has no annotations
else:
    _Base = object


_SETTLING_READ = 1 << 20


@frozen
class _ConditionalTest:
    """A test that only some classes have; as it stands it is no function, and no loader takes it for a test."""

    function: Callable[..., object]
    interfaces: frozenset[Any]
    hooks: frozenset[str]


def needs(*interfaces: Any, reopen: bool = False, lose: bool = False) -> Callable[[Callable[..., object]], Any]:
    """Decorate a test of a :class:`BackstoreCase` that exists only for some backstores.

    :param interfaces: what the class must declare in ``companions``.
    :param reopen: whether it must override :meth:`~BackstoreCase.reopen`, and ``lose``: :meth:`~BackstoreCase.lose`.
    """
    hooks = frozenset(name for name, wanted in (("reopen", reopen), ("lose", lose)) if wanted)
    return lambda function: _ConditionalTest(function, frozenset(interfaces), hooks)


class BackstoreCase(_Base):
    """What tests of a backstore are made of; mix it into a trial ``TestCase``.

    A test that the backstore cannot take does not exist, so none is ever skipped: of those marked with :func:`needs`
    a ``TestCase`` gets what its ``companions``, :meth:`reopen` and :meth:`lose` call for.  A mixin that several share
    declares what they have in common; a class may declare more than the classes that it inherits from, and less than
    a mixin, but not less than a ``TestCase``, for what that has is inherited.

    :cvar companions: the interfaces beside ``IBackstore`` that the backstore provides, exactly.
    :cvar size: bytes of the disk that the tests ask for.
    :cvar block_size: smallest unit that the tests read and write.
    :cvar seed: of the random operations; a failure names it.
    :cvar rounds: how many random operations there are.
    """

    companions: ClassVar[frozenset[Any]] = frozenset()
    size = 4 << 20
    block_size = 512
    seed = 1
    rounds = 150

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, TestCase):
            return  # a mixin: who knows what will be declared below it
        for base in cls.__mro__:
            if issubclass(base, TestCase) and issubclass(base, BackstoreCase) and not base.companions <= cls.companions:
                raise TypeError(
                    f"{cls.__name__} declares less than {base.__name__}, whose tests it inherits;"
                    " share a class that is not a TestCase"
                )
        hooks = {name for name in ("reopen", "lose") if getattr(cls, name) is not getattr(BackstoreCase, name)}
        for name in dir(cls):
            test = inspect.getattr_static(cls, name)
            if isinstance(test, _ConditionalTest) and test.interfaces <= cls.companions and test.hooks <= hooks:
                setattr(cls, name, test.function)

    async def make_backstore(self, size: int) -> Any:
        """Return a new, open backstore of ``size`` bytes; every author overrides this."""
        raise NotImplementedError("make_backstore")

    async def reopen(self, backstore: Any) -> Any:
        """Close ``backstore`` and open the same storage anew; override it unless nothing survives a close.

        A class that does not has no tests of durability.
        """
        raise NotImplementedError("reopen")

    async def crash(self, backstore: Any) -> Any:
        """Lose what is not durable, as a power cut does, and open the storage anew.

        Override it where a test can do that.  By default it is :meth:`reopen`, which proves less.
        """
        return await self.reopen(backstore)

    async def lose(self, backstore: Any) -> None:
        """Lose what was acknowledged since the last good flush, from under ``backstore``, which stays open.

        So it goes when a server restarts, or an fsync fails.  Override it where a test can do that to the storage;
        where nothing acknowledged can get lost, the server or link going down and up is the least to do here.
        :meth:`reopen` must work afterwards.
        """
        raise NotImplementedError("lose")

    async def settle(self, backstore: Any) -> None:
        """Give work that was not really over the time to do its damage: reactor turns and other reads."""
        from twisted.internet import reactor

        length = min(self.part(4), _SETTLING_READ)
        for _ in range(3):
            await DeferredList([self.call(backstore.read, 0, length) for _ in range(12)])
            await self.call(backstore.flush)
            for _ in range(8):
                await deferLater(reactor, 0)

    def call(self, method: Callable[..., object], *args: object) -> Deferred[Any]:
        """Return a Deferred of what ``method`` returns, whichever of the three forms it takes, or raises."""
        try:
            return as_deferred(method(*args))
        except Exception:
            return fail()

    async def open_backstore(self) -> Any:
        """Return a new backstore, which is closed when the test ends."""
        backstore = await self.make_backstore(self.size)
        self._backstore = backstore
        self.addCleanup(self._close_last)
        return backstore

    async def again(self, how: Callable[[Any], Any], backstore: Any) -> Any:
        """Return what :meth:`reopen` or :meth:`crash` makes of ``backstore``."""
        self._backstore = None
        self._backstore = await how(backstore)
        return self._backstore

    def _close_last(self) -> Deferred[Any] | None:
        backstore, self._backstore = self._backstore, None
        return self.call(backstore.close) if backstore is not None else None

    def part(self, share: int) -> int:
        """Return a part of the size, in whole blocks."""
        return self.size // share // self.block_size * self.block_size

    def power_of_two(self, unit: Any) -> None:
        """Fail unless ``unit`` is one."""
        self.assertTrue(type(unit) is int and unit > 0 and not unit & (unit - 1), f"{unit!r} is no power of two")

    def pattern(self, length: int, seed: int = 0) -> bytes:
        """Return bytes that look random, the same for the same ``seed``."""
        return Random(f"{self.seed}/{seed}").randbytes(length)

    async def write(self, backstore: Any, offset: int, data: bytes) -> None:
        """Write from a window that is somebody else's as soon as the result fires."""
        window = bytearray(data)
        await self.call(backstore.write, offset, memoryview(window))
        window[:] = bytes(byte ^ 0xFF for byte in data[:1]) * len(window)

    async def read(self, backstore: Any, offset: int, length: int) -> bytes:
        """Read; what is missing from a short answer is zeroes."""
        data = bytes(memoryview(await self.call(backstore.read, offset, length)).cast("B"))
        self.assertLessEqual(len(data), length, "read returned more than it was asked for")
        return data.ljust(length, b"\0")

    async def readv(self, backstore: Any, offset: int, windows: list[memoryview]) -> bytes:
        """Read into ``windows``; what is behind the filled bytes is zeroes."""
        filled = await self.call(backstore.readv, offset, list(windows))
        whole = b"".join(windows)
        self.assertTrue(type(filled) is int and 0 <= filled <= len(whole), f"readv returned {filled!r}")
        return whole[:filled].ljust(len(whole), b"\0")

    async def expect(self, backstore: Any, offset: int, data: bytes, why: str) -> None:
        """Read at ``offset``; fail with ``why`` and the first wrong byte unless ``data`` is there."""
        found = await self.read(backstore, offset, len(data))
        if found != data:
            at = next(i for i, (one, other) in enumerate(zip(found, data, strict=True)) if one != other)
            self.fail(f"{why}: byte {offset + at} is {found[at]:#04x}, not {data[at]:#04x} (seed {self.seed})")

    def cut(self, length: int, random: Random, fill: bytes | None = None) -> list[memoryview]:
        """Return windows of odd lengths, ``length`` bytes together, with foreign bytes between them."""
        data, at, windows = fill if fill is not None else b"\xa5" * length, 0, []
        while at < length:
            step = min(length - at, random.choice((1, 3, 511, 512, 513, 4095, 4096, 10000)))
            memory = bytearray(b"\x5a" + data[at : at + step] + b"\x5a")
            windows.append(memoryview(memory)[1:-1])
            at += step
        return windows

    def _neighbours_kept(self, windows: list[memoryview]) -> None:
        for window in windows:
            memory = window.obj
            assert isinstance(memory, bytearray)
            self.assertEqual((memory[0], memory[-1]), (0x5A, 0x5A), "a byte outside of the window was changed")
