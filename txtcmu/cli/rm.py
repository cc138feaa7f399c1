"""``txtcmu rm``: LUNs and backstore go, the data stays."""

from __future__ import annotations

from pathlib import Path

import click

from txtcmu.cli.environment import Environment, environment, explained
from txtcmu.errors import KernelError
from txtcmu.kernel import fabric
from txtcmu.kernel.configfs import Backstore, backstores, find

__all__ = ["rm"]


@click.command()
@click.argument("device", metavar="NAME|/dev/sdX|HANDLER/PATH")
@click.option("--force", is_flag=True, help="Even while it is mounted or used otherwise.")
@click.pass_context
def rm(context: click.Context, device: str, force: bool) -> None:
    """Remove a disk: its LUNs, then its backstore.  The data stays where it is."""
    world = environment(context)
    world.configfs.check()
    backstore = _find(world, device)
    luns = fabric.luns(backstore)
    if not force:
        for lun in luns:
            disk = lun.disk(world.sysfs, world.dev)
            users = [] if disk is None else _users(world, Path(disk).name)
            if users:
                raise KernelError(f"{disk} is in use by {', '.join(users)}: free it first, or use --force")
    with explained(f"waiting for the daemon that serves {backstore.name}: is it running?"):
        for lun in luns:
            fabric.unexport(lun, world.configfs)
        backstore.remove()


def _find(world: Environment, device: str) -> Backstore:
    found = None
    if device.startswith(f"{world.dev}/"):
        behind = fabric.lun_of_disk(device, backstores(world.configfs), world.sysfs, world.dev)
        found = None if behind is None else behind[0]
    else:
        found = find(device, world.configfs)
    if found is None:
        raise KernelError(f"there is no user backstore behind {device}: see `txtcmu ls`")
    return found


def _users(world: Environment, disk: str) -> list[str]:
    """Return who uses a disk or one of its partitions: mount points, swap, and devices stacked upon it."""
    whole = world.sysfs / "class" / "block" / disk
    blocks = [whole, *(path.parent for path in whole.glob("*/partition"))]
    names = {f"{world.dev}/{block.name}" for block in blocks}
    numbers = {number.read_text().strip() for block in blocks if (number := block / "dev").exists()}
    users = [holder.name for block in blocks for holder in sorted(block.glob("holders/*"))]
    for line in (world.proc / "self" / "mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in numbers:
            users.append(fields[4])
    for line in (world.proc / "swaps").read_text().splitlines()[1:]:
        if line.split()[0] in names:
            users.append("swap")
    return users
