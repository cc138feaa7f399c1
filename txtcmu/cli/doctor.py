"""``txtcmu doctor``: why it would not work here, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from txtcmu.cli.devicechecks import check_devices
from txtcmu.cli.environment import Environment, environment
from txtcmu.cli.findings import Finding, Level, unseen
from txtcmu.cli.handlerchecks import check_configuration, check_configured, check_handlers
from txtcmu.cli.hostchecks import HOST_CHECKS
from txtcmu.cli.tables import print_table
from txtcmu.config import Configuration
from txtcmu.errors import KernelError

__all__ = ["doctor"]


@click.command()
@click.argument("dev_configs", metavar="[HANDLER/PATH[;KEY=VALUE...]]...", nargs=-1)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def doctor(context: click.Context, dev_configs: tuple[str, ...], config_file: Path | None) -> int:
    """Say what would keep disks from working here, and how to mend it.

    It changes nothing and needs no root; what only root can see is marked with a question mark.  With dev_configs,
    their handlers look at these, too.  The exit status is 1 if something would not work; warnings do not count.
    """
    world = environment(context)
    findings = [finding for check in (*HOST_CHECKS, check_devices) for finding in _look(check, world)]
    findings += check_handlers(world)
    configuration, about = check_configuration(world, config_file)
    findings += about
    if configuration is not None and dev_configs:
        findings += world.run(partial(_check_all, world, configuration, dev_configs))
    print_table(
        ("", "WHAT", "HOW IT IS", "MEND"), ((each.level.value, each.subject, each.text, each.mend) for each in findings)
    )
    return int(any(finding.level is Level.FAILURE for finding in findings))


def _look(check: Callable[[Environment], Iterator[Finding]], world: Environment) -> list[Finding]:
    """Return what a check finds; one that is not allowed to look says so."""
    found = []
    try:
        for finding in check(world):
            found.append(finding)
    except (KernelError, OSError, ValueError) as error:
        found.append(unseen(check.__name__.replace("_", " "), str(error)))
    return found


async def _check_all(
    world: Environment, configuration: Configuration, dev_configs: Iterable[str], reactor: Any
) -> list[Finding]:
    return [await check_configured(world, configuration, dev_config) for dev_config in dev_configs]
