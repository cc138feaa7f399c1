"""Whole disks on the real kernel: ring, netlink, SCSI, backstore, and a file system on the near end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Fio, configuration, disk, run

SIZE = 64 << 20
# Where nobody else writes while fio is busy with the beginning.
FLUSHED, UNFLUSHED = 40 << 20, 48 << 20
PACKAGE = Path(__file__).parents[2] / "txtcmu"
# Makes the storage of a disk, and no LUN.
MAKE = """
import sys
from pathlib import Path
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.logger import Logger
from txtcmu import config, registry
from txtcmu.devconfig import DeviceParameters
device = config.load(Path(sys.argv[1])).device_config(sys.argv[2])
make = registry.find(device.handler).create
react(lambda reactor: ensureDeferred(make(DeviceParameters(device, int(sys.argv[3]), 512, reactor, Logger()))))
"""


@pytest.fixture(scope="module", params=["memory", "file", pytest.param("s3", marks=pytest.mark.host_service("s3"))])
def handler(request: pytest.FixtureRequest) -> str:
    """The handler's name."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def dev_config(handler: str) -> str:
    """The dev_config of an empty disk of SIZE bytes."""
    if handler == "memory":
        return "memory/test;create=yes"
    if handler == "file":
        return "file/tmp/test.img;create=yes"
    config = f"s3/{os.environ['TXTCMU_S3_BUCKET']}/test"
    run("python", "-c", MAKE, configuration(), f"{config};object_size=64k", str(SIZE))
    return config


@pytest.fixture
def blocks(handler: str) -> int:
    """How many blocks fio is busy with: each takes the guest half a millisecond, and twenty with S3."""
    return 512 if handler == "s3" else 4096


@pytest.fixture
def daemon(handler: str, guest_logs: Path) -> Iterator[Daemon]:
    """A daemon that serves the handler; started, and stopped in the end."""
    with serving(guest_logs, handler) as daemon:
        yield daemon


@contextmanager
def serving(logs: Path, handler: str) -> Iterator[Daemon]:
    """Start a daemon; stop it in the end. Whatever it has to drain, it has the time to."""
    daemon = Daemon(logs, handler, options=("--drain-timeout", "60"))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def test_file_system(daemon: Daemon, dev_config: str, tmp_path: Path) -> None:
    """A file system is made, filled and checked, and what was copied is what is read back."""
    source, mount = tmp_path / "source", tmp_path / "mount"
    mount.mkdir()
    run("cp", "-r", PACKAGE, source)  # the checkout may change meanwhile, this copy does not
    with disk("fs", dev_config, SIZE) as path:
        run("mkfs.ext4", "-q", path)
        run("mount", path, mount)
        try:
            run("cp", "-r", source, mount / "copy")
        finally:
            run("umount", mount)
        run("e2fsck", "-fn", path)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        run("mount", "-o", "ro", path, mount)
        try:
            run("diff", "-r", source, mount / "copy")
        finally:
            run("umount", mount)


def test_fio(daemon: Daemon, dev_config: str, blocks: int) -> None:
    """Random reads and writes at depth 32 verify."""
    with disk("fio", dev_config, SIZE) as path:
        Fio(path, blocks).finish()


def test_remove_and_add_again(daemon: Daemon, dev_config: str) -> None:
    """A device can be removed and made again while the daemon runs, and its data is still there."""
    with disk("again", dev_config, SIZE) as path:
        run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", "conv=fsync", "oflag=direct")
    with disk("again", dev_config, SIZE) as path:
        run("cmp", "-n", str(256 << 10), "/bin/busybox", path)


def end_under_load(daemon: Daemon, path: str, blocks: int, end: Callable[[], None]) -> None:
    """End the daemon in the middle of fio's writes and start it again: fio writes on, and everything verifies."""
    fio = Fio(path, blocks)
    fio.wait_for_load()
    end()
    before = fio.written
    daemon.start()
    assert fio.finish() > before + 32, "fio had no more to write when the daemon came back"


def test_killed_under_load(daemon: Daemon, dev_config: str, blocks: int) -> None:
    """A daemon killed with 32 commands in flight and started again costs the initiator time, and no write."""
    with disk("kill", dev_config, SIZE) as path:
        end_under_load(daemon, path, blocks, daemon.kill)


def drains(daemon: Daemon, path: str, blocks: int, end: Callable[[], None]) -> None:
    """Stop the daemon under load: it answers what it has, and what was written before is there afterwards."""
    log = daemon.log
    for place, sync in ((FLUSHED, ["conv=fsync"]), (UNFLUSHED, [])):
        run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", f"seek={place >> 16}", "oflag=direct", *sync)
    end_under_load(daemon, path, blocks, end)
    assert "closed" in log.read_text()
    assert "aborted" not in log.read_text()
    for place in (FLUSHED, UNFLUSHED):
        run("cmp", "-n", str(256 << 10), "-i", f"0:{place}", "/bin/busybox", path)


def test_stopped_under_load(daemon: Daemon, dev_config: str, blocks: int) -> None:
    """SIGTERM under load drains; what the next daemon finds is what was written, flushed or not."""
    with disk("stop", dev_config, SIZE) as path:
        drains(daemon, path, blocks, daemon.terminate)


def test_interrupted_under_load(guest_logs: Path) -> None:
    """SIGINT under load drains as SIGTERM does."""
    with serving(guest_logs, "memory") as daemon, disk("interrupt", "memory/interrupt;create=yes", SIZE) as path:
        drains(daemon, path, 4096, daemon.interrupt)
