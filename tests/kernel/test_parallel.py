"""Many devices at once, and those whose daemon comes later."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.daemon import CMD_TIME_OUT, Daemon, wait_until
from txtcmu.kernel import fabric, sysfs
from txtcmu.kernel.configfs import Backstore, backstores

MIB = 1 << 20
LUNS = 64
PATIENCE = 120.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each write to configfs that may have to wait."""
    with ThreadPoolExecutor(LUNS) as pool:
        yield pool


def make(name: str, subtype: str = "memory") -> Backstore:
    control: dict[str, str | int] = {"dev_config": f"{subtype}/{name};create=yes", "dev_size": MIB}
    made = Backstore.create(name, control | {"max_data_area_mb": 1, "cmd_ring_size_mb": 1})
    made.set_attribute("cmd_time_out", CMD_TIME_OUT)
    return made


def write_and_read(path: str) -> None:
    """Write a block of its own to a disk, past the page cache, and read it back."""
    with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
        wanted = path.encode().ljust(mmap.PAGESIZE, b".")
        buffer[:] = wanted
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(descriptor, [buffer], 8192) == len(buffer)
            buffer[:] = bytes(mmap.PAGESIZE)
            assert os.preadv(descriptor, [buffer], 8192) == len(buffer)
            assert buffer[:] == wanted
        finally:
            os.close(descriptor)


def test_64_luns_in_parallel(guest_logs: Path, threads: ThreadPoolExecutor) -> None:
    """64 devices are enabled, exported, used and removed at the same time; each waits for the daemon's replies."""
    daemon = Daemon(guest_logs, "memory")
    daemon.start()
    try:
        daemon.wait_ready()
        made = [make(f"many{number}") for number in range(LUNS)]
        list(threads.map(Backstore.enable, made))
        assert {each.attribute("nl_reply_supported") for each in made} == {"1"}
        assert all(each.enabled for each in made)
        exported = list(threads.map(fabric.export_loopback, made))
        list(threads.map(write_and_read, [path for _, path in exported]))
        list(threads.map(fabric.unexport, [lun for lun, _ in exported], [made[0].configfs] * LUNS))
        list(threads.map(Backstore.remove, made))
        assert sysfs.discover() == []
        log = daemon.log.read_text()
        assert log.count(": serving") == LUNS
        assert log.count(": closed") == LUNS
        assert [line for line in log.splitlines() if "#error" in line or "#critical" in line] == []
    finally:
        daemon.stop()


def enabling(threads: ThreadPoolExecutor, *made: Backstore) -> list[Future[None]]:
    """Begin to enable; return when all of them wait for a daemon."""
    writing = [threads.submit(each.enable) for each in made]
    wait_until(lambda: len(sysfs.discover()) == len(made), "the devices are announced")
    return writing


def remove_all() -> None:
    for each in backstores():
        each.remove()


def test_the_daemon_comes_later(guest_logs: Path, threads: ThreadPoolExecutor) -> None:
    """Whoever waits for a daemon that died, or was never there, is answered when one of the subtype starts.

    Somebody else's daemon answers none of them, and goes on to serve its own.
    """
    former = Daemon(guest_logs / "former", "memory")
    former.start()
    former.wait_ready()  # from now on the kernel waits for answers, whoever is there to give them
    former.kill()
    made = [make(f"late{number}") for number in range(4)]
    waiting = enabling(threads, *made)
    stranger = Daemon(guest_logs / "stranger", "file")
    stranger.start()
    successor = Daemon(guest_logs / "successor", "memory")
    try:
        stranger.wait_ready()
        own = make("own", f"file{guest_logs}")
        own.enable()
        assert not any(future.done() for future in waiting)
        assert [each.enabled for each in made] == [False] * len(made)
        successor.start()
        for future in waiting:
            future.result(PATIENCE)
        for each in made:
            lun, path = fabric.export_loopback(each)
            write_and_read(path)
            fabric.unexport(lun, each.configfs)
        remove_all()
    finally:
        successor.stop()
        stranger.stop()


def test_nobody_waits_when_replies_are_off(guest_logs: Path) -> None:
    """A device that was made without a daemon, and waits for none, is served by the one that starts later."""
    made = make("early")
    with (made.path / "control").open("w") as control:
        control.write("nl_reply_supported=-1")
    made.enable()
    daemon = Daemon(guest_logs, "memory")
    daemon.start()
    try:
        wait_until(lambda: "early (memory/early;create=yes): serving" in daemon.log.read_text(), "it is served")
        lun, path = fabric.export_loopback(made)
        write_and_read(path)
        fabric.unexport(lun, made.configfs)
        made.remove()
    finally:
        daemon.stop()
