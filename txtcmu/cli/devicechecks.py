"""What ``txtcmu doctor`` asks of each user backstore: is it served, can it be reached, can it hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from txtcmu.cli.environment import Environment
from txtcmu.cli.findings import Finding, capabilities, failure, good, unseen, warning
from txtcmu.cli.processes import holders
from txtcmu.kernel.configfs import Backstore, backstores
from txtcmu.kernel.sysfs import UIODevice, discover

__all__ = ["check_devices"]

Check = Callable[[Environment, Backstore, UIODevice | None], Iterator[Finding]]


def check_devices(world: Environment) -> Iterator[Finding]:
    """Look at every device."""
    if not world.configfs.target.is_dir():
        return  # said already
    devices = {(device.hba, device.name): device for device in discover(world.sysfs, world.dev)}
    for backstore in backstores(world.configfs):
        for check in (pending, node, served, times, blocked):
            yield from check(world, backstore, devices.get((backstore.hba, backstore.name)))


def _start(device: UIODevice) -> str:
    handler = device.dev_config.partition("/")[0] or "NAME"
    return f"start `twist tcmu --handler {handler}`"


def pending(world: Environment, backstore: Backstore, device: UIODevice | None) -> Iterator[Finding]:
    """Look for somebody who waits in ``enable``: the device is there, and not enabled."""
    if device is not None and not backstore.enabled:
        yield failure(backstore.name, "whoever made it waits for a daemon's answer, uninterruptibly", _start(device))


def node(world: Environment, backstore: Backstore, device: UIODevice | None) -> Iterator[Finding]:
    """Look for ``/dev/uioN``."""
    if device is not None and not device.ready:
        yield failure(
            backstore.name,
            f"{device.node} is not there",
            f"mount devtmpfs on {world.dev}, run udev, or give the container its devices",
        )


def served(world: Environment, backstore: Backstore, device: UIODevice | None) -> Iterator[Finding]:
    """Look for the daemon that has the device open."""
    if device is None or not backstore.enabled:
        return
    daemons = holders(device.node, world.proc)
    if daemons:
        yield good(backstore.name, f"{device.dev_config}: served by {', '.join(map(str, daemons))}")
    elif not capabilities(world):
        yield unseen(backstore.name, f"{device.dev_config}: whether a daemon serves it cannot be seen")
    else:
        yield failure(backstore.name, f"{device.dev_config}: no daemon serves it", _start(device))


def times(world: Environment, backstore: Backstore, device: UIODevice | None) -> Iterator[Finding]:
    """Look for time-outs that let commands hang for ever, or fail at once."""
    attributes = backstore.path / "attrib"
    for name, consequence, mend in (
        ("cmd_time_out", "commands wait for ever for a daemon that is gone", "120, while no LUN exports it"),
        ("qfull_time_out", "commands fail as soon as the ring is full", "-1"),
    ):
        if (attributes / name).exists() and backstore.attribute(name).strip() == "0":
            yield warning(backstore.name, f"{name} is 0: {consequence}", f"set {attributes / name} to {mend}")


def blocked(world: Environment, backstore: Backstore, device: UIODevice | None) -> Iterator[Finding]:
    """Look for devices that the kernel answers BUSY for."""
    if device is not None and backstore.enabled and backstore.blocked:
        path = backstore.path / "action" / "block_dev"
        yield warning(backstore.name, "it is blocked: every command is answered BUSY", f"echo 0 > {path}")
