"""A backstore that never answers: its commands end all the same, and the device goes on."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.daemon import CMD_TIME_OUT, Daemon, disk, wait_until
from tests.kernel.plugins.txtcmu.plugins.stuck import RELEASE
from tests.kernel.sgio import sg_io
from txtcmu.lun.attachment import DEADLINE_SHARE

SIZE = 16 << 20
GOOD, BUSY, TASK_SET_FULL = 0x00, 0x08, 0x28
DID_OK, DID_TIME_OUT, DID_ABORT = 0x00, 0x03, 0x05


def read_10(lba: int, blocks: int = 8) -> bytes:
    """READ (10) of the first half, or of the second, which hangs."""
    return struct.pack(">BxIxHx", 0x28, lba, blocks)


HANGS = read_10(SIZE // 512 - 8)
ANSWERS = read_10(0)
# Three quarters of a data area of 1 MiB: there is room for one of them, and for a small one.
LARGE = 768 << 10
HANGS_LARGE = read_10(SIZE // 512 - LARGE // 512, LARGE // 512)
ANSWERS_LARGE = read_10(0, LARGE // 512)


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """A daemon with the handler ``stuck``, a plugin on its path."""
    Path(RELEASE).unlink(missing_ok=True)
    daemon = Daemon(guest_logs, "stuck")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("behaviour", ["lets-go", "holds-on"])
def test_abort(daemon: Daemon, behaviour: str) -> None:
    """A command that its initiator aborts ends at once, and others are answered; its buffer is free once it is let go.

    Where data pages do not suffice, ``qfull_time_out=0`` has the kernel say TASK SET FULL at once; the initiator tries
    again until the time of the request is over.
    """
    with disk("stuck", f"stuck/{behaviour}", SIZE, data_area_mb=1, attributes={"qfull_time_out": 0}) as path:
        assert sg_io(path, ANSWERS_LARGE, LARGE).status == GOOD
        before = time.monotonic()
        hung = sg_io(path, HANGS_LARGE, LARGE, timeout=3)
        assert hung.host_status in (DID_TIME_OUT, DID_ABORT)
        # The abort did it, not the command's own end.
        assert time.monotonic() - before < DEADLINE_SHARE * CMD_TIME_OUT
        answered = sg_io(path, ANSWERS, 4096)
        assert (answered.status, answered.host_status, answered.data) == (GOOD, DID_OK, bytes(4096))
        if behaviour == "holds-on":  # it may still write to the buffer, so nobody else can have it
            full = sg_io(path, ANSWERS_LARGE, LARGE, timeout=3)
            assert (full.status, full.host_status) == (TASK_SET_FULL, DID_OK)
            assert sg_io(path, ANSWERS, 4096).status == GOOD
            Path(RELEASE).touch()
            wait_until(lambda: sg_io(path, ANSWERS_LARGE, LARGE, timeout=3).status == GOOD, "the buffer is free")
        large = sg_io(path, ANSWERS_LARGE, LARGE)
        assert (large.status, large.host_status, large.data) == (GOOD, DID_OK, bytes(LARGE))


def test_deadline(daemon: Daemon) -> None:
    """A command that outlives the daemon's deadline, below the kernel's, ends with BUSY, and no abort is needed.

    The daemon gives up after 24 s, the kernel would after 30, the initiator after 40. BUSY is retried until the time of
    the request is over, so that the second one is seen.
    """
    attributes = {"cmd_time_out": 30}
    with (
        disk("first", "stuck/lets-go", SIZE, attributes=attributes) as first,
        disk("second", "stuck/holds-on", SIZE, attributes=attributes) as second,
        ThreadPoolExecutor() as pool,
    ):
        for hung in pool.map(lambda path: sg_io(path, HANGS, 4096, timeout=40), (first, second)):
            assert (hung.status, hung.host_status) == (BUSY, DID_OK)
        for path in (first, second):
            assert sg_io(path, ANSWERS, 4096).status == GOOD
        Path(RELEASE).touch()
