"""``txtcmu create``: storage, backstore and LUN in one go."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from twisted.logger import Logger

from txtcmu.cli.environment import PATIENCE, Environment, environment, explained, tell
from txtcmu.cli.processes import foreign_listeners, wait_until_held
from txtcmu.devconfig import DeviceConfig, DeviceParameters, parse_size
from txtcmu.errors import BackstoreError, ConfigError, KernelError
from txtcmu.kernel import fabric as fabrics
from txtcmu.kernel.configfs import Backstore, backstores
from txtcmu.kernel.sysfs import discover
from txtcmu.results import as_deferred

__all__ = ["create"]

# What one command may carry: the kernel's own default, 128 blocks, costs large transfers much of their speed.
_LARGEST_TRANSFER = 1 << 20
# Seconds until the kernel gives a command up.  Its default of 30 is little for a daemon that has to be started again
# on a busy host, and while it waits nothing is lost; a hung backstore is the daemon's own deadline's business.
_CMD_TIME_OUT = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME = 64


class Size(click.ParamType[int]):
    """Bytes, as 10G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        try:
            size = value if isinstance(value, int) else parse_size(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        if size <= 0:
            self.fail("a disk needs at least one block", param, ctx)
        return size


@click.command()
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--new", is_flag=True, help="Make the storage too; never touches storage that is there.")
@click.option("--size", type=Size(), help="Such as 10G; by default that of the storage.")
@click.option("--block-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--name", help="Of the backstore; by default made from PATH.")
@click.option(
    "--fabric",
    type=click.Choice(["loopback", "iscsi", "none"]),
    default="loopback",
    show_default=True,
    help="A disk of this host, an iSCSI target open to all, or only the backstore.",
)
@click.option("--portal", default="0.0.0.0:3260", show_default=True, help="Where the iSCSI target listens.")
@click.option("--serial", help="The unit serial number.")
@click.option(
    "--replies/--no-replies",
    default=None,
    help="Whether the kernel waits for a daemon's answer when the disk is made and removed; by default not where"
    " tcmu-runner, or another program on libtcmu, would refuse the disk before its own daemon is asked.",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def create(
    context: click.Context,
    dev_config: str,
    new: bool,
    size: int | None,
    block_size: str,
    name: str | None,
    fabric: str,
    portal: str,
    serial: str | None,
    replies: bool | None,
    config_file: Path | None,
) -> None:
    """Make a disk and print it: /dev/sdX, the IQN, or the backstore's name."""
    world = environment(context)
    if new and size is None:
        raise click.UsageError("--new needs --size")
    config = world.load(config_file).device_config(dev_config)
    factory = world.find(config.handler)
    config.refuse_unknown(factory.options)
    if size is not None and size % int(block_size):
        raise ConfigError(f"--size {size} is no multiple of the block size {block_size}")
    _check_kernel(world, name)
    size = world.run(partial(_prepare_storage, factory, config, size, int(block_size), new))
    try:
        replies = _wants_replies(world) if replies is None else replies
        name = name or _default_name(world, config)
        made = _make_backstore(world, dev_config, name, size, int(block_size), replies)
        click.echo(_enable_and_export(world, made, config.handler, fabric, portal, serial, replies))
    except BaseException:
        if new:
            tell(f"the new storage {config.handler}/{config.path} was made and is kept")
        raise


def _check_kernel(world: Environment, name: str | None) -> None:
    """Fail before anything is made or opened if it must fail afterwards."""
    world.configfs.check()
    if name is not None and any(made.name == name for made in backstores(world.configfs)):
        raise KernelError(f"a backstore called {name} exists already: remove it, or use another name")


async def _prepare_storage(
    factory: Any, config: DeviceConfig, size: int | None, block_size: int, new: bool, reactor: Any
) -> int:
    """Make the storage if it is to be new, and return its size."""
    if not new:  # what is yet to be made may well be missing
        problem = await as_deferred(factory.check(config))
        if problem is not None:
            raise ConfigError(problem)
    parameters = DeviceParameters(config, size, block_size, reactor, Logger(namespace="txtcmu.cli"))
    try:
        if new:
            await as_deferred(factory.create(parameters))
        if size is not None:
            return size
        opened = await as_deferred(factory.open(parameters))
        try:
            found = getattr(opened, "size", None)
        finally:
            await as_deferred(opened.close())
    except BackstoreError as error:
        raise ConfigError(f"{config.handler}/{config.path}: {error}") from error
    if not isinstance(found, int):
        raise ConfigError(f"{config.handler} devices have no size of their own: give --size")
    if not found or found % block_size:
        raise ConfigError(
            f"{config.handler}/{config.path} has {found} bytes, not a multiple of {block_size}: resize it"
        )
    return found


def _default_name(world: Environment, config: DeviceConfig) -> str:
    """Return a name that nothing has yet, from the end of the path."""
    last = config.path.rstrip("/").rpartition("/")[2]
    base = _UNSAFE.sub("-", last).strip("-.")[:_LONGEST_NAME] or config.handler
    taken = {made.name for made in backstores(world.configfs)}
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def _wants_replies(world: Environment) -> bool:
    """Whether the kernel may wait for an answer: not where somebody answers for devices that are not his."""
    others = foreign_listeners(world.proc, world.group())
    if others:
        who = ", ".join(map(str, others))
        tell(f"{who} answers for every TCMU device: this one is made with nl_reply_supported=-1 (--replies forbids it)")
    return not others


def _make_backstore(
    world: Environment, dev_config: str, name: str, size: int, block_size: int, replies: bool
) -> Backstore:
    control: dict[str, str | int] = {
        "dev_config": dev_config,
        "dev_size": size,
        "hw_block_size": block_size,
        "hw_max_sectors": _LARGEST_TRANSFER // block_size,
    }
    if not replies:
        control["nl_reply_supported"] = -1
    made = Backstore.create(name, control, world.configfs)
    try:
        made.set_attribute("cmd_time_out", _CMD_TIME_OUT)
        # A daemon that finds the device enabled takes it at its word, and the kernel's default is off.
        made.set_attribute("emulate_write_cache", 1)
    except KernelError:
        _undo(made)
        raise
    return made


def _enable_and_export(
    world: Environment, made: Backstore, handler: str, fabric: str, portal: str, serial: str | None, replies: bool
) -> str:
    """Return what the new disk is called; undo what was done if it fails."""
    daemon = f"a daemon that serves {handler} devices: is `twist tcmu --handler {handler}` running?"
    waiting = f"waiting for {daemon}"
    try:
        world.enable(made, lambda: tell(waiting))
    except KernelError:
        _undo(made)
        raise
    except KeyboardInterrupt:
        tell(f"{made.name} goes away by itself as soon as it can: when {daemon.partition(':')[0]} answers for it")
        raise
    try:
        if not replies:
            _wait_until_served(world, made, lambda: tell(waiting))
        if serial is not None:
            made.serial = serial
        with explained(waiting):
            if fabric == "loopback":
                return fabrics.export_loopback(made, sysfs=world.sysfs, dev=world.dev)[1]
            if fabric == "iscsi":
                return fabrics.export_iscsi(made, portal=portal).target
        return made.name
    except BaseException:
        with explained(waiting):
            _undo(made)
        raise


def _wait_until_served(world: Environment, made: Backstore, notice: Callable[[], object]) -> None:
    """Wait for what enabling has not waited for: an initiator that scans a disk nobody serves hangs with it."""
    devices = discover(world.sysfs, world.dev)
    node = next((each.node for each in devices if (each.hba, each.name) == (made.hba, made.name)), None)
    if node is None:
        raise KernelError(f"{made.name} is enabled but has no UIO device: see dmesg")
    wait_until_held(node, world.proc, notice, PATIENCE)


def _undo(made: Backstore) -> None:
    try:
        made.remove()
    except KernelError as error:  # the first error is the one to end with
        tell(f"{error}; remove it with `txtcmu rm {made.name}`")
