"""The block commands of people's tools: sg3-utils and Linux's own disk driver, on a LUN in the real kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, block_device, disk, run
from txtcmu.scsi import opcodes

SIZE = 64 << 20
BLOCKS = SIZE // 512
PATTERN = bytes(range(256)) * 2
MISCOMPARE = 14  # SG_LIB_CAT_MISCOMPARE


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``/dev/sdX`` of a disk in memory, served by a daemon."""
    daemon = Daemon(tmp_path_factory.mktemp("logs"), "memory")
    daemon.start()
    daemon.wait_ready()
    with disk("tools", "memory/tools;create=yes", SIZE) as path:
        yield path
    daemon.stop()


def read(path: str, lba: int, blocks: int) -> bytes:
    """Read from the disk, past the page cache."""
    command = ["dd", f"if={path}", "bs=1M", f"skip={lba * 512}", f"count={blocks * 512}", "status=none"]
    command += ["iflag=direct,skip_bytes,count_bytes"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def cache_type(path: str) -> Path:
    """Return where Linux's disk driver tells, and takes, the kind of write cache."""
    [found] = (block_device(path) / "device" / "scsi_disk").iterdir()
    return found / "cache_type"


def test_supported_commands(path: str) -> None:
    """sg_opcodes shows every command of the table, and the usage bitmap of whichever it is asked for."""
    listed = run("sg_opcodes", "--no-inquiry", path)
    for row in opcodes.ROWS:
        code = f"{row.operation_code:02x}"
        assert any(line.split()[:1] == [code] for line in listed.splitlines()), (row.name, listed)
    for row in (opcodes.COMPARE_AND_WRITE, opcodes.WRITE_SAME_16, opcodes.GET_LBA_STATUS_16):
        action = [] if row.service_action is None else [f"--sa={row.service_action}"]
        usage = run("sg_opcodes", "--no-inquiry", f"--opcode={row.operation_code}", *action, path)
        assert row.usage.hex(" ") in " ".join(usage.lower().split()), (row.name, usage)


def test_limits(path: str) -> None:
    """The limits that sg_vpd shows are those that Linux works with."""
    limits = run("sg_vpd", "--page=bl", path)
    assert "Maximum compare and write length: 255 blocks" in limits
    assert "Write same non-zero (WSNZ): 0" in limits
    assert "Maximum write same length: 0x10000 blocks" in limits
    provisioning = run("sg_vpd", "--page=lbpv", path)
    for bit in ("(LBPU): 1", "(LBPWS): 1", "(LBPWS10): 1"):
        assert bit in provisioning, provisioning
    assert int((block_device(path) / "queue" / "write_zeroes_max_bytes").read_text()) == 32 << 20


def test_write_same(path: str, tmp_path: Path) -> None:
    """sg_write_same fills with a pattern, gives back with UNMAP, and needs no data with NDOB."""
    pattern = tmp_path / "pattern"
    pattern.write_bytes(PATTERN)
    run("sg_write_same", "--16", f"--in={pattern}", "--lba=100", "--num=5000", path)
    assert read(path, 99, 5002) == bytes(512) + PATTERN * 5000 + bytes(512)
    run("sg_write_same", "--10", f"--in={pattern}", "--lba=6000", "--num=3", path)
    assert read(path, 6000, 4) == PATTERN * 3 + bytes(512)
    run("sg_write_same", "--16", "--unmap", "--lba=200", "--num=1000", path)
    run("sg_write_same", "--16", "--ndob", "--lba=2000", "--num=1000", path)
    there = read(path, 100, 5000)
    assert there == PATTERN * 100 + bytes(1000 * 512) + PATTERN * 800 + bytes(1000 * 512) + PATTERN * 2100


def test_write_zeroes(path: str) -> None:
    """`blkdiscard -z` has Linux write zeroes by WRITE SAME, and they are there."""
    run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=16", "seek=320", "oflag=direct")
    run("blkdiscard", "-z", "-o", str(20 << 20), "-l", str(44 << 20), path)
    assert read(path, 20 << 11, 2048) == bytes(1 << 20)


def test_compare_and_write(path: str, tmp_path: Path) -> None:
    """sg_compare_and_write replaces what is there, once; then it is told where the difference is."""
    both = tmp_path / "both"
    both.write_bytes(bytes(1024) + PATTERN * 2)
    command = ["sg_compare_and_write", f"--in={both}", "--lba=10000", "--num=2", path]
    run(*command)
    assert read(path, 10000, 2) == PATTERN * 2
    again = subprocess.run([*command, "-v"], capture_output=True, text=True, timeout=60)
    assert again.returncode == MISCOMPARE, again.stderr
    assert "Miscompare" in again.stderr
    assert read(path, 10000, 2) == PATTERN * 2


def test_verify(path: str, tmp_path: Path) -> None:
    """sg_verify checks the medium, all of it in one command, and compares with a file."""
    run("sg_verify", "--16", "--lba=0", f"--count={BLOCKS}", f"--bpc={BLOCKS}", path)
    run("sg_verify", "--lba=7", "--count=1000", path)
    data = tmp_path / "data"
    data.write_bytes(PATTERN * 8)
    run("sg_write_same", "--16", f"--in={data}", "--lba=12000", "--num=8", "--xferlen=512", path)
    compare = ["sg_verify", "--16", "--count=8", "--ndo=4096", f"--in={data}", path]
    run(*compare, "--lba=12000")
    wrong = subprocess.run([*compare, "--lba=12001"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == MISCOMPARE, wrong.stderr


def test_lba_status(path: str) -> None:
    """sg_get_lba_status is told of the whole medium in the end: some of it is mapped, and some is not."""
    run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", "seek=512", "oflag=direct")
    run("blkdiscard", "-o", str(40 << 20), "-l", str(8 << 20), path)
    at, kinds = 0, set()
    while at < BLOCKS:
        status = run("sg_get_lba_status", f"--lba={at}", "--brief", path)
        descriptors = [line.split() for line in status.splitlines() if line.startswith("0x")]
        assert descriptors, status
        for lba, blocks, provisioning, *_ in descriptors:
            assert int(lba, 16) == at, status
            kinds.add(int(provisioning))
            at += int(blocks, 16)
    assert (at, kinds) == (BLOCKS, {0, 1})


def test_write_cache(path: str) -> None:
    """sg_wr_mode switches the write cache, and so does Linux's disk driver; it sees what the tool has done."""
    assert cache_type(path).read_text() == "write back\n"
    off = ",".join(["08", "12", "00", *["00"] * 17])
    run("sg_wr_mode", "--page=8", f"--contents={off}", path)
    (block_device(path) / "device" / "rescan").write_text("1")
    assert cache_type(path).read_text() == "write through\n"
    run("dd", "if=/bin/busybox", f"of={path}", "bs=64k", "count=4", "seek=320", "oflag=direct")
    assert read(path, 20 << 11, 512) == Path("/bin/busybox").read_bytes()[: 256 << 10]
    cache_type(path).write_text("write back\n")
    assert cache_type(path).read_text() == "write back\n"
    on = run("sg_modes", "--page=8", "--hex", path)
    assert "08 12 04" in on, on


def test_logs(path: str) -> None:
    """sg_logs lists the pages there are, which are those that list pages; others are refused."""
    assert "Supported log pages and subpages" in run("sg_logs", "--page=0,0xff", path)
    refused = subprocess.run(["sg_logs", "--page=0x0d", path], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0


def test_short_forms(path: str) -> None:
    """READ and WRITE of 6 and 12 bytes move data."""
    for form in ("6", "12"):
        run("sg_dd", "if=/bin/busybox", f"of={path}", "bs=512", "count=64", "seek=9000", f"cdbsz={form}")
        run("sg_dd", f"if={path}", "of=/tmp/short", "bs=512", "count=64", "skip=9000", f"cdbsz={form}")
        assert Path("/tmp/short").read_bytes() == Path("/bin/busybox").read_bytes()[: 64 * 512]
