"""What the verbs use of the world around them; tests hand in another one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import Factory, frozen

from txtcmu import config, registry
from txtcmu.cli import processes
from txtcmu.kernel.configfs import Backstore, ConfigFS
from txtcmu.kernel.enabling import enable
from txtcmu.kernel.fence import memory_fence
from txtcmu.kernel.sysfs import DEV, SYSFS

__all__ = ["PATIENCE", "Environment", "environment", "explained", "tell"]

PATIENCE = 5.0


def _run(function: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``function(reactor)`` in the reactor, once in a process, and return its result."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react
    from twisted.python.failure import Failure

    results: list[Any] = []
    try:
        react(lambda reactor: Deferred.fromCoroutine(function(reactor)).addBoth(results.append))
    except SystemExit:
        pass  # how react ends, always
    if not results:
        raise KeyboardInterrupt
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


@frozen
class Environment:
    """The kernel's file systems, the handlers, their configuration, a reactor, and what tells of kernel and machine."""

    configfs: ConfigFS = Factory(ConfigFS)
    sysfs: Path = SYSFS
    dev: Path = DEV
    proc: Path = Path("/proc")
    modules: Path = Path("/lib/modules")
    factories: Callable[[], list[Any]] = registry.all_factories
    find: Callable[[str], Any] = registry.find
    load: Callable[[Path | None], Any] = config.load
    run: Callable[[Callable[[Any], Coroutine[Any, Any, Any]]], Any] = _run
    enable: Callable[[Backstore, Callable[[], object]], None] = enable
    group: Callable[[], int | None] = processes.config_group
    fence: Callable[[], object] = memory_fence


def environment(context: click.Context) -> Environment:
    """Return what the command was given, or the real world."""
    given = context.find_object(Environment)
    return Environment() if given is None else given


def tell(message: str) -> None:
    """Say something to the person, who may have redirected the result."""
    click.echo(f"txtcmu: {message}", err=True)


@contextmanager
def explained(message: str, patience: float = PATIENCE) -> Iterator[None]:
    """Tell ``message`` if what is done inside takes longer than ``patience`` seconds."""
    timer = threading.Timer(patience, tell, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
