"""A live disk is changed by its operator, under load: size, write cache, dev_config, and the kernel's own block_dev."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Fio, block_device, disk, run
from tests.kernel.sgio import sg_io
from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import Backstore, find

MIB = 1 << 20
SIZE = 32 * MIB
GOOD, CHECK_CONDITION = 0x00, 0x02


@pytest.fixture(params=["memory/reconfig;create=yes", "file/tmp/reconfig.img;create=yes"], ids=["memory", "file"])
def dev_config(request: pytest.FixtureRequest) -> Iterator[str]:
    """The dev_config of a disk that is made when it is opened."""
    yield str(request.param)
    for made in ("/dev/shm/txtcmu-reconfig", "/tmp/reconfig.img"):
        Path(made).unlink(missing_ok=True)


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """A daemon for both."""
    daemon = Daemon(guest_logs, "memory", "file")
    daemon.start()
    daemon.wait_ready()
    yield daemon
    daemon.stop()


def backstore() -> Backstore:
    found = find("reconfig")
    assert found is not None
    return found


def blocks_seen(path: str) -> int:
    """Return how many bytes the initiator thinks there are, once it has looked again."""
    (block_device(path) / "device" / "rescan").write_text("1")
    return int((block_device(path) / "size").read_text()) * 512


def read_16(offset: int) -> bytes:
    return struct.pack(">BxQIxx", 0x88, offset // 512, 8)


def under_load(path: str, change: Callable[[], None]) -> None:
    """Make a change in the middle of fio's writes; they go on, and everything verifies."""
    fio = Fio(path, 1024)
    fio.wait_for_load()
    change()
    fio.finish()


def told(text: str) -> int:
    return run("dmesg").count(text)


def test_size(daemon: Daemon, dev_config: str) -> None:
    """A disk grows and shrinks under load; its initiator is told, sees the new size, and loses nothing."""
    with disk("reconfig", dev_config, SIZE) as path:
        run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", f"seek={(SIZE // 2) >> 16}", "oflag=direct")
        before = told("Capacity data has changed")
        under_load(path, lambda: backstore().set_attribute("dev_size", 2 * SIZE))
        assert told("Capacity data has changed") == before + 1
        assert blocks_seen(path) == backstore().size == 2 * SIZE
        run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", f"seek={SIZE >> 16}", "oflag=direct")
        assert sg_io(path, read_16(2 * SIZE - 4096), 4096).data == bytes(4096)

        under_load(path, lambda: backstore().set_attribute("dev_size", SIZE))
        assert told("Capacity data has changed") == before + 2
        behind = sg_io(path, read_16(SIZE), 4096)
        assert (behind.status, behind.sense[2], behind.sense[12:14]) == (CHECK_CONDITION, 5, b"\x21\x00")
        assert blocks_seen(path) == SIZE
        run("cmp", "-n", str(256 << 10), "-i", f"0:{SIZE // 2}", "/bin/busybox", path)

        # What was cut off is gone for good.
        backstore().set_attribute("dev_size", 2 * SIZE)
        assert blocks_seen(path) == 2 * SIZE
        assert sg_io(path, read_16(SIZE), 4096).data == bytes(4096)
    # The next daemon, or the next start, finds a disk of the size that the kernel has.
    with disk("reconfig", dev_config, 2 * SIZE) as path:
        run("cmp", "-n", str(256 << 10), "-i", f"0:{SIZE // 2}", "/bin/busybox", path)


def test_refused(daemon: Daemon, dev_config: str) -> None:
    """What cannot be is refused to whoever wants it, and the kernel keeps what was."""
    with disk("reconfig", dev_config, SIZE) as path:
        for name, value in (("dev_size", SIZE + 100), ("dev_size", 0), ("dev_config", "memory/other;create=yes")):
            with pytest.raises(KernelError):
                backstore().set_attribute(name, value)
        with pytest.raises(KernelError):
            backstore().set_attribute("dev_config", f"{dev_config};colour=red")
        assert (backstore().size, backstore().dev_config) == (SIZE, dev_config)
        assert "give a multiple" in daemon.log.read_text()
        assert sg_io(path, read_16(0), 4096).status == GOOD


def test_same_again(daemon: Daemon, dev_config: str) -> None:
    """What is so already is taken, and changes nothing: the initiator is not even told."""
    with disk("reconfig", dev_config, SIZE) as path:
        backstore().set_attribute("dev_config", dev_config)
        backstore().set_attribute("dev_size", SIZE)
        backstore().set_attribute("emulate_write_cache", 1)
        assert sg_io(path, bytes(6)).status == GOOD
        assert backstore().dev_config == dev_config


def test_write_cache(daemon: Daemon, dev_config: str) -> None:
    """The write cache is switched off and on under load, and the initiator sees that."""
    with disk("reconfig", dev_config, SIZE) as path:
        [scsi_disk] = (block_device(path) / "device" / "scsi_disk").iterdir()
        assert (scsi_disk / "cache_type").read_text().strip() == "write back"
        for on, kind in ((0, "write through"), (1, "write back")):
            before = told("Mode parameters changed")
            under_load(path, lambda on=on: backstore().set_attribute("emulate_write_cache", on))  # type: ignore[misc]
            assert told("Mode parameters changed") == before + 1
            (block_device(path) / "device" / "rescan").write_text("1")
            assert (scsi_disk / "cache_type").read_text().strip() == kind


def test_options(daemon: Daemon) -> None:
    """Options that need the disk to be opened anew are changed under load, and the disk stays the one it was."""
    with disk("reconfig", "memory/reconfig;create=yes", SIZE) as path:
        serial = sg_io(path, bytes([0x12, 1, 0x80, 0, 64, 0]), 64).data
        under_load(path, lambda: backstore().set_attribute("dev_config", "memory/reconfig;create=no"))
        assert sg_io(path, bytes([0x12, 1, 0x80, 0, 64, 0]), 64).data == serial
        daemon.stop()
        daemon.start()
        assert sg_io(path, bytes([0x12, 1, 0x80, 0, 64, 0]), 64).data == serial
    Path("/dev/shm/txtcmu-reconfig").unlink()


def test_blocked_by_the_operator(daemon: Daemon) -> None:
    """While an operator blocks the device its initiator hears BUSY; nothing that was under way is lost."""
    with disk("reconfig", "memory/reconfig;create=yes", SIZE) as path:

        def block() -> None:
            for _ in range(3):
                backstore().block()
                assert backstore().blocked
                backstore().unblock()

        under_load(path, block)
    Path("/dev/shm/txtcmu-reconfig").unlink()
