"""Volumes as handlers open them: dir on a directory, s3 on the fake S3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.backstores.s3support import Bench
from txtcmu.backstores import volumes
from txtcmu.backstores.dir import DirFactory
from txtcmu.backstores.s3 import S3Factory
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, FencedError
from txtcmu.interfaces import IVolumeHandler
from txtcmu.lun.device import State
from txtcmu.results import as_deferred
from txtcmu.testing.reactor import FakeReactor
from txtcmu.testing.rig import Rig

SIZE = 1 << 20
BLOCK = 4096


def outcome(result: object) -> Any:
    """Return the result of something that needs no time."""
    results: list[Any] = []
    as_deferred(result).addBoth(results.append)
    assert results, "it waits"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    _Base = object


class HandlerTests(_Base):
    """What all handlers of volumes have in common; mixed into a test case."""

    factory: Any
    path: str

    def run_(self, result: object) -> Any:
        """Return the result of a coroutine."""
        raise NotImplementedError

    def make_factory(self) -> Any:
        """Return the handler as another daemon has it."""
        raise NotImplementedError

    reactor: Any

    def parameters(self, options: str = "", size: int | None = SIZE) -> DeviceParameters:
        """Return what the service would pass."""
        config = DeviceConfig.parse(f"{self.factory.name}/{self.path}{options}")
        return DeviceParameters(config, size, 512, self.reactor, Logger())

    def open(self, options: str = "", size: int | None = SIZE) -> Any:
        """Open the disk."""
        return self.run_(self.factory.open(self.parameters(options, size)))

    def close(self, disk: Any) -> None:
        """Close it."""
        self.run_(disk.close())

    def refused(self, pattern: str, options: str = "", size: int | None = SIZE) -> None:
        """See that the disk cannot be opened, for good."""
        with self.assertRaisesRegex(ConfigError, pattern):
            self.open(options, size)

    def another_host(self) -> Any:
        """Let openings be those of another machine while the context lasts."""
        ours = volumes.new_writer

        def theirs() -> Any:
            return evolve(ours(), machine="another", host="elsewhere")

        return mock.patch.object(volumes, "new_writer", theirs)

    def kill(self, disk: Any) -> None:
        """Let the daemon of a disk die."""
        disk.abandon()
        volumes._open.clear()

    def test_interface(self) -> None:
        """It is a handler of volumes."""
        verifyObject(IVolumeHandler, self.factory)

    def test_made_at_first_opening(self) -> None:
        """A volume that is not there is made at the size of the device; what is written is there the next time."""
        disk = self.open()
        self.assertIsInstance(disk, VolumeDisk)
        self.assertEqual(disk.size, SIZE)
        self.run_(disk.write(BLOCK, memoryview(b"data" * 1024)))
        self.close(disk)
        disk = self.open(";create=no")
        self.assertEqual(bytes(self.run_(disk.read(BLOCK, BLOCK))), b"data" * 1024)
        self.close(disk)

    def test_not_made(self) -> None:
        """Unless it must not be, or there is nothing to go by."""
        self.refused("no volume at .*volume create", ";create=no")
        self.refused("no volume at .*--size", size=None)
        self.refused("multiple of 4096", size=BLOCK + 512)

    def test_size_differs(self) -> None:
        """A device of another size than the volume's is refused, and the mend named."""
        self.close(self.open())
        self.refused(f"has {SIZE} bytes but the LUN has {2 * SIZE}: .* --size {SIZE}", size=2 * SIZE)

    def test_only_the_size(self) -> None:
        """Who gives no size is told it, and nobody who has the volume open is disturbed."""
        disk = self.open()
        asked = self.open(size=None)
        self.assertEqual((asked.size, asked.read_only), (SIZE, True))
        self.close(asked)
        self.run_(disk.write(0, memoryview(bytes(BLOCK))))
        self.run_(disk.flush())
        self.close(disk)

    def test_second_lun(self) -> None:
        """A volume is one LUN of a daemon, until it is closed."""
        disk = self.open()
        self.refused("open already in this daemon")
        self.close(disk)
        self.close(self.open())

    def test_creation(self) -> None:
        """Storage is made once; what is there is refused."""
        self.run_(self.factory.create(self.parameters(";batch=1M")))
        with self.assertRaisesRegex(ConfigError, "there is a volume at .* already"):
            self.run_(self.factory.create(self.parameters()))
        disk = self.open()
        self.assertEqual(disk._volume._keeper.head.geometry.batch_blocks, 256)
        self.close(disk)

    def test_lost_head(self) -> None:
        """An empty disk does not take the place of one whose head was lost."""
        disk = self.open()
        self.run_(disk.write(0, memoryview(bytes(BLOCK))))
        self.close(disk)
        self.remove_head()
        self.refused("without a head .* `txtcmu volume rm` removes them")

    def remove_head(self) -> None:
        """Have the head of the volume lost."""

        async def remove() -> None:
            store, prefix = await self.factory.connect(self.parameters().config, self.reactor)
            await store.delete(f"{prefix}head")
            await store.close()

        self.run_(remove())

    def test_dead_daemon_here(self) -> None:
        """What was flushed by a daemon of this host that is dead is there, without being asked for."""
        disk = self.open()
        self.run_(disk.write(0, memoryview(b"kept" * 1024)))
        self.run_(disk.flush())
        self.kill(disk)
        disk = self.open()
        self.assertEqual(bytes(self.run_(disk.read(0, BLOCK))), b"kept" * 1024)
        self.close(disk)

    def test_another_host(self) -> None:
        """What another host has open, and has not closed, needs takeover=yes."""
        with self.another_host():
            self.kill(self.open())
        self.refused("in use by process .* on elsewhere, since .*: .* takeover=yes")
        self.close(self.open(";takeover=yes"))
        with self.another_host():
            self.close(self.open())

    def test_deposed(self) -> None:
        """Who was taken over answers NOT READY, MANUAL INTERVENTION REQUIRED, names the winner, and stays so."""
        options = self.parameters().config
        rig = Rig(None, size=SIZE, reactor=FakeReactor(), factory=self.factory, config=options, start=False)
        rig.opened = rig.device.open()
        self.settle(rig)
        self.assertIs(rig.device.state, State.SERVING)
        volumes._open.clear()
        self.factory = self.make_factory()
        with self.another_host():
            winner = self.open(";takeover=yes")
        written = rig.initiator.write(0, bytes(512), fua=True)
        self.settle(rig)
        self.assertEqual((written.sense[2] & 15, written.sense[12], written.sense[13]), (2, 4, 3))
        self.assertIs(rig.device.state, State.FENCED)
        self.assertIn("on elsewhere", str(self.reported(rig)))
        rig.reactor.advance(1000)
        self.settle(rig)
        self.assertIs(rig.device.state, State.FENCED)
        rig.device.close(1.0)
        self.settle(rig)
        self.assertIs(rig.device.state, State.CLOSED)
        self.refused("in use by process .* on elsewhere")
        volumes._open.clear()
        self.close(self.open(";takeover=yes"))
        with self.assertRaises(FencedError):
            winner.write(0, memoryview(bytes(512)))
            self.run_(winner.flush())
        self.close(winner)

    def reported(self, rig: Rig) -> Any:
        """Return why the device has no backstore."""
        return rig.device.medium._reported

    def settle(self, rig: Rig) -> None:
        """Let everything happen."""
        rig.settle()

    def test_without_write_cache(self) -> None:
        """With wce=off a write is acknowledged when it is in the store, and the initiator is told so."""
        for options, cached in (("", True), (";wce=off", False)):
            config = self.parameters(options).config
            rig = Rig(None, size=SIZE, reactor=FakeReactor(), factory=self.factory, config=config, start=False)
            rig.device.open()
            self.settle(rig)
            self.assertEqual(rig.device.unit.write_cache, cached)
            written = rig.initiator.write(8, b"w" * BLOCK)
            rig.settle()
            volume = rig.device.medium.backstore._volume
            if cached:
                self.assertTrue(volume._writer.batch)
            else:
                self.settle(rig)
                self.assertEqual((volume._log.durable, bool(volume._writer.batch)), (volume._log.next - 1, False))
            self.assertEqual(written.status, 0)
            rig.device.close(1.0)
            self.settle(rig)


