"""What every other test in the guest takes for granted."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HUNG_TASKS = {"hung_task_timeout_secs": 60, "hung_task_warnings": -1}


def test_modules_are_loaded() -> None:
    loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    assert {"target_core_user", "tcm_loop", "iscsi_target_mod", "uio", "sd_mod"} <= loaded


def test_configfs_is_mounted() -> None:
    assert Path("/sys/kernel/config/target/core").is_dir()


def test_uio_class_is_present() -> None:
    assert Path("/sys/class/uio").is_dir()


def test_modules_can_be_loaded_by_name() -> None:
    subprocess.run(["modprobe", "dm_mod"], check=True)
    assert Path("/sys/module/dm_mod").is_dir()


def test_tools_are_there() -> None:
    assert [tool for tool in ("fio", "losetup", "mkfs.ext4", "modprobe", "mount") if shutil.which(tool) is None] == []


def test_hung_tasks_are_told_of() -> None:
    """A task that waits uninterruptibly for a minute gets its line in the kernel's log, each time."""
    settings = {name: int(Path("/proc/sys/kernel", name).read_text()) for name in HUNG_TASKS}
    assert settings == HUNG_TASKS


def test_network_is_up() -> None:
    assert Path("/sys/class/net/lo/operstate").read_text().strip() in ("unknown", "up")
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    assert ("eth0", "00000000") in [(interface, destination) for interface, destination, *_ in routes]


def test_hosts_files_are_out_of_reach() -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert [(kind, target) for _, target, kind, *_ in mounts if target == "/"] == [("overlay", "/")]


@pytest.mark.kernel_log("BUG: declared by a test", "of a declared trace")
def test_declared_lines_are_no_failure() -> None:
    with open("/dev/kmsg", "w") as log:
        log.write("BUG: declared by a test\n")
        log.flush()
        log.write("Call Trace of a declared trace\n")


@pytest.mark.xfail(strict=True, reason="an undeclared line fails a test: this one has to fail")
def test_undeclared_lines_are_a_failure() -> None:
    with open("/dev/kmsg", "w") as log:
        log.write("BUG: undeclared, on purpose\n")


def test_vectors() -> None:
    """What the guest's processor computes is right: numpy sorts, with whatever instructions it finds there."""
    random = np.random.default_rng(1)
    for _ in range(500):
        numbers = random.integers(0, 1 << 40, int(random.integers(1, 300))).astype(np.uint64)
        order = np.argsort(numbers)
        assert (np.diff(numbers[order].astype(np.int64)) >= 0).all()
        assert sorted(order.tolist()) == list(range(len(numbers)))
