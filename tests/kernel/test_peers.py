"""Several daemons on one host: two of ours with different subtypes, and Debian's tcmu-runner beside ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Fio, disk, run, wait_until
from tests.kernel.test_parallel import make, write_and_read
from txtcmu.errors import KernelError
from txtcmu.kernel import fabric, sysfs
from txtcmu.kernel.configfs import Backstore, backstores

MIB = 1 << 20
DEVICES = 20
FIO_BLOCKS = 1024
PATIENCE = 200.0
PARAMETERS = Path("/sys/module/target_core_user/parameters")
# `txtcmu` for each line of its input, four at a time: what takes the guest long, the imports, is done once.
COMMANDS = """
import os, sys
import txtcmu.backstores.memory, txtcmu.cli.create, txtcmu.cli.rm, twisted.internet.epollreactor
from txtcmu.cli import main
lines = sys.stdin.read().splitlines()
statuses = []
for number, line in enumerate(lines):
    if number >= 4:
        statuses.append(os.wait()[1])
    if not os.fork():
        main(line.split())
while len(statuses) < len(lines):
    statuses.append(os.wait()[1])
sys.exit(any(statuses))
"""


def txtcmu(*lines: str) -> tuple[list[str], str]:
    """Run `txtcmu LINE` for each line; return what they print, and their standard error."""
    done = subprocess.run(
        ["python", "-c", COMMANDS], input="\n".join(lines), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


class TcmuRunner:
    """Debian's tcmu-runner, installed in this guest."""

    def __init__(self, logs: Path) -> None:
        shutil.copytree(os.environ["TXTCMU_TCMU_RUNNER"], "/", dirs_exist_ok=True)
        self._logs = logs / "tcmu-runner"
        self._logs.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._logs / "output").open("ab") as output:
            command = ["tcmu-runner", "--tcmu-log-dir", str(self._logs)]
            self._process = process = subprocess.Popen(command, stdout=output, stderr=output)

        def hears() -> bool:
            assert process.poll() is None, (self._logs / "output").read_text()
            members = [row.split() for row in Path("/proc/net/netlink").read_text().splitlines()[1:]]
            # libnl's port numbers have the process's in their low bits.
            heard = any(int(row[2]) & 0x3FFFFF == process.pid and int(row[3], 16) for row in members)
            return heard and (PARAMETERS / "block_netlink").read_text().strip() == "unblocked"

        wait_until(hears, "tcmu-runner listens")

    def stop(self) -> None:
        """SIGTERM, as its service's stop."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            assert process.wait(60) == 0


@pytest.fixture
def runner(guest_logs: Path) -> Iterator[TcmuRunner]:
    """tcmu-runner, not started yet; whatever becomes of it, netlink is as it was."""
    runner = TcmuRunner(guest_logs)
    yield runner
    runner.stop()
    (PARAMETERS / "block_netlink").write_text("0")


def test_two_daemons(guest_logs: Path) -> None:
    """Two daemons with different subtypes: each can die and come back while the other's disk is under load."""
    first, second = Daemon(guest_logs / "first", "memory"), Daemon(guest_logs / "second", "file")
    first.start()
    second.start()
    try:
        first.wait_ready()
        second.wait_ready()
        with (
            disk("ours", "memory/ours;create=yes", 16 * MIB) as ours,
            disk("theirs", "file/tmp/theirs.img;create=yes", 16 * MIB) as theirs,
        ):
            for dying, hers, other in ((first, ours, theirs), (second, theirs, ours)):
                loads = [Fio(hers, FIO_BLOCKS), Fio(other, FIO_BLOCKS)]
                for load in loads:
                    load.wait_for_load()
                dying.kill()
                # The other's disk goes on: it has no more to write, or reads.
                before = loads[1].written
                wait_until(lambda: loads[1].ended or loads[1].written > before, "the other serves on")  # noqa: B023
                dying.start()
                for load in loads:
                    load.finish()
        for daemon, name, stranger in ((first, "ours", "theirs"), (second, "theirs", "ours")):
            log = daemon.log.read_text()
            assert f"{name} (" in log
            assert stranger not in log
    finally:
        second.stop()
        first.stop()


@pytest.mark.guest_timeout(600)
@pytest.mark.host_service("tcmu-runner")
def test_tcmu_runner(guest_logs: Path, runner: TcmuRunner) -> None:
    """tcmu-runner, which answers for everybody's devices and has the kernel wait for that, and txtcmu get along.

    Both make and remove 20 devices at the same time, all of which work; each is started again while the other serves.
    """
    daemon = Daemon(guest_logs / "daemon", "memory")
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        daemon.start()
        runner.start()
        threads = stack.enter_context(ThreadPoolExecutor(DEVICES + 1))
        daemon.wait_ready()

        def make_theirs(number: int) -> tuple[Backstore, fabric.LUN, str]:
            image = Path(f"/tmp/theirs{number}.img")
            image.write_bytes(b"")
            os.truncate(image, MIB)
            made = Backstore.create(
                f"theirs{number}",
                {"dev_config": f"qcow/{image}", "dev_size": MIB, "max_data_area_mb": 8, "cmd_ring_size_mb": 1},
            )
            made.enable()
            assert made.attribute("nl_reply_supported") == "1"
            return made, *fabric.export_loopback(made)

        size = 16 * MIB
        ours = threads.submit(
            txtcmu, *(f"create memory/ours{n};create=yes --size={size} --name=ours{n}" for n in range(DEVICES))
        )
        theirs = list(threads.map(make_theirs, range(DEVICES)))
        our_disks, said = ours.result(PATIENCE)
        their_disks = [path for _, _, path in theirs]
        assert said.count("tcmu-runner") == DEVICES, said
        assert len({*our_disks, *their_disks}) == 2 * DEVICES
        list(threads.map(write_and_read, [*our_disks, *their_disks]))

        load = Fio(our_disks[0], FIO_BLOCKS)
        load.wait_for_load()
        runner.stop()
        runner.start()
        load.finish()
        list(threads.map(write_and_read, their_disks))
        load = Fio(their_disks[0], MIB // 4096)
        daemon.kill()
        load.finish()
        daemon.start()
        list(threads.map(write_and_read, our_disks))

        removing = threads.submit(txtcmu, *(f"rm {path}" for path in our_disks))
        list(threads.map(lambda each: fabric.unexport(each[1], each[0].configfs), theirs))
        list(threads.map(lambda each: each[0].remove(), theirs))
        removing.result(PATIENCE)
        assert backstores() == []
        assert sysfs.discover() == []


@pytest.mark.host_service("tcmu-runner")
def test_tcmu_runner_gives_everybody_up(guest_logs: Path, runner: TcmuRunner) -> None:
    """Who waits for our daemon when tcmu-runner starts is told to try again, and can; nothing is left behind."""
    daemon = Daemon(guest_logs / "daemon", "memory")
    daemon.start()
    daemon.wait_ready()
    daemon.kill()
    command = ["txtcmu", "create", "memory/given-up;create=yes", "--size=1M"]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "given-up" in [each.name for each in sysfs.discover()], "the device is announced")
    runner.start()
    output, said = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, output) == (1, "")
    assert "netlink" in said.splitlines()[-1]  # reset while it waited, or blocked just before it would have
    assert backstores() == []
    daemon.start()
    try:
        path = run(*command).split()[-1]
        write_and_read(path)
        run("txtcmu", "rm", path)
    finally:
        daemon.stop()
    refused = make("refused")
    with pytest.raises(KernelError, match="another TCMU daemon refused it"):
        refused.enable()
    refused.remove()