class DirTests(HandlerTests, SynchronousTestCase):
    def setUp(self) -> None:
        """Have a directory."""
        self.reactor = FakeReactor()
        self.factory = DirFactory()
        self.folder = Path(self.mktemp()).absolute() / "volume"
        self.folder.mkdir(parents=True)
        self.path = str(self.folder)[1:]
        self.addCleanup(volumes._open.clear)

    def run_(self, result: object) -> Any:
        """Return the result."""
        results: list[Any] = []
        as_deferred(result).addBoth(results.append)
        for _ in range(100):
            if results:
                break
            self.reactor.advance(1)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def make_factory(self) -> DirFactory:
        """Return the handler as another daemon has it."""
        return DirFactory()

    def test_missing_directory(self) -> None:
        """A directory that is not there is made with the volume, but not by an opening: it may not be mounted."""
        self.path += "/deeper/still"
        self.refused("does not exist; make it: mkdir -p")
        self.run_(self.factory.create(self.parameters()))
        self.close(self.open(";create=no"))

    def test_file_in_the_way(self) -> None:
        """What cannot be a directory is said to be none."""
        (self.folder / "file").write_text("")
        self.path += "/file"
        self.refused("directory")
        with self.assertRaisesRegex(ConfigError, "cannot make"):
            self.run_(self.factory.create(self.parameters()))

    def test_options(self) -> None:
        """Impossible options are refused before anything is opened."""
        for options, word in (
            (";batch=128K", "batch"),
            (";batch=128M", "batch"),
            (";batch=1000000", "batch"),
            (";batch=64M", "dirty"),
            (";create=perhaps", "create"),
            (";takeover=1", "takeover"),
            (";wce=on,off".replace(",", "-"), "wce"),
            (";cache=lots", "cache"),
        ):
            config = self.parameters(options).config
            self.assertIn(word, self.factory.check(config) or "")
            self.refused(word, options)
        self.assertEqual(self.factory.check(self.parameters().config), None)
        self.assertEqual(os.listdir(self.folder), [])

    def test_places(self) -> None:
        """Volumes below a directory are in stores of their own; what cannot be looked into is said."""
        self.close(self.open())
        below = self.path
        self.path += "/objects-of-mine/disk"
        self.run_(self.factory.create(self.parameters()))
        config = DeviceConfig("dir", str(self.folder.parent)[1:])
        self.assertEqual(self.run_(self.factory.places(config, self.reactor)), [below])
        config = DeviceConfig("dir", below + "/objects-of-mine")
        self.assertEqual(self.run_(self.factory.places(config, self.reactor)), [self.path])
        with self.assertRaisesRegex(ConfigError, "No such file"):
            self.run_(self.factory.places(DeviceConfig("dir", below + "/nothing"), self.reactor))


