"""The contract's tests on a handler's storage, inside a running reactor and without a test runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from traceback import format_exception
from typing import Any, ClassVar
from unittest import TestCase, TestLoader

from attrs import frozen
from twisted.internet.defer import Deferred

from txtcmu.results import as_deferred, within
from txtcmu.testing.contract import COMPANIONS, BackstoreContract
from txtcmu.testing.storage import Storage

__all__ = ["Outcome", "run_contract"]

#: Seconds for one test.  It is there for what hangs; slow storage takes a smaller disk.
PATIENCE = 300.0


@frozen
class Outcome:
    """How something that was to be proved came out.

    :ivar name: of the test, and ``sentence``: what it proves.
    :ivar problem: one line, or ``None``: it holds.
    :ivar details: a traceback where the problem is none that the test was looking for, else empty.
    """

    name: str
    sentence: str
    problem: str | None = None
    details: str = ""


class _Tried(BackstoreContract):
    storage: ClassVar[Storage]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cleanups: list[tuple[Any, ...]] = []

    def addCleanup(self, function: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - overrides
        """Keep it for :meth:`conclude`: a cleanup may be waited for."""
        self.cleanups.append((function, args, kwargs))

    async def conclude(self) -> None:
        """Do all cleanups, the last one first."""
        while self.cleanups:
            function, args, kwargs = self.cleanups.pop()
            await as_deferred(function(*args, **kwargs))

    async def make_backstore(self, size: int) -> Any:
        return await self.storage.fresh()


class _Surviving(_Tried):
    async def reopen(self, backstore: Any) -> Any:
        size = backstore.size
        await as_deferred(backstore.close())
        return await self.storage.open(size)


async def run_contract(reactor: Any, storage: Storage, survives: bool) -> AsyncIterator[Outcome]:
    """Run every test that there is for what ``storage`` holds; a test that hangs is the last one.

    :param survives: whether its content survives a close: else there are no tests of durability.
    """
    backstore = await storage.open()
    companions = frozenset(companion for companion in COMPANIONS if companion.providedBy(backstore))
    await as_deferred(backstore.close())
    attributes = {
        "storage": storage,
        "companions": companions,
        "size": storage.size,
        "block_size": storage.block_size,
    }
    cases = type("Tried", (_Surviving if survives else _Tried, TestCase), attributes)
    for name in TestLoader().getTestCaseNames(cases):
        test = Deferred.fromCoroutine(_run(cases(name), name))
        if not await within(reactor, PATIENCE, test):
            yield Outcome(
                name, _sentence(cases, name), f"did not end in {PATIENCE:g} s; the tests behind it were left out"
            )
            return
        yield await test


def _sentence(cases: type, name: str) -> str:
    return (getattr(cases, name).__doc__ or "").partition("\n")[0]


async def _run(case: Any, name: str) -> Outcome:
    problem, details = None, ""
    for step in (getattr(case, name), case.conclude):
        try:
            await step()
        except AssertionError as error:
            problem = problem or " ".join(str(error).split())
        except Exception as error:
            problem = problem or " ".join(f"{type(error).__name__}: {error}".split())
            details = details or "".join(format_exception(error))
    return Outcome(name, _sentence(type(case), name), problem, details)
