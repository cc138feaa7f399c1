"""``txtcmu volume``: volumes in their stores, without a kernel and without a daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
from attrs import evolve
from twisted.logger import Logger

from txtcmu.cli.create import Size
from txtcmu.cli.environment import environment, tell
from txtcmu.cli.tables import human, print_table
from txtcmu.cli.volumecheck import dump, fsck, stat
from txtcmu.cli.volumestores import ask, bars, configured, reached
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import BackstoreError, ConfigError
from txtcmu.results import as_deferred

__all__ = ["volume"]


@click.group(no_args_is_help=False)
def volume() -> None:
    """Make, list, check and remove volumes, the disks of handler dir, and of handler s3."""


volume.add_command(stat)
volume.add_command(fsck)
volume.add_command(dump)


@volume.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--size", type=Size(), required=True, help="Such as 10G.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def create(context: click.Context, dev_config: str, size: int, config_file: Path | None) -> None:
    """Make an empty volume; what is there already is never touched."""
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    if config.options.get("layout", "log") != "log":
        raise ConfigError(f"layout={config.options['layout']} makes no volume; leave it out")
    world.run(partial(_create, handler, config, size))


async def _create(handler: Any, config: DeviceConfig, size: int, reactor: Any) -> None:
    parameters = DeviceParameters(config, size, 512, reactor, Logger(namespace="txtcmu.cli"))
    try:
        await as_deferred(handler.create(parameters))
    except BackstoreError as error:
        raise ConfigError(f"{config.handler}/{config.path}: {error}") from error


@volume.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def ls(context: click.Context, dev_config: str, as_json: bool, config_file: Path | None) -> None:
    """List the volumes at a path and below it."""
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    with bars() as progress:
        rows = world.run(partial(_ls, handler, config, progress))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        print_table(
            ("VOLUME", "SIZE", "STATE"),
            ((row["volume"], human(row["size"]) if row["size"] else "-", row["state"]) for row in rows),
            numbers=("SIZE",),
        )


async def _ls(handler: Any, config: DeviceConfig, progress: Callable[[str, int, int], None], reactor: Any) -> Any:
    from txtcmu.volume.describe import find_volumes

    rows = []
    for path in await as_deferred(handler.places(config, reactor)):
        async with reached(handler, evolve(config, path=path), reactor) as (store, prefix):
            for found in await find_volumes(store, prefix, progress):
                name = f"{config.handler}/{path.rstrip('/')}/{found.prefix.removeprefix(prefix)}".rstrip("/")
                head = found.head
                if head is None:
                    state = found.problem
                else:
                    state = "closed" if head.writer.closed else f"in use by {head.writer}"
                rows.append(
                    {
                        "volume": name,
                        "size": head and head.size,
                        "uuid": head and str(head.uuid),
                        "closed": head and head.writer.closed,
                        "state": state,
                    }
                )
    return sorted(rows, key=itemgetter("volume"))


@volume.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--take-over", is_flag=True, help="Even if it is in use; its writer can write no more then.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def rm(context: click.Context, dev_config: str, take_over: bool, yes: bool, config_file: Path | None) -> None:
    """Remove a volume with all its data, and what volumes that were removed at this path have left.

    If it was interrupted, run it again.
    """
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    world.run(partial(_rm, handler, config, take_over, yes))


async def _rm(handler: Any, config: DeviceConfig, take_over: bool, yes: bool, reactor: Any) -> None:
    from txtcmu.volume.names import head_key
    from txtcmu.volume.salvage import refuse_used, remove_head, remove_trees
    from txtcmu.volume.surveys import trees_at

    where = f"{config.handler}/{config.path}"
    async with reached(handler, config, reactor, changes=True) as (store, prefix):
        there = await store.head(head_key(prefix)) is not None
        if there:
            await refuse_used(store, prefix, forced=take_over)
            ask(f"Remove the volume at {where} with all its data?", yes)
            await remove_head(store, prefix, os.urandom, forced=take_over)
        with bars() as progress:
            trees = await trees_at(store, prefix, progress)
        if not there:
            if not trees:
                raise ConfigError(f"there is no volume at {where}")
            names = ", ".join(str(tree.uuid) for tree in trees)
            ask(f"There is no volume at {where}, but what is left of {names}.  Remove that?", yes)
        with bars() as progress:
            removed = await remove_trees(store, prefix, trees, progress)
        tell(f"{removed} objects removed")
