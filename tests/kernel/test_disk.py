"""Whole disks on the real kernel: ring, netlink, SCSI, backstore, and a file system on the near end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Fio, configuration, disk, run

SIZE = 64 << 20
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
def area(handler: str) -> str:
    """How much of the disk fio writes: a request to S3 costs ten milliseconds of this processor."""
    return "2m" if handler == "s3" else "8m"


@pytest.fixture
def daemon(handler: str, guest_logs: Path) -> Iterator[Daemon]:
    """A daemon that serves the handler; started, and stopped in the end."""
    daemon = Daemon(guest_logs, handler)
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


def test_fio(daemon: Daemon, dev_config: str, area: str) -> None:
    """Random reads and writes at depth 32 verify."""
    with disk("fio", dev_config, SIZE) as path:
        Fio(path, area).finish()


def test_remove_and_add_again(daemon: Daemon, dev_config: str) -> None:
    """A device can be removed and made again while the daemon runs, and its data is still there."""
    with disk("again", dev_config, SIZE) as path:
        run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", "conv=fsync", "oflag=direct")
    with disk("again", dev_config, SIZE) as path:
        run("cmp", "-n", str(256 << 10), "/bin/busybox", path)


def test_killed_under_load(daemon: Daemon, dev_config: str, area: str) -> None:
    """A daemon killed with 32 commands in flight and started again costs the initiator time, and no error."""
    with disk("kill", dev_config, SIZE) as path:
        fio = Fio(path, area, "--time_based", "--runtime=8")
        fio.wait_for_load()
        daemon.kill()
        daemon.start()
        fio.finish()


def test_stopped_under_load(daemon: Daemon, dev_config: str, area: str) -> None:
    """SIGTERM under load drains; what the next daemon finds is what was written."""
    with disk("stop", dev_config, SIZE) as path:
        fio = Fio(path, area, "--time_based", "--runtime=8")
        fio.wait_for_load()
        daemon.terminate()
        assert "closed" in daemon.log.read_text()
        assert "aborted" not in daemon.log.read_text()
        daemon.start()
        fio.finish()
