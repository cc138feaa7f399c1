"""The engines: how each is started on a disk, what it takes until all that was written is in the store, and its end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.s3.ringfront import SharedRing
from benchmarks.s3.rows import DISK, ROWS, WINDOW, Row, Scale
from benchmarks.s3.store import ROOT, Store, on_processor
from tools.servers.nbdkit import Nbdkit
from tools.servers.process import ServerError, ServerProcess, die_with_parent
from tools.servers.s3backer import S3Backer

__all__ = ["ENGINES", "Engine"]

_DEBIAN_PYTHON: Final = "/usr/bin/python3"  # libnbd's binding is a Debian package
_START: Final = 60.0


class _Load:
    """A running :mod:`benchmarks.s3.load`."""

    def __init__(self, python: str, options: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.s3.load", json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
            preexec_fn=die_with_parent,
        )

    def figures(self) -> dict[str, Any]:
        """Wait for what it has measured."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"the load ended with status {self._process.wait()}")
        figures: dict[str, Any] = json.loads(line)
        return figures

    def finish(self) -> None:
        """Have it go on to its end, and wait for that."""
        self._process.communicate("\n")
        if self._process.returncode:
            raise ServerError(f"the load ended with status {self._process.returncode}")


class Engine:
    """An engine on one store.

    :param directory: an empty one.
    :param processor: for it and the generator.
    :cvar rows: the names of those that it is measured in.
    """

    name: str
    rows: tuple[str, ...]

    def __init__(self, store: Store, directory: Path, processor: int, scale: Scale) -> None:
        self._store = store
        self._directory = directory
        self._processor = processor
        self._scale = scale
        self._written: dict[str, int] = {}
        directory.mkdir()

    def measure(self, row: Row) -> dict[str, Any]:
        """Carry out a row.

        :return: ``operations``, ``seconds``, ``latency`` (the median, in seconds), ``requests`` by method, ``bytes``
            sent to the store, ``bytes_written`` by the user, ``lost`` blocks of those that were flushed.
        """
        load = row.load(self._scale, self._scale.whole or self.name == "txtcmu")
        if row.reads:
            load["among"] = self._written[row.reads]
        with on_processor(self._processor):
            figures, requests = self._measure(row, load)
        if not row.reads:
            self._written[row.name] = figures["operations"]
            figures["bytes_written"] = figures["operations"] * row.unit
        if figures["wrong"]:
            raise ServerError(f"{self.name}, row {row.name}: {figures['wrong']} reads found what nobody wrote")
        figures["bytes"] = requests.pop("bytes", 0)
        return {**figures, "requests": requests}

    def _measure(self, row: Row, load: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
        raise NotImplementedError


class Txtcmu(Engine):
    """A volume of handler ``s3`` with the handler's defaults; it is killed after each row that writes."""

    name = "txtcmu"
    rows = tuple(ROWS)

    def _measure(self, row: Row, load: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
        lun, ring = self._open(row, row.depth, row.unit)
        before = self._store.counts()
        expected = self._directory / "expected"
        load |= {"front": {"kind": "ring", "ring": ring.options}, "kill": lun.pid, "expected": str(expected)}
        if row.reads:
            del load["kill"]
        running = _Load(sys.executable, load, ring.descriptors)
        figures = running.figures()
        requests = self._store.counts() - before
        running.finish()
        self._kill(lun, ring)
        if not row.reads:
            figures |= self._verify(row, expected)
        return figures, requests

    def _open(self, row: Row, depth: int, unit: int) -> tuple[ServerProcess, SharedRing]:
        home = self._directory / "home"
        home.mkdir()
        ring = SharedRing.make(depth, unit)
        options = {
            "ring": ring.options,
            "size": DISK,
            "longest": WINDOW,
            "path": f"{self._store.bucket}/txtcmu/{row.disk}",
            "store": self._store.options,
        }
        lun = ServerProcess(
            [sys.executable, "-m", "benchmarks.s3.lun", json.dumps(options)],
            self._directory / "lun.log",
            ROOT,
            {"HOME": str(home)},
            ring.descriptors,
        )
        lun.wait_until(lambda: "serving" in lun.log.read_text(), _START)
        return lun, ring

    def _kill(self, lun: ServerProcess, ring: SharedRing) -> None:
        """End it as a crash does, on a machine that is lost: nothing that it may have kept survives."""
        lun.kill()
        ring.close()
        shutil.rmtree(self._directory / "home")

    def _verify(self, row: Row, expected: Path) -> dict[str, Any]:
        lun, ring = self._open(row, 1, WINDOW)
        options = {
            "front": {"kind": "ring", "ring": ring.options},
            "depth": 1,
            "window": WINDOW,
            "per_unit": row.unit // 4096,
            "expected": str(expected),
            "seed": self._scale.seed,
        }
        began = time.monotonic()
        running = _Load(sys.executable, options, ring.descriptors)
        found = running.figures()
        running.finish()
        self._kill(lun, ring)
        return {"lost": found["lost"], "verified": found["blocks"], "verify_seconds": time.monotonic() - began}


class NbdkitS3(Engine):
    """nbdkit's S3 plugin: an object for each block; what is acknowledged is in the store."""

    name = "nbdkit"
    rows = ("rw", "rr", "sw", "sr")

    def _measure(self, row: Row, load: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
        directory, objects = self._directory / row.name, 4 << 10 if row.random else 64 << 10
        with Nbdkit(self._store, directory, f"nbdkit/{row.disk}", DISK, objects) as server:
            before = self._store.counts()
            running = _Load(_DEBIAN_PYTHON, {**load, "front": {"kind": "nbd", "path": str(server.socket)}})
            figures = running.figures()
            running.finish()
            return figures, self._store.counts() - before


class S3backer(Engine):
    """s3backer: an object for each block, behind a cache that a sync does not reach; the time to drain it counts."""

    name = "s3backer"
    rows = ("rw", "flushw", "sw", "sr")

    def _measure(self, row: Row, load: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
        options = [f"--size={DISK}", "--blockSize=4096"]
        if not row.random:
            # As much memory as a volume takes; the default is a GiB of such blocks.
            options = [f"--size={DISK}", "--blockSize=1M", "--blockCacheSize=64"]
        prefix = f"s3backer/{row.disk}/"
        disk = S3Backer(self._store, self._directory / row.name, prefix, *options, sync=row.flushes)
        try:
            before = self._store.counts()
            running = _Load(sys.executable, {**load, "front": {"kind": "file", "path": str(disk.file)}})
            figures = running.figures()
            running.finish()
        finally:
            disk.stop()
        requests = self._store.counts() - before
        if not row.reads:
            figures["seconds"] = time.monotonic() - figures["began"]
            if requests["PUT"] < figures["units"]:
                raise ServerError(f"s3backer put {requests['PUT']} blocks of {figures['units']} that were written")
        return figures, requests


ENGINES: Final[tuple[type[Engine], ...]] = (Txtcmu, S3backer, NbdkitS3)
