"""``txtcmu ls``: what user backstores there are, whoever made them."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from txtcmu.cli.environment import Environment, environment
from txtcmu.errors import KernelError
from txtcmu.kernel import fabric
from txtcmu.kernel.configfs import Backstore, backstores
from txtcmu.kernel.sysfs import UIODevice, discover

__all__ = ["ls"]

_PIPE_WIDTH = 1000  # a table that nobody sees on a terminal is not cut


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def ls(context: click.Context, as_json: bool) -> None:
    """List the disks."""
    world = environment(context)
    world.configfs.check()
    devices = {(device.hba, device.name): device for device in discover(world.sysfs, world.dev)}
    rows = []
    for backstore in backstores(world.configfs):
        try:
            rows.append(_row(world, backstore, devices.get((backstore.hba, backstore.name))))
        except KernelError:
            if backstore.exists:  # else it was removed while we looked
                raise
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print(rows)


def _row(world: Environment, backstore: Backstore, device: UIODevice | None) -> dict[str, Any]:
    luns = fabric.luns(backstore)
    enabled = backstore.enabled
    if not enabled:
        state = "made" if device is None else "waiting for a daemon"
    elif backstore.blocked:
        state = "blocked"
    else:
        state = "exported" if luns else "enabled"
    return {
        "name": backstore.name,
        "dev_config": backstore.dev_config.rstrip("\n"),
        "size": backstore.size,
        "luns": [
            {
                "fabric": lun.fabric,
                "target": lun.target,
                "lun": lun.number,
                "disk": lun.disk(world.sysfs, world.dev),
            }
            for lun in luns
        ],
        "uio": None if device is None else device.node,
        "state": state,
    }


def _human(size: int) -> str:
    """Return a size as ``--size`` takes it, rounded down to three digits or so."""
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >> shift:
            return f"{size / (1 << shift):.4g}{unit}"
    return str(size)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "DEV_CONFIG", "SIZE", "LUNS", "STATE"):
        table.add_column(title, justify="right" if title == "SIZE" else "left", overflow="fold")
    for row in rows:
        luns = " ".join(lun["disk"] or f"{lun['target']}/{lun['lun']}" for lun in row["luns"]) or "-"
        # Whatever is in a name, it is no markup.
        table.add_row(
            *(_plain(cell) for cell in (row["name"], row["dev_config"], _human(row["size"]), luns)), row["state"]
        )
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text.encode(errors="surrogateescape").decode(errors="replace"))
