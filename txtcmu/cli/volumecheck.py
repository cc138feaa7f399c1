"""``txtcmu volume stat``, ``fsck`` and ``dump``: what is in a volume, and whether it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from txtcmu.cli.environment import environment, tell
from txtcmu.cli.tables import human
from txtcmu.cli.volumestores import ask, bars, configured, reached
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError

__all__ = ["dump", "fsck", "stat"]

Tell = Callable[[str, int, int], None]


@click.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def stat(context: click.Context, dev_config: str, as_json: bool, config_file: Path | None) -> None:
    """Say what a volume is, how much there is of it, and who uses it."""
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    with bars() as progress:
        head, figures = world.run(partial(_stat, handler, config, progress))
    click.echo(json.dumps(_facts(head, figures), indent=2) if as_json else "\n".join(_words(head, figures)))


async def _stat(handler: Any, config: DeviceConfig, progress: Tell, reactor: Any) -> Any:
    from txtcmu.volume.describe import measure
    from txtcmu.volume.headkeeper import read_head

    async with reached(handler, config, reactor) as (store, prefix):
        found = await read_head(store, prefix)
        if found is None:
            raise ConfigError(f"there is no volume at {config.handler}/{config.path}")
        return found[0], await measure(store, prefix, found[0], reactor, progress)


def _facts(head: Any, figures: Any) -> dict[str, Any]:
    writer = head.writer
    return {
        "uuid": str(head.uuid),
        "size": head.size,
        "batch_blocks": head.geometry.batch_blocks,
        "leaf_blocks": head.geometry.leaf_blocks,
        "generation": head.generation,
        "epoch": head.epoch.number,
        "writer": {
            "machine": writer.machine,
            "host": writer.host,
            "process": writer.process,
            "since": writer.since,
            "closed": writer.closed,
        },
        "checkpoint": head.checkpoint and head.checkpoint.seq,
        "objects": figures.objects,
        "bytes": figures.bytes,
        "live_blocks": figures.blocks,
        "replayable": figures.replayable,
    }


def _words(head: Any, figures: Any) -> list[str]:
    from txtcmu.volume.slots import BLOCK

    live = figures.blocks * BLOCK
    share = f", {100 * live // figures.bytes} % of the log" if figures.bytes else ""
    return [
        f"volume      {head.uuid}",
        f"disk        {human(head.size)} ({head.size} bytes)",
        f"data        {figures.blocks} blocks, {human(live)}{share}",
        f"log         {figures.objects} objects, {human(figures.bytes)}; of up to {head.geometry.batch_blocks} blocks",
        f"checkpoint  {f'after object {head.checkpoint.seq}' if head.checkpoint else 'none'}",
        f"to replay   {figures.replayable} objects",
        f"epoch       {head.epoch.number}, head {head.generation}",
        f"writer      {'closed by' if head.writer.closed else 'in use by'} {head.writer}",
    ]


@click.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--data", is_flag=True, help="Read every block.")
@click.option(
    "--drop-from",
    type=click.IntRange(min=1),
    metavar="SEQ",
    help="Give up this object of the log, and all that was written after it, first.",
)
@click.option("--take-over", is_flag=True, help="With --drop-from: even if the volume is in use.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def fsck(
    context: click.Context,
    dev_config: str,
    data: bool,
    drop_from: int | None,
    take_over: bool,
    yes: bool,
    config_file: Path | None,
) -> int:
    """Check a volume; nothing but its store is needed, and nothing is changed without --drop-from.

    The exit status is 1 if something is wrong.  A volume that is being written cannot be checked.
    """
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    report = world.run(partial(_fsck, handler, config, data, drop_from, take_over, yes))
    for problem in report.problems:
        click.echo(problem)
    if report.orphans:
        click.echo(f"{len(report.orphans)} objects that nothing refers to were left behind; they do no harm")
    if not report.problems:
        click.echo(f"clean: {report.blocks} blocks in {report.objects} objects, {human(report.bytes)}")
    return int(bool(report.problems))


async def _fsck(
    handler: Any, config: DeviceConfig, data: bool, drop_from: int | None, take_over: bool, yes: bool, reactor: Any
) -> Any:
    from txtcmu.volume.fsck import check_volume

    async with reached(handler, config, reactor, changes=drop_from is not None) as (store, prefix):
        if drop_from is not None:
            await _drop_from(store, prefix, drop_from, take_over, yes, reactor)
        with bars() as progress:
            report = await check_volume(store, prefix, reactor, data=data, progress=progress)
        if not report.head.writer.closed:
            tell(f"the volume is in use by {report.head.writer}: what it writes meanwhile is not looked at")
        return report


async def _drop_from(store: Any, prefix: str, seq: int, take_over: bool, yes: bool, reactor: Any) -> None:
    from txtcmu.backstores.volumes import new_writer
    from txtcmu.volume import salvage

    def agree(loss: salvage.Loss) -> None:
        lost = f"{loss.objects} objects of the log with {human(loss.bytes)}"
        ask(f"This gives up object {seq} and all that was written after it: {lost}.  Go on?", yes)

    loss = await salvage.drop_from(store, prefix, seq, new_writer(), os.urandom, reactor, forced=take_over, agree=agree)
    tell(f"{loss.objects} objects of the log were given up")


@click.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def dump(context: click.Context, dev_config: str, config_file: Path | None) -> None:
    """Print all that can be read of a volume, damaged or not: its head, checkpoints, and each object of its log."""
    world = environment(context)
    handler, config = configured(world, dev_config, config_file)
    world.run(partial(_dump, handler, config))


async def _dump(handler: Any, config: DeviceConfig, reactor: Any) -> None:
    from txtcmu.volume import describe

    async with reached(handler, config, reactor) as (store, prefix):
        with bars() as progress:
            async for line in describe.dump(store, prefix, progress):
                click.echo(line)
