"""A backstore that never answers: its commands end all the same, and the device goes on."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, block_device, disk, wait_until
from tests.kernel.plugins.txtcmu.plugins.stuck import RELEASE
from tests.kernel.sgio import sg_io

SIZE = 16 << 20
GOOD, BUSY = 0x00, 0x08
DID_OK, DID_TIME_OUT, DID_ABORT = 0x00, 0x03, 0x05


def read_10(lba: int, blocks: int = 8) -> bytes:
    """READ (10) of the first half, or of the second, which hangs."""
    return struct.pack(">BxIxHx", 0x28, lba, blocks)


HANGS = read_10(SIZE // 512 - 8)
ANSWERS = read_10(0)


@pytest.fixture(params=["lets-go", "holds-on"])
def behaviour(request: pytest.FixtureRequest) -> str:
    """Whether a cancelled Deferred fires at once, or not until the backstore is released."""
    Path(RELEASE).unlink(missing_ok=True)
    behaviour: str = request.param
    return behaviour


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """A daemon with the handler ``stuck``, a plugin on its path."""
    daemon = Daemon(guest_logs, "stuck")
    daemon.start()
    yield daemon
    daemon.stop()


def kept_buffers(path: str) -> int:
    """Return how many commands the kernel still holds for the disk's backstore."""
    return int((block_device(path) / "device" / "device_busy").read_text())


def test_abort(daemon: Daemon, behaviour: str) -> None:
    """A command that its initiator aborts ends at once, and others are answered before, meanwhile and after."""
    with disk("stuck", f"stuck/{behaviour}", SIZE) as path:
        assert sg_io(path, ANSWERS, 4096).status == GOOD
        before = time.monotonic()
        hung = sg_io(path, HANGS, 4096, timeout=3)
        assert hung.host_status in (DID_TIME_OUT, DID_ABORT)
        # The abort itself: without it the kernel would wait for the command's own end.
        assert time.monotonic() - before < 30
        answered = sg_io(path, ANSWERS, 4096)
        assert (answered.status, answered.host_status, answered.data) == (GOOD, DID_OK, bytes(4096))
        Path(RELEASE).touch()
        wait_until(lambda: kept_buffers(path) == 0, "the kernel lets go of the buffer")
        assert sg_io(path, ANSWERS, 4096).status == GOOD


def test_deadline(daemon: Daemon, behaviour: str) -> None:
    """A command that outlives the daemon's deadline, below the kernel's, ends with BUSY, and no abort is needed."""
    with disk("stuck", f"stuck/{behaviour}", SIZE, cmd_time_out=10) as path:
        hung = sg_io(path, HANGS, 4096, timeout=12)
        # BUSY is retried until the time of the request is over; then the initiator sees it.
        assert (hung.status, hung.host_status) == (BUSY, DID_OK)
        assert sg_io(path, ANSWERS, 4096).status == GOOD
        Path(RELEASE).touch()
