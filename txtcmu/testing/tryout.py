"""``txtcmu try``: the contract's tests and a verified load on a handler, without root and without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from attrs import define, field

from txtcmu.cli.create import Size
from txtcmu.cli.environment import environment, tell
from txtcmu.cli.tables import print_table
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError
from txtcmu.results import as_deferred
from txtcmu.testing.contractrun import Outcome, run_contract
from txtcmu.testing.load import Load, Tally
from txtcmu.testing.storage import Storage

__all__ = ["Trial", "try_"]

_DEFAULT_SIZE = 64 << 20
_DEFAULT_SECONDS = 10.0
_LEAST_BLOCKS = 4096  # the largest of the contract's tests needs half of it
_MOST = 128 << 20  # several of them hold the whole disk in memory, more than once


@define
class Trial:
    """All that is tried, and how it came out.

    :param seconds: length of the load, unless ``operations`` says how many commands it has.
    :ivar outcomes: of the tests, ``load``: the load once it has begun.
    :ivar survives: whether what was written is there after a close; ``None``: not known yet.
    :ivar finished: whether nothing has ended it early.
    """

    factory: Any
    config: DeviceConfig
    size: int | None
    block_size: int
    overwrite: bool
    seconds: float
    operations: int | None
    outcomes: list[Outcome] = field(factory=list)
    load: Load | None = None
    survives: bool | None = None
    storage: Storage | None = None
    finished: bool = False

    async def run(self, reactor: Any) -> None:
        """Do it.  :raise ConfigError: it cannot be tried at all."""
        self.config.refuse_unknown(self.factory.options)
        size = _DEFAULT_SIZE if self.size is None else self.size
        least = _LEAST_BLOCKS * self.block_size
        if size % self.block_size or not least <= size <= _MOST:
            raise ConfigError(f"--size {size} must be {least} to {_MOST} and a multiple of {self.block_size}")
        self.storage = storage = Storage(self.factory, self.config, size, self.block_size, reactor)
        await storage.make(self.overwrite, self.size)
        if not least <= storage.size <= _MOST:
            raise ConfigError(f"{storage} has {storage.size} bytes: with {least} to {_MOST} it can be tried")
        self.survives = await storage.survives()
        async for outcome in run_contract(reactor, storage, self.survives):
            self.outcomes.append(outcome)
        zeroed = await storage.fresh()
        await as_deferred(zeroed.flush())  # a close alone may lose what was written
        await as_deferred(zeroed.close())
        until = reactor.seconds() + self.seconds
        enough = (lambda _: reactor.seconds() >= until) if self.operations is None else self.operations.__le__
        self.load = Load(reactor, storage, enough)
        await self.load.run(self.survives)
        self.finished = True

    @property
    def failed(self) -> bool:
        """Whether something was not as it should be."""
        problems = [outcome for outcome in self.outcomes if outcome.problem is not None]
        return bool(problems or (self.load and self.load.problems))

    @property
    def passed(self) -> bool:
        """Whether all of it was done, and was as it should be."""
        return self.finished and not self.failed


@click.command("try")
@click.argument("dev_config", metavar="HANDLER/PATH[;KEY=VALUE...]")
@click.option("--size", type=Size(), help="Of the new storage, at most 128M.  [default: 64M]")
@click.option("--block-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--seconds", type=click.FloatRange(0), help="How long the load takes.  [default: 10]")
@click.option("--operations", type=click.IntRange(1), help="How many commands the load has, instead.")
@click.option("--overwrite", is_flag=True, help="Use storage that is there, and destroy its data.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The configuration file.")
@click.pass_context
def try_(
    context: click.Context,
    dev_config: str,
    size: int | None,
    block_size: str,
    seconds: float | None,
    operations: int | None,
    overwrite: bool,
    config_file: Path | None,
) -> int:
    """Try a handler: the tests that every backstore must pass, then a load whose every sector is verified.

    It needs neither root nor a kernel with TCMU: the handler's own code runs below the real SCSI code and a fake
    ring.  Storage is made by the handler.  What is there already is refused, unless --overwrite is given; what was
    made is left behind, since handlers have no way to remove it.  The exit status is 0 only if all was right.
    """
    world = environment(context)
    if seconds is not None and operations is not None:
        raise click.UsageError("--seconds and --operations exclude each other")
    config = world.load(config_file).device_config(dev_config)
    factory = world.find(config.handler)
    seconds = _DEFAULT_SECONDS if seconds is None else seconds
    trial = Trial(factory, config, size, int(block_size), overwrite, seconds, operations)
    try:
        world.run(trial.run)
    finally:
        _report(trial)
        storage = trial.storage
        if storage is not None and storage.made and trial.survives is not False:
            tell(f"{storage} was made and is left: remove it when you need it no more")
    return 0 if trial.passed else 1


def _report(trial: Trial) -> None:
    if trial.outcomes:
        rows = [(each.name.removeprefix("test_"), each.problem or "ok", each.sentence) for each in trial.outcomes]
        print_table(("TEST", "RESULT", "WHAT IT PROVES"), rows)
        for outcome in trial.outcomes:
            if outcome.details:
                click.echo(f"\n{outcome.name}:\n{outcome.details}", err=True)
    if trial.survives is False:
        click.echo("\nNothing survives a close: there are no tests of durability for such a disk.")
    if trial.load is not None:
        click.echo()
        print_table(
            ("COMMANDS", "COUNT", "MB/S", "P50 MS", "P99 MS", "ERRORS"),
            (_row(kind, tally, trial.load.elapsed) for kind, tally in sorted(trial.load.tallies.items())),
            numbers=("COUNT", "MB/S", "P50 MS", "P99 MS", "ERRORS"),
        )
        for problem in trial.load.problems:
            click.echo(problem)
    if trial.outcomes or trial.load:
        failed = sum(outcome.problem is not None for outcome in trial.outcomes)
        load = "no load" if trial.load is None else f"{len(trial.load.problems)} problems under load"
        verdict = "passed" if trial.passed else "failed" if trial.failed else "not finished"
        click.echo(f"\n{verdict}: {failed} of {len(trial.outcomes)} tests failed, {load}")


def _row(kind: str, tally: Tally, elapsed: float) -> tuple[str, ...]:
    transfers = tally.size and elapsed and kind not in ("abort", "verify")
    speed = f"{tally.size / elapsed / 1e6:.1f}" if transfers else "-"
    times = (f"{tally.quantile(share) * 1e3:.2f}" for share in (0.5, 0.99))
    return (kind, str(len(tally.seconds)), speed, *times, str(tally.errors))
