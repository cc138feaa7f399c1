"""`twist tcmu` in the guest, its LUNs, and fio on them: what the tests of whole disks are made of."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from txtcmu.kernel import fabric
from txtcmu.kernel.configfs import Backstore

PLUGINS = Path(__file__).parent / "plugins"
#: Starting Python takes its time here, and a daemon that was killed must be back before the kernel gives up.
CMD_TIME_OUT = 120
DISK_TIMEOUT = 180


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait for a condition, not for time; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


class Daemon:
    """One `twist tcmu`, started and stopped at will; each start writes a log of its own into ``logs``.

    ``prefix`` is a command that runs the daemon, as ``nice`` does.
    """

    def __init__(self, logs: Path, *handlers: str, options: tuple[str, ...] = (), prefix: tuple[str, ...] = ()) -> None:
        self._logs = logs
        logs.mkdir(exist_ok=True)
        self._prefix = prefix
        self._arguments = ["--config", str(configuration()), *options]
        self._arguments += [argument for handler in handlers for argument in ("--handler", handler)]
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def log(self) -> Path:
        return self._logs / f"daemon-{self._starts}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, log_file: Path | None = None) -> None:
        """Start, without waiting: whoever makes a device waits for the daemon, and so do commands in a ring.

        :param log_file: has it log there, as ``twist --log-file``; standard error goes to the usual log.
        """
        assert self._process is None
        self._starts += 1
        logging = ["--log-format", "text"] + ["--log-file", str(log_file)] * (log_file is not None)
        path = os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")])
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "twist", *logging, "tcmu", *self._arguments],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path},
            )

    def wait_ready(self) -> None:
        """Wait until events are heard: a device made now waits for the daemon's answer."""
        wait_until(lambda: "Starting reactor" in self.log.read_text(), "the daemon starts")

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL, -signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: drain, then end."""
        self._end(signal.SIGTERM, -signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT: as SIGTERM."""
        self._end(signal.SIGINT, -signal.SIGINT)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        assert self._process.poll() is None

    def _end(self, number: int, expected: int) -> None:
        assert self._process is not None, "the daemon was not started"
        process, self._process = self._process, None
        assert process.poll() is None, f"the daemon ended by itself: {self.log.read_text()[-3000:]}"
        process.send_signal(number)
        assert process.wait(90) == expected

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self.terminate()


def configuration() -> Path:
    """Return a configuration file that says where S3 is, if it is anywhere; credentials are in the environment."""
    path = Path("/tmp/txtcmu.toml")
    path.write_text(f'[handlers.s3]\nendpoint = "{os.environ.get("TXTCMU_S3_ENDPOINT", "")}"\n')
    return path


@contextmanager
def disk(
    name: str, dev_config: str, size: int, data_area_mb: int = 16, attributes: Mapping[str, int] | None = None
) -> Iterator[str]:
    """Make a loopback LUN, yield its ``/dev/sdX``, and remove it."""
    control: dict[str, str | int] = {"dev_config": dev_config, "dev_size": size, "hw_max_sectors": 2048}
    backstore = Backstore.create(name, control | {"max_data_area_mb": data_area_mb, "cmd_ring_size_mb": 1})
    try:
        for attribute, value in ({"cmd_time_out": CMD_TIME_OUT} | dict(attributes or {})).items():
            backstore.set_attribute(attribute, value)
        backstore.enable()
        lun, path = fabric.export_loopback(backstore)
        try:
            (block_device(path) / "device" / "timeout").write_text(str(DISK_TIMEOUT))
            yield path
        finally:
            fabric.unexport(lun, backstore.configfs)
    finally:
        backstore.remove()


def block_device(path: str) -> Path:
    """Return the directory in sysfs of ``/dev/sdX``."""
    return Path("/sys/block") / Path(path).name


def in_flight(path: str) -> int:
    """Return how many requests the disk has outstanding."""
    return sum(map(int, (block_device(path) / "inflight").read_text().split()))


def run(*command: str | Path, timeout: float = 240.0) -> str:
    """Run a program; its output is part of the failure if it fails."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def writes_completed(path: str) -> int:
    """Return how many write requests the disk has answered since it came."""
    return int((block_device(path) / "stat").read_text().split()[4])


class Fio:
    """fio at depth 32 on the first ``blocks`` blocks of 4 KiB of a disk: writes most of them once, then reads them all.

    Without ``verify_backlog``, which verifies early and then forgets, and without ``time_based``, which may end before
    the end: each block written is verified after the last write. Each run has a seed of its own, and blocks know it:
    what an earlier run has left in place of a lost write does not verify.
    """

    _seeds = itertools.count(1)

    def __init__(self, path: str, blocks: int) -> None:
        command = ["fio", "--name=verify", f"--filename={path}", "--direct=1", "--ioengine=libaio", "--bs=4k"]
        command += ["--rw=randrw", "--rwmixwrite=70", "--iodepth=32", f"--size={blocks * 4}k", "--verify=crc32c"]
        command += ["--verify_fatal=1", f"--randseed={next(self._seeds)}", "--output-format=json"]
        self._before = writes_completed(path)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._path = path
        self._blocks = blocks

    @property
    def written(self) -> int:
        """How many blocks were written up to now."""
        return writes_completed(self._path) - self._before

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_for_load(self, depth: int = 32) -> None:
        """Wait until as many commands are in flight, and some of the blocks are written."""

        def loaded() -> bool:
            assert self._process.poll() is None, f"fio ended early: {self._process.communicate()[0]}"
            return self.written >= self._blocks // 16 and in_flight(self._path) >= depth

        wait_until(loaded, f"{depth} commands in flight")

    def finish(self, timeout: float = 240.0) -> int:
        """Wait for the end: no error, and every block written was verified; return how many those are."""
        output, _ = self._process.communicate(timeout=timeout)
        assert self._process.returncode == 0, output
        [job] = json.loads(output[output.index("{") :])["jobs"]
        written, read = job["write"]["total_ios"], job["read"]["total_ios"]
        assert job["error"] == 0, output
        # One request for each block, and one more for each that was a write.
        assert read == self._blocks, output
        assert written > self._blocks // 2, output
        return int(written)
