"""What the verbs of ``txtcmu volume`` share: the way to a store, progress, and questions."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click

from txtcmu.cli.environment import Environment
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError, ObjectStoreError, TCMUError
from txtcmu.interfaces import IVolumeHandler
from txtcmu.results import as_deferred

__all__ = ["ask", "bars", "configured", "reached"]


def configured(world: Environment, dev_config: str, config_file: Path | None) -> tuple[Any, DeviceConfig]:
    """Return the handler of a dev_config, which must be one of volumes, and the configuration."""
    config = world.load(config_file).device_config(dev_config)
    handler = world.find(config.handler)
    if not IVolumeHandler.providedBy(handler):
        names = ", ".join(each.name for each in world.factories() if IVolumeHandler.providedBy(each)) or "none"
        raise ConfigError(f"disks of handler {config.handler} are no volumes; those of these are: {names}")
    config.refuse_unknown(handler.options)
    return handler, config


class Unanswered(TCMUError):  # noqa: N818
    """The store cannot be read; this is not known to be anything about the volume."""


class _Answering:
    """A store as a person wants it: what cannot be read, after all its patience, ends the command with one line.

    The engine would ask on for ever, as a disk has to.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, key: str, start: int = 0, length: int | None = None, *, checked: bool = True) -> Any:
        from txtcmu.objectstore.objects import ObjectDamaged

        try:
            return await self._store.get(key, start, length, checked=checked)
        except ObjectDamaged:
            raise
        except ObjectStoreError as error:
            raise Unanswered(str(error)) from error


@asynccontextmanager
async def reached(
    handler: Any, config: DeviceConfig, reactor: Any, *, changes: bool = False
) -> AsyncIterator[tuple[Any, str]]:
    """Connect to the store of a volume, for as long as the block runs.

    :param changes: what is done there relies on conditions, so see first that the store honours them.
    """
    from txtcmu.objectstore.probe import probe

    store, prefix = await as_deferred(handler.connect(config, reactor))
    try:
        if changes:
            await probe(store, prefix)
        yield _Answering(store), prefix
    finally:
        await store.close()


@contextmanager
def bars(console: Any = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on the terminal, if there is one: yield what is to be told of it.

    :param console: a :class:`rich.console.Console` instead of that on stderr.
    """
    if console is None and not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.update(tasks[what], completed=done, total=total or None)

        yield show


def ask(question: str, yes: bool) -> None:
    """Let the person agree, unless ``yes`` says that he does.

    :raise ConfigError: he does not, or there is nobody.
    """
    if yes:
        return
    # The reactor's way with Ctrl-C would have to wait for the answer.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        agreed = False
    finally:
        signal.signal(signal.SIGINT, before)
    if not agreed:
        raise ConfigError("nothing was changed; --yes agrees beforehand")
