"""Handler ``dir`` as a whole: the contract, and a real process that is killed while it writes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.backstores.dirload import BLOCK, BLOCKS, OPTIONS, target
from txtcmu.backstores import volumes
from txtcmu.backstores.dir import DirFactory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import FencedError
from txtcmu.interfaces import IDiscard, IResizable, IVectoredBackstore, IWriteZeroes
from txtcmu.lun.device import State
from txtcmu.objectstore import objectfiles
from txtcmu.objectstore.directory import connect
from txtcmu.objectstore.objectfiles import SystemCalls
from txtcmu.objectstore.objects import StoreBroken
from txtcmu.results import as_deferred
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import Rig
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


class FailingDirectories(SystemCalls):
    """A disk that cannot write directories, while ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        fsync = self.fsync

        def failing(fd: Any) -> None:
            if self.broken and os.path.isdir(f"/proc/self/fd/{fd}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(fd)

        self.fsync = failing


class BrokenTests(TestCase):
    """A directory whose fsync failed: nobody knows what of the latest changes is durable."""

    async def test_flushes_fail_until_it_is_opened_anew(self) -> None:
        """Nothing hangs; every write and flush fails at once, even if the disk beneath is well again."""
        system = FailingDirectories()
        self.patch(objectfiles, "SystemCalls", lambda: system)
        config = DeviceConfig("dir", str(Path(self.mktemp()).absolute())[1:], {"batch": "256K"})
        parameters = DeviceParameters(config, 1 << 20, 512, reactor, Logger())
        self.addCleanup(volumes._open.clear)
        await DirFactory().create(parameters)
        disk = await DirFactory().open(parameters)
        disk.write(0, memoryview(b"a" * BLOCK))
        await disk.flush()
        system.broken = True
        disk.write(BLOCK, memoryview(b"b" * BLOCK))
        await self.refused(disk.flush)
        self.assertEqual(len(self.flushLoggedErrors(StoreBroken)), 1)
        system.broken = False
        await self.refused(disk.flush)
        await self.refused(lambda: disk.write(2 * BLOCK, memoryview(b"c" * BLOCK)))
        await disk.close()
        disk = await DirFactory().open(parameters)
        found = bytes(await as_deferred(disk.read(0, 3 * BLOCK)))
        self.assertIn(found, (b"a" * BLOCK + second * BLOCK + bytes(BLOCK) for second in (b"b", b"\0")))
        disk.write(BLOCK, memoryview(b"d" * BLOCK))
        await disk.flush()
        await disk.close()

    async def refused(self, action: Callable[[], Any]) -> None:
        """Assert that an action fails, and waits for a person."""
        with self.assertRaises(FencedError) as caught:
            await as_deferred(action())
        self.assertIn("fsync of a directory failed", str(caught.exception))


class KillTests(SynchronousTestCase):
    def test_killed(self) -> None:
        """After each SIGKILL the disk is what the first so many writes made it, all that were flushed included.

        And if the next daemon serves those who still use it, all that were acknowledged.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        random = Random(4)
        written = 0
        for lines in range(1, 6):
            acknowledged, flushed = self.kill(folder, lines + 8 * random.randrange(1, 40), written + 1)
            served = self.serves(folder)
            image = self.read(folder)
            stamps = [int.from_bytes(image[at : at + 8], "big") for at in range(0, len(image), BLOCK)]
            written = max(stamps)
            self.assertGreaterEqual(written, acknowledged if served else flushed)
            expected = bytearray(len(image))
            for number in range(1, written + 1):
                block, data = target(number)
                expected[block * BLOCK : (block + 1) * BLOCK] = data
            self.assertEqual(bytes(expected), image)

    def test_killed_at_rest(self) -> None:
        """If there was nothing to be lost the next daemon serves those who still use the disk; else it does not."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for first, last, flushed in ((1, 14, 14), (15, 24, 21), (25, 28, 28)):
            self.assertEqual(self.kill(folder, last - first + 1 + last // 7 - first // 7, first, last), (last, flushed))
            self.assertEqual(self.serves(folder), last == flushed)
            self.read(folder)

    def kill(self, folder: Path, wanted: int, first: int, last: int = 1 << 40) -> tuple[int, int]:
        """Let a process write, and kill it after so many lines; return the last write acknowledged, and flushed."""
        where = (str(folder)[1:], str(volumes.MARKS))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.backstores.dirload", *where, str(first), str(last)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process:
            try:
                lines = [process.stdout.readline() for _ in range(wanted)]
            finally:
                process.kill()
            lines += process.stdout.readlines()
        complete = [line.split() for line in lines if line.endswith(b"\n")]
        self.assertGreaterEqual(len(complete), wanted)
        told = {kind: int(number) for kind, number in complete}
        return told[b"w"], told[b"f"]

    def serves(self, folder: Path) -> bool:
        """Return whether a new daemon serves the LUN that was left; if it does, kill it."""
        config = DeviceConfig("dir", str(folder)[1:], OPTIONS)
        rig = Rig(None, size=BLOCKS * BLOCK, factory=DirFactory(), config=config, start=False)
        rig.target.enabled()
        rig.device.open()
        rig.settle()
        served = rig.device.state is State.SERVING
        if served:
            rig.device.medium.backstore.abandon()
            volumes._open.clear()
        else:
            self.assertIs(rig.device.state, State.FENCED)
        return served

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
