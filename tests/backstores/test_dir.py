"""Handler ``dir`` as a whole: the contract, and a real process that is killed while it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.backstores.dirload import BLOCK, BLOCKS, OPTIONS, target
from txtcmu.backstores import volumes
from txtcmu.backstores.dir import DirFactory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.interfaces import IDiscard, IResizable, IVectoredBackstore, IWriteZeroes
from txtcmu.objectstore.directory import connect
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.reactor import FakeReactor
from txtcmu.volume.fsck import check_volume

ROOT = Path(__file__).parents[2]


class DirContractTests(BackstoreContract, TestCase):
    companions = frozenset({IVectoredBackstore, IDiscard, IWriteZeroes, IResizable})
    rounds = 40

    def setUp(self) -> None:
        """Have a directory."""
        self.folder = Path(self.mktemp()).absolute()
        self.addCleanup(volumes._open.clear)

    def parameters(self, size: int) -> DeviceParameters:
        """Return what the service would pass."""
        from twisted.internet import reactor

        config = DeviceConfig("dir", str(self.folder)[1:], {"batch": "256K", "cache": "256K"})
        return DeviceParameters(config, size, 512, reactor, Logger())

    async def make_backstore(self, size: int) -> Any:
        await DirFactory().create(self.parameters(size))
        return await DirFactory().open(self.parameters(size))

    async def reopen(self, backstore: Any) -> Any:
        await backstore.close()
        return await DirFactory().open(self.parameters(backstore.size))

    async def crash(self, backstore: Any) -> Any:
        backstore.abandon()
        volumes._open.clear()
        return await DirFactory().open(self.parameters(backstore.size))


class KillTests(SynchronousTestCase):
    def test_killed(self) -> None:
        """After each SIGKILL the disk is what the first so many writes made it, all that were flushed included."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        random = Random(4)
        written = 0
        for _ in range(4):
            flushed = self.kill(folder, written + 1, random.randrange(1, 40))
            image = self.read(folder)
            stamps = [int.from_bytes(image[at : at + 8], "big") for at in range(0, len(image), BLOCK)]
            written = max(stamps)
            self.assertGreaterEqual(written, flushed)
            expected = bytearray(len(image))
            for number in range(1, written + 1):
                block, data = target(number)
                expected[block * BLOCK : (block + 1) * BLOCK] = data
            self.assertEqual(bytes(expected), image)

    def kill(self, folder: Path, first: int, flushes: int) -> int:
        """Let a process write, and kill it after so many flushes; return the last write that it said was flushed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.backstores.dirload", str(folder)[1:], str(first)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process:
            try:
                lines = [process.stdout.readline() for _ in range(flushes)]
            finally:
                process.kill()
            lines += process.stdout.readlines()
        complete = [int(line) for line in lines if line.endswith(b"\n")]
        self.assertGreaterEqual(len(complete), flushes)
        return complete[-1]

    def read(self, folder: Path) -> bytes:
        """Return the whole disk, which is whole, and close it."""
        reactor = FakeReactor()
        config = DeviceConfig("dir", str(folder)[1:], OPTIONS)
        parameters = DeviceParameters(config, BLOCKS * BLOCK, 512, reactor, Logger())

        async def read() -> tuple[list[str], bytes]:
            store = await connect(reactor, str(folder))
            report = await check_volume(store, "", reactor, data=True, progress=lambda *_: None)
            await store.close()
            disk = await DirFactory().open(parameters)
            image = bytes(await Deferred.fromCoroutine(_result(disk.read(0, disk.size))))
            await disk.close()
            return report.problems, image

        problems, image = self.successResultOf(Deferred.fromCoroutine(read()))
        self.assertEqual(problems, [])
        return image


async def _result(result: Any) -> Any:
    return await result if isinstance(result, Deferred) else result
