"""A world of one handler on a fake configfs, for tests of the command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.unit_kernel.fake_configfs import FakeConfigFS
from txtcmu import config
from txtcmu.cli import main
from txtcmu.cli.environment import Environment
from txtcmu.config import Configuration
from txtcmu.devconfig import DeviceParameters
from txtcmu.errors import ConfigError
from txtcmu.kernel.configfs import Backstore

MIB = 1 << 20
GROUP = 7  # of the kernel's events


class Opened:
    def __init__(self, size: object, log: list[str]) -> None:
        self.log = log
        if size is not None:
            self.size = size

    def close(self) -> None:
        """Be closed."""
        self.log.append("close")


class Factory:
    """Storage in no place at all, of :attr:`size` bytes."""

    name = "test"
    summary = "a disk of a test"
    options = frozenset({"colour", "password"})
    secrets = frozenset({"password"})

    def __init__(self) -> None:
        self.size: object = MIB
        self.log: list[str] = []
        self.problem: str | None = None
        self.error: Exception | None = None

    def check(self, config: object) -> object:
        """Answer through a Deferred."""
        return succeed(self.problem)

    async def create(self, parameters: DeviceParameters) -> None:
        """Be a coroutine."""
        self.log.append(f"create {parameters.size} {parameters.block_size}")
        if self.error:
            raise self.error

    def open(self, parameters: DeviceParameters) -> object:
        """Answer at once."""
        self.log.append("open")
        if self.error:
            raise self.error
        return Opened(self.size, self.log)


def run(function: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine that needs no reactor."""
    results: list[Any] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(function(None)).addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]


class CommandTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a world of one handler."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.configfs = FakeConfigFS(Path(directory.name))
        self.factory = Factory()
        self.group: int | None = GROUP
        self.enabling: Callable[[Backstore, Callable[[], object]], None] = lambda made, notice: made.enable()
        self.world = Environment(
            configfs=self.configfs,
            sysfs=self.configfs.sysfs,
            dev=self.configfs.dev,
            proc=self.configfs.proc,
            modules=self.configfs.dev.parent / "modules",
            factories=lambda: [self.factory],
            find=self.find,
            load=lambda path: Configuration() if path is None else config.load(path),
            run=run,
            enable=lambda made, notice: self.enabling(made, notice),
            group=lambda: self.group,
        )

    def find(self, name: str) -> Factory:
        """Be the registry."""
        if name != "test":
            raise ConfigError(f"no handler {name}")
        return self.factory

    def process(self, pid: int, name: str, *arguments: str, files: tuple[str, ...] = ()) -> None:
        """Have a process run, with files or sockets open."""
        directory = self.configfs.proc / str(pid)
        (directory / "fd").mkdir(parents=True)
        (directory / "comm").write_text(name + "\n")
        (directory / "cmdline").write_bytes(b"".join(each.encode() + b"\0" for each in (name, *arguments)))
        for number, file in enumerate(files):
            (directory / "fd" / str(number)).symlink_to(file)

    def netlink(self, *sockets: tuple[int, int, int]) -> None:
        """Have netlink sockets: protocol, groups, inode."""
        lines = ["sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode"]
        lines += [f"0000 {protocol} 1 {groups:08x} 0 0 0 2 0 {inode}" for protocol, groups, inode in sockets]
        (self.configfs.proc / "net").mkdir()
        (self.configfs.proc / "net" / "netlink").write_text("\n".join(lines) + "\n")

    def uio(self, minor: int, name: str = "tcm-user/0/vol/test/vol") -> Path:
        """Have a UIO device; return its directory."""
        directory = self.configfs.sysfs / f"class/uio/uio{minor}"
        (directory / "maps/map0").mkdir(parents=True)
        (directory / "name").write_text(name + "\n")
        (directory / "maps/map0/size").write_text("0x1000\n")
        return directory

    def txtcmu(self, *arguments: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(main, list(arguments), obj=self.world)

    def failed(self, *arguments: str, status: int = 1) -> str:
        """Run the command, which must fail with nothing but one line, and return that."""
        result = self.txtcmu(*arguments)
        self.assertEqual((result.exit_code, result.stdout), (status, ""))
        lines = result.stderr.splitlines()
        self.assertTrue(all(line.startswith("txtcmu: ") for line in lines), lines)
        return lines[-1]
