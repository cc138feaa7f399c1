"""The suite that the fake kernel passes on the host, on the real one."""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.kernel.ringsuite import Bench, BrokenRingSuite, RingSuite, Sent
from tests.kernel.sgio import Outcome, sg_io
from txtcmu.errors import KernelError
from txtcmu.kernel import fabric, sysfs
from txtcmu.kernel.configfs import Backstore
from txtcmu.kernel.ring import Command, Ring
from txtcmu.kernel.uio import UIO, UIOFile

PATIENCE = 30.0
_numbers = itertools.count()
# Of a processor device (type 3), to which no driver but sg binds: nobody sends anything behind our back.
INQUIRY = bytes([3, 0, 2, 2, 31, 0, 0, 2]) + b"TXTCMU  SHARED SUITE    0001"


def _sleeps_in_ioctl(task: Path) -> bool:
    """Tell what a thread is doing, as proc(5) has it: ioctl is system call 16."""
    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    return state in "SD" and (task / "syscall").read_text().startswith("16 ")


class SGCommand:
    """A command on its way through SG_IO, in a thread."""

    def __init__(self, future: Future[Outcome]) -> None:
        self.future = future

    @property
    def done(self) -> bool:
        return self.future.done()

    @property
    def _outcome(self) -> Outcome:
        return self.future.result(0)

    @property
    def status(self) -> int:
        return self._outcome.status

    @property
    def sense(self) -> bytes:
        return self._outcome.sense

    @property
    def sense_code(self) -> tuple[int, int, int] | None:
        sense = self.sense
        return (sense[2] & 0xF, sense[12], sense[13]) if len(sense) > 13 else None

    @property
    def data(self) -> bytes:
        return self._outcome.data

    @property
    def residual(self) -> int:
        return self._outcome.residual


class RealBench(Bench):
    """A user backstore behind a loopback LUN, with ``/dev/sgN`` for an initiator."""

    def __init__(
        self, pool: ThreadPoolExecutor, data_area_mb: int = 8, cmd_time_out: int | None = None, quick: bool = False
    ) -> None:
        self._pool = pool
        control: dict[str, str | int] = {"dev_size": 1 << 20, "dev_config": "suite/x", "nl_reply_supported": -1}
        control |= {"cmd_ring_size_mb": 1, "max_data_area_mb": data_area_mb}
        self._backstore = Backstore.create(f"suite{next(_numbers)}", control)
        self._lun: fabric.LUN | None = None
        self._sent: list[Future[Outcome]] = []
        self._backstore.set_attribute("cmd_time_out", 0 if cmd_time_out is None else cmd_time_out)
        self._backstore.set_attribute("tmr_notification", 1)
        self._backstore.enable()
        [self._device] = [each for each in sysfs.discover() if each.name == self._backstore.name]
        self.uio = self.open()
        self.ring = Ring(self.memory)
        self._disk = self._export()
        self.reset(1)  # as if there had been no INQUIRY

    def _export(self) -> str:
        tree = self._backstore.configfs
        target = f"naa.5001405{os.getpid() & 0xFFFF:04x}{next(_numbers):05x}"
        tpgt = tree.target / "loopback" / target / "tpgt_1"
        lun = self._lun = fabric.LUN("loopback", target, tpgt / "lun" / "lun_0")
        tree.mkdirs(tpgt)
        tree.mkdir(lun.path)
        tree.write(tpgt / "nexus", target[:-1] + "f")
        with self._answering():
            tree.link(lun.path / self._backstore.name, self._backstore.path)
        address = (tpgt / "address").read_text().strip()
        [generic] = Path(f"/sys/bus/scsi/devices/{address}:0/scsi_generic").iterdir()
        return f"/dev/{generic.name}"

    def _answering(self) -> Any:
        return _Answering(self)

    def send(self, cdb: bytes, data_out: bytes = b"", data_in_length: int = 0, seconds: float = 60) -> Sent:
        thread: SimpleQueue[int] = SimpleQueue()

        def command() -> Any:
            thread.put(threading.get_native_id())
            return sg_io(self._disk, cdb, data_in_length, seconds, data_out)

        sent = self._pool.submit(command)
        self._sent.append(sent)
        task = Path(f"/proc/self/task/{thread.get()}")
        # The order of commands is that of the calls: this one is with the kernel when its thread sleeps in there.
        self.until(lambda: sent.done() or _sleeps_in_ioctl(task), "the command is sent")
        return SGCommand(sent)

    def abort(self, sent: Sent) -> None:
        """Do nothing: the kernel aborts it when its time is over."""

    def again(self, sent: Sent, status: int = 0x08) -> Sent:
        """Do nothing: the kernel's own initiator sends it again."""
        return sent

    def until(self, condition: Callable[[], object], what: str, seconds: float = 0) -> None:
        deadline = time.monotonic() + PATIENCE + seconds
        while not condition():
            assert time.monotonic() < deadline, what
            select.select([], [], [], 0.005)

    def write(self, name: str, value: int) -> None:
        kind = "attrib" if name == "qfull_time_out" else "action"
        with open(self._backstore.path / kind / name, "wb", buffering=0) as file:
            file.write(str(value).encode())

    def doorbell(self, *, wrong: bool = False) -> None:
        self.uio.doorbell()

    def open(self) -> UIO:
        try:
            return UIOFile(self._device.node, self._device.map_size)
        except KernelError as error:
            raise error.__cause__ or error from None

    def remove(self) -> None:
        if self._lun is not None:
            fabric.unexport(self._lun, self._backstore.configfs)
            self._lun = None
        self._backstore.remove()

    def close(self) -> None:
        """Answer what is outstanding, and remove everything."""
        if self._backstore.exists:
            with self._answering():
                self.until(lambda: all(future.done() for future in self._sent), "the end of all commands")
            self.remove()
        self.ring.close()
        self.uio.close()


class _Answering:
    """A thread that answers what is in a bench's ring, and what comes."""

    def __init__(self, bench: RealBench) -> None:
        self._bench = bench
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        bench = self._bench
        for command in list(bench.ring.outstanding.values()):
            bench.ring.complete(command, 0x40)
        while True:
            entry = bench.ring.take()
            if isinstance(entry, Command):
                data = INQUIRY if entry.cdb[0] == 0x12 else b""
                for buffer in entry.buffers:
                    buffer[:] = data[: len(buffer)].ljust(len(buffer), b"\0")
                    data = b""
                bench.ring.complete(entry, 0)
            elif entry is None:
                if bench.ring.publish():
                    bench.uio.doorbell()
                elif self._over.is_set():
                    return
                select.select([], [], [], 0.002)


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    """Make devices that are gone afterwards."""
    benches: list[RealBench] = []
    with ThreadPoolExecutor(64) as pool:

        def make(**options: Any) -> Bench:
            benches.append(RealBench(pool, **options))
            return benches[-1]

        yield make
        for bench in benches:
            bench.close()


class TestReal(RingSuite):
    """On a healthy ring."""


@pytest.mark.kernel_log("ring is broken")
class TestRealBroken(BrokenRingSuite):
    """On one that we break."""
