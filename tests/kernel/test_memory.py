"""The daemon in the I/O path of its own host, on one that is short of memory."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, disk, run, wait_until
from tests.kernel.test_parallel import write_and_read

MIB = 1 << 20
DISK_MIB = 1536
WRITTEN = 1 << 30
CHUNK = 1 << 20
STAMP = struct.Struct("<Q")
PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE = 0x00080000, 0x00100000  # include/linux/sched.h
IO_FLUSHER = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE

# The disk outlasts no guest, and is outside of its memory: what the daemon writes has to get there through the cache.
pytestmark = pytest.mark.guest_hardware(memory=512, disk=DISK_MIB)


@contextmanager
def serving(daemon: Daemon) -> Iterator[Daemon]:
    daemon.start()
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        daemon.stop()


@contextmanager
def mounted(path: str, directory: Path) -> Iterator[Path]:
    directory.mkdir()
    run("mount", path, directory)
    try:
        yield directory
    finally:
        run("umount", directory)


def flags_of_threads(pid: int) -> list[int]:
    """Return the flags of each thread; see proc_pid_stat(5)."""
    tasks = Path(f"/proc/{pid}/task")
    return [int((task / "stat").read_text().rpartition(") ")[2].split()[6]) for task in tasks.iterdir()]


def test_threads(guest_logs: Path, tmp_path: Path) -> None:
    """Each thread of the daemon, those of its backstores included, is marked; the kernel would kill it last."""
    with serving(Daemon(guest_logs, "file")) as daemon:
        with disk("threads", f"file{tmp_path}/disk.img;create=yes", MIB) as path:
            write_and_read(path)
            run("dd", "if=/dev/zero", f"of={path}", "bs=64k", "count=8", "conv=fsync")
            flags = flags_of_threads(daemon.pid)
        assert len(flags) > 2
        assert [each & IO_FLUSHER for each in flags] == [IO_FLUSHER] * len(flags)
        assert Path(f"/proc/{daemon.pid}/oom_score_adj").read_text().strip() == "-999"
        assert [line for line in daemon.log.read_text().splitlines() if "#warn" in line] == []


def test_without_the_privilege(guest_logs: Path) -> None:
    """A daemon without CAP_SYS_RESOURCE says what it does without, and serves."""
    prefix = ("setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource")
    with serving(Daemon(guest_logs, "memory", prefix=prefix)) as daemon:
        with disk("modest", "memory/modest;create=yes", MIB) as path:
            write_and_read(path)
        warnings = [line for line in daemon.log.read_text().splitlines() if "#warn" in line]
        assert len(warnings) == 2, warnings
        assert "CAP_SYS_RESOURCE" in warnings[0]
        assert "OOMScoreAdjust" in warnings[1]


def test_log_on_its_own_disk(guest_logs: Path, tmp_path: Path) -> None:
    """A daemon that is to log to a file on a disk of its own does not, and the kernel's log says so."""
    former, daemon = Daemon(guest_logs / "former", "file"), Daemon(guest_logs, "file")
    former.start()
    try:
        with disk("log", f"file{tmp_path}/disk.img;create=yes", 16 * MIB) as path:
            run("mkfs.ext4", "-q", path)
            with mounted(path, tmp_path / "mount") as mount:
                log_file = mount / "txtcmu.log"
                log_file.write_text("what was there before\n")
                os.sync()
                former.kill()
                daemon.start(log_file)  # what opening it needs of the disk is in the cache
                told = f"nothing is logged to {log_file}: it is on {Path(path).name},"
                wait_until(lambda: told in run("dmesg"), "the kernel's log tells")
                run("dd", "if=/bin/busybox", f"of={mount / 'other'}", "bs=64k", "count=4", "conv=fsync")
                assert log_file.read_text() == "what was there before\n"
    finally:
        daemon.stop()
        former.stop()


def chunk_at(position: int, noise: bytes) -> bytearray:
    """Return the CHUNK that belongs to a position: each of its blocks knows where it should be."""
    chunk = bytearray(noise)
    for offset in range(0, CHUNK, 4096):
        STAMP.pack_into(chunk, offset, position + offset)
    return chunk


@pytest.mark.guest_timeout(600)
def test_more_than_memory(guest_logs: Path, tmp_path: Path) -> None:
    """1 GiB goes through ext4 on a disk of ours, on a host of 512 MiB, and back; nothing hangs, nothing is lost."""
    noise = random.Random(512).randbytes(CHUNK)
    with serving(Daemon(guest_logs, "file")) as daemon:
        with disk("large", "file/dev/vda", DISK_MIB * MIB) as path:
            run("mkfs.ext4", "-q", path)
            with mounted(path, tmp_path / "mount") as mount:
                with (mount / "file").open("wb", buffering=0) as file:
                    for position in range(0, WRITTEN, CHUNK):
                        assert file.write(chunk_at(position, noise)) == CHUNK
                    os.fsync(file.fileno())
                Path("/proc/sys/vm/drop_caches").write_text("3")
                with (mount / "file").open("rb", buffering=0) as file:
                    for position in range(0, WRITTEN, CHUNK):
                        assert file.read(CHUNK) == chunk_at(position, noise), f"at {position}"
            run("e2fsck", "-fn", path)
        assert "#error" not in daemon.log.read_text()
        memory = dict(line.split(":") for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines())
        assert int(memory["RssAnon"].split()[0]) < 128 << 10
