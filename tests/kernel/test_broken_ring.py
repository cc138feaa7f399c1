"""A ring that the kernel gives up: found in its log, emptied, and served on."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Fio, disk, wait_until
from tests.kernel.plugins.txtcmu.plugins.breaks import HELD, TRIGGER

pytestmark = pytest.mark.kernel_log(r"cmd_id \d+ not found, ring is broken")

SIZE = 16 << 20
PAGE = 4096
#: Far apart, and from what fio writes, so that the block layer makes one request of none of them.
PLACES = [(8 << 20) + at * (256 << 10) for at in range(HELD)]


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """A daemon whose ring breaks on demand."""
    Path(TRIGGER).unlink(missing_ok=True)
    daemon = Daemon(guest_logs, "breaks")
    daemon.start()
    yield daemon
    daemon.stop()


def transfer(path: str, offset: int, data: bytes | None = None) -> bytes:
    """Write a page past the page cache, or read it; an I/O error is an OSError."""
    buffer = mmap.mmap(-1, PAGE)  # aligned as direct I/O wants it
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        if data is None:
            assert os.preadv(descriptor, [buffer], offset) == PAGE
        else:
            buffer[:] = data
            assert os.pwrite(descriptor, buffer, offset) == PAGE
    finally:
        os.close(descriptor)
    return bytes(buffer)


def break_the_ring(path: str, fill: int) -> None:
    """Break the ring with commands outstanding, and see that each of them ends well all the same."""
    Path(TRIGGER).touch()
    with ThreadPoolExecutor(HELD) as pool:
        for _ in pool.map(lambda at: transfer(path, at, bytes([fill]) * PAGE), PLACES):
            pass
    assert [transfer(path, at) for at in PLACES] == [bytes([fill]) * PAGE] * HELD


def test_mended(daemon: Daemon) -> None:
    """Commands that were outstanding are sent again and end well; the mended ring takes a load that verifies."""
    with disk("breaks", "breaks/one", SIZE) as path:
        break_the_ring(path, 1)
        log = daemon.log.read_text()
        assert (log.count("the ring is broken"), log.count("the ring is mended")) == (1, 1), log
        Fio(path, 1024).finish()
        assert [transfer(path, at) for at in PLACES] == [bytes([1]) * PAGE] * HELD


def test_again(daemon: Daemon) -> None:
    """A ring that breaks again is mended again."""
    with disk("breaks", "breaks/again", SIZE) as path:
        for fill in (1, 2, 3):
            break_the_ring(path, fill)
            wait_until(lambda fill=fill: daemon.log.read_text().count("is mended") == fill, "mended")  # type: ignore[misc]


def test_others_are_left_alone(daemon: Daemon) -> None:
    """Another device's load goes on while one is mended; its ring is not touched, and what it wrote verifies."""
    with disk("breaks", "breaks/one", SIZE) as path, disk("sound", "breaks/other", SIZE) as other:
        break_the_ring(path, 1)
        # The trigger holds the writes of whichever disk, so the load comes when it is gone.
        fio = Fio(other, 1024)
        fio.wait_for_load()
        log = daemon.log.read_text()
        assert log.count("the ring is mended") == 1
        assert "sound (breaks/other): the ring" not in log
        fio.finish()
