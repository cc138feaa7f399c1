"""Daemons that are killed, with all that they keep on their host, while files of a volume in S3 are fsynced."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import fsyncs
from tests.kernel.daemon import DISK_TIMEOUT, Daemon, block_device, configuration, disk, run, wait_until
from tests.kernel.fsyncs import Ledger
from txtcmu.kernel.configfs import backstores

#: `make crash` wants more.
ROUNDS = int(os.environ.get("TXTCMU_CRASH_ROUNDS", "3"))
SIZE = 64 << 20
#: Seconds: a daemon is started meanwhile, and opens the volume; on a busy machine that is minutes.
PATIENCE = 400.0
#: Runs a program so that all it can write to are places of its own, which are gone when it is.
FORGETFUL = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -o remount,bind,ro / && for place in /run /var /dev/shm; do mount -t tmpfs own $place; done && exec "$@"',
    "sh",
)


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """A daemon that forgets everything when it ends; not started yet."""
    daemon = Daemon(guest_logs, "s3", options=("--drain-timeout", "60"), prefix=FORGETFUL)
    yield daemon
    daemon.stop()


@pytest.fixture
def patience() -> Iterator[None]:
    """Have the kernel find nothing wrong with an fsync that waits for the next daemon."""
    path = Path("/proc/sys/kernel/hung_task_timeout_secs")
    before = path.read_text()
    path.write_text(str(DISK_TIMEOUT))
    yield
    path.write_text(before)


@contextmanager
def mounted(path: str, directory: Path) -> Iterator[None]:
    """Have the file system mounted."""
    run("mount", path, directory)
    try:
        yield
    finally:
        run("umount", directory)


class Load:
    """fsyncs.py at work in a directory; a context manager, which ends it one way or the other."""

    def __init__(self, directory: Path, ledger: Path) -> None:
        command = [sys.executable, "-S", fsyncs.__file__, str(directory), str(ledger)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._ledger = Ledger(ledger)

    def wait_for(self, fsyncs: int) -> None:
        """Wait until so many more fsyncs have returned."""
        goal = self._ledger.acknowledged + fsyncs

        def reached() -> bool:
            assert self._process.poll() is None, f"it ended early: {self._process.communicate()[0]}"
            return self._ledger.acknowledged >= goal

        wait_until(reached, f"{fsyncs} fsyncs", PATIENCE)

    def finish(self) -> None:
        """Have it end what it does; nothing may have failed."""
        output, _ = self._process.communicate(timeout=240)
        assert (self._process.returncode, output) == (0, "")

    def fail(self) -> None:
        """Wait until all of it has failed."""
        output = self._process.stdout
        assert output is not None
        assert len(output.read().splitlines()) == fsyncs.THREADS
        assert self._process.wait(60) == 1

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def cut_off(name: str, path: str) -> None:
    """End the initiator of a disk whose daemon is dead: what has not left its memory never will, as in a power cut."""
    device = block_device(path) / "device"
    (device / "state").write_text("offline\n")
    # A disk that is removed is told to flush all the same, if it has a cache.
    next(device.glob("scsi_disk/*/cache_type")).write_text("temporary write through\n")
    [backstore] = [each for each in backstores() if each.name == name]
    backstore.block()
    backstore.reset_ring(hard=True)


def verify(directory: Path, *options: str) -> None:
    """Have fio write a file at random and verify it; or only verify it."""
    command = ["fio", "--name=verify", f"--filename={directory}/fio", "--direct=1", "--ioengine=libaio", "--bs=4k"]
    command += ["--rw=randwrite", "--iodepth=32", "--size=4m", "--verify=crc32c", "--verify_fatal=1"]
    run(*command, *options)


@pytest.mark.host_service("s3")
@pytest.mark.guest_timeout(600 + 240 * ROUNDS)
@pytest.mark.usefixtures("patience")
def test_fsyncs_survive(daemon: Daemon, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Whoever dies while files are fsynced, what was fsynced is there afterwards, and the file system is whole.

    By turns the daemon dies with the host that has the disk, whose memory is lost, and alone: then the host goes on as
    soon as there is another daemon. That is promised with ``wce=off`` only, where a daemon has acknowledged nothing
    that was in its memory alone.
    """
    volume = f"s3/{os.environ['TXTCMU_S3_BUCKET']}/crash"
    mount, record = tmp_path / "mount", tmp_path / "ledger"
    mount.mkdir()
    ledger, dice = Ledger(record), random.Random(ROUNDS)
    daemon.start()
    daemon.wait_ready()  # nobody waits for the first daemon of a boot
    with disk("made", volume, SIZE) as path:
        run("mkfs.ext4", "-q", path)
        with mounted(path, mount):
            verify(mount)

    def check(path: str) -> int:
        """Replay the journal, and look at all there is."""
        with mounted(path, mount):
            pass
        run("e2fsck", "-fn", path)
        with mounted(path, mount):
            return ledger.check(mount)

    for number in range(ROUNDS):
        alone = bool(number % 2)
        name = f"round{number}"
        with disk(name, f"{volume};wce=off" if alone else volume, SIZE) as path:
            check(path)
            with mounted(path, mount), Load(mount, record) as load:
                load.wait_for(dice.randrange(10, 30))
                daemon.kill()
                if alone:
                    daemon.start()
                    load.wait_for(5)
                    load.finish()
                    Path("/proc/sys/vm/drop_caches").write_text("3")
                    ledger.check(mount)
                else:
                    cut_off(name, path)
                    load.fail()
        if not alone:
            daemon.start()
    with disk("checked", volume, SIZE) as path:
        files = check(path)
        with mounted(path, mount):
            verify(mount, "--verify_only")
    daemon.stop()
    run("txtcmu", "volume", "fsck", "--data", volume, "--config", configuration())
    for figure in (("rounds", ROUNDS), ("fsyncs", ledger.acknowledged), ("files", files), ("lost", 0)):
        record_property(*figure)