class S3Tests(HandlerTests, SynchronousTestCase):
    def setUp(self) -> None:
        """Have a bucket."""
        self.bench = Bench()
        self.reactor = self.bench.clock
        self.factory = S3Factory("here")
        self.path = f"{self.bench.fake.bucket}/disk"
        connect = mock.AsyncMock(side_effect=lambda *_: self.bench.fake.connect())
        patch = mock.patch("txtcmu.objectstore.s3.connect", connect)
        patch.start()
        self.addCleanup(patch.stop)
        self.addCleanup(volumes._open.clear)

    def run_(self, result: object) -> Any:
        """Let time pass until the result is there."""
        return self.bench.run(result)

    def make_factory(self) -> S3Factory:
        """Return the handler as another daemon has it."""
        return S3Factory("there")

    def settle(self, rig: Rig) -> None:
        """Let both clocks pass."""
        for _ in range(100):
            rig.settle()
            self.bench.clock.advance(0.02)
            rig.reactor.advance(0.02)
        rig.settle()

    def test_layout_is_told_by_what_is_there(self) -> None:
        """The layout that dev_config names counts for new disks only."""
        self.run_(self.factory.create(self.parameters(";object_size=4K")))
        for options in ("", ";layout=log", ";layout=blocks"):
            disk = self.open(options)
            self.assertIsInstance(disk, S3Blocks)
            self.close(disk)
        self.refused("layout=blocks, which has no option wce", ";wce=off")
        self.path += "2"
        self.close(self.open())
        for options in ("", ";layout=log", ";layout=blocks", ";object_size=4K"):
            disk = self.open(options)
            self.assertIsInstance(disk, VolumeDisk)
            self.close(disk)

    def test_one_disk_at_a_prefix(self) -> None:
        """A disk of one layout is not made where one of the other is, or what is left of it."""
        self.run_(self.factory.create(self.parameters(";layout=blocks")))
        with self.assertRaisesRegex(ConfigError, "is a disk already"):
            self.run_(self.factory.create(self.parameters()))
        self.path += "2"
        self.run_(self.factory.create(self.parameters()))
        with self.assertRaisesRegex(ConfigError, "there is a volume"):
            self.run_(self.factory.create(self.parameters(";layout=blocks")))

    def test_disk_of_s3backer_without_block_zero(self) -> None:
        """Is not taken for nothing, and no empty volume is made in its place."""
        self.run_(self.factory.create(self.parameters(";object_size=4K")))
        disk = self.open()
        self.run_(disk.write(BLOCK, memoryview(b"data" * 1024)))
        self.close(disk)
        del self.bench.fake.objects.objects["disk/00000000"]
        before = set(self.bench.fake.objects.objects)
        self.refused("mount the disk with s3backer")
        self.assertEqual(set(self.bench.fake.objects.objects), before)

    def test_blocks_are_not_made_by_opening(self) -> None:
        """With layout=blocks a disk that is not there is not made."""
        self.refused("there is no disk; make it", ";layout=blocks")
        self.assertEqual(self.bench.fake.objects.objects, {})

    def test_dishonest_store(self) -> None:
        """No volume is made, or opened, on a store that ignores conditions."""
        self.close(self.open())
        before = self.objects()
        self.bench.fake.conditions = False
        self.factory = self.make_factory()
        self.refused("does not honour If-None-Match")
        self.assertEqual(self.objects(), before)
        self.path += "2"
        self.refused("does not honour If-None-Match")
        with self.assertRaisesRegex(ConfigError, "does not honour If-None-Match"):
            self.run_(self.factory.create(self.parameters()))
        self.assertEqual(self.objects(), before)

    def objects(self) -> dict[str, Any]:
        """Return what is in the bucket, but for what the probe has left."""
        return {key: each for key, each in self.bench.fake.objects.objects.items() if "txtcmu-probe-" not in key}


class FencedTests(SynchronousTestCase):
    def test_closing_what_was_taken_over(self) -> None:
        """Closing lets go of the store although the volume cannot be closed any more."""
        volume = mock.Mock()
        volume.close.return_value = Deferred.fromCoroutine(_fenced())
        closed = mock.Mock(return_value=None)
        outcome(VolumeDisk(volume, closed).close())
        closed.assert_called_once_with()
        volume.abandon.assert_called_once_with()


async def _fenced() -> None:
    raise FencedError("another has it")
