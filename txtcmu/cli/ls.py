"""``txtcmu ls``: what user backstores there are, whoever made them."""

from __future__ import annotations

import json
from typing import Any

import click

from txtcmu.cli.environment import Environment, environment
from txtcmu.cli.tables import human, print_table
from txtcmu.errors import KernelError
from txtcmu.kernel import fabric
from txtcmu.kernel.configfs import Backstore, backstores
from txtcmu.kernel.sysfs import UIODevice, discover

__all__ = ["ls"]


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


def _print(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("NAME", "DEV_CONFIG", "SIZE", "LUNS", "STATE"),
        (
            (
                row["name"],
                row["dev_config"],
                human(row["size"]),
                " ".join(lun["disk"] or f"{lun['target']}/{lun['lun']}" for lun in row["luns"]) or "-",
                row["state"],
            )
            for row in rows
        ),
        numbers=("SIZE",),
    )
