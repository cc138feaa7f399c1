"""The memory disk: contract, names, and what it costs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from txtcmu.backstores.fileio import SystemCalls
from txtcmu.backstores.image import Image
from txtcmu.backstores.memory import MemoryBackstore, MemoryFactory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError
from txtcmu.interfaces import (
    IBackstoreFactory,
    IBlockStatus,
    IDiscard,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.testing.contract import BackstoreContract


def parameters(dev_config: str, size: int | None = 1 << 20, reactor: Any = None) -> DeviceParameters:
    return DeviceParameters(DeviceConfig.parse(dev_config), size, 512, reactor, Logger())


class MemoryContract(BackstoreContract):
    companions = frozenset({IVectoredBackstore, IDiscard, IWriteZeroes, IBlockStatus, IResizable})


class AnonymousTests(MemoryContract, TestCase):
    async def make_backstore(self, size: int) -> MemoryBackstore:
        """Return a new disk."""
        return MemoryBackstore(size)


class NamedTests(MemoryContract, TestCase):
    def setUp(self) -> None:
        """Keep disks in a directory of the test's own."""
        directory = self.mktemp()
        os.makedirs(directory)
        self.factory = MemoryFactory(directory)

    async def make_backstore(self, size: int) -> MemoryBackstore:
        """Return a new disk."""
        self.factory.create(parameters("memory/disk", size))
        return self.factory.open(parameters("memory/disk", size))

    async def reopen(self, backstore: MemoryBackstore) -> MemoryBackstore:
        """Close and open."""
        backstore.close()
        return self.factory.open(parameters("memory/disk"))

    async def crash(self, backstore: MemoryBackstore) -> MemoryBackstore:
        """What a killed daemon leaves: the descriptors are closed, and nothing else is done."""
        os.close(backstore._fd)
        return self.factory.open(parameters("memory/disk"))


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Keep disks in a directory of the test's own."""
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.factory = MemoryFactory(self.directory)
        self.path = os.path.join(self.directory, "txtcmu-disk")

    def problem(self, dev_config: str, size: int | None = 1 << 20) -> str:
        """Return why a disk cannot be opened."""
        return str(self.assertRaises(ConfigError, self.factory.open, parameters(dev_config, size)))

    def test_extents(self) -> None:
        """What was written is mapped, what was never, or was given back, is not; of many extents the first are told."""
        disk = MemoryBackstore(8 << 20)
        self.addCleanup(disk.close)
        self.assertEqual(disk.extents(0, 8 << 20), [(8 << 20, False)])
        disk.write(1 << 20, memoryview(b"x" * (2 << 20)))
        disk.discard(2 << 20, 512 << 10)
        hole, data = 512 << 10, 512 << 10
        self.assertEqual(
            disk.extents(4096, (8 << 20) - 4096),
            [((1 << 20) - 4096, False), (1 << 20, True), (hole, False), (data, True), (5 << 20, False)],
        )
        self.assertEqual(disk.extents(1 << 20, 512), [(512, True)])
        for at in range(0, 8 << 20, 8192):
            disk.discard(at, 4096)
            disk.write(at + 4096, memoryview(b"x" * 4096))
        extents = disk.extents(0, 8 << 20)
        assert isinstance(extents, list)
        self.assertEqual(extents, [(4096, False), (4096, True)] * (len(extents) // 2))
        self.assertLess(len(extents), 300)

    def test_extents_of_storage_without_holes(self) -> None:
        """Storage that knows of no holes is all data; an error is one."""
        codes = [errno.EINVAL]

        def lseek(*_: Any) -> int:
            raise OSError(codes[0], "lseek")

        disk = MemoryBackstore(1 << 20)
        self.addCleanup(disk.close)
        disk._image.system.lseek = lseek
        self.assertEqual(disk.extents(4096, 8192), [(8192, True)])
        codes[0] = errno.EIO
        self.assertRaises(OSError, disk.extents, 4096, 8192)

    def test_factory(self) -> None:
        """The factory provides what the registry looks for."""
        verifyObject(IBackstoreFactory, self.factory)

    def test_costs_nothing_until_written(self) -> None:
        """A disk of 10 GiB takes memory when it is written, and gives it back when it is discarded."""
        disk = MemoryBackstore(10 << 30)
        self.addCleanup(disk.close)
        self.assertEqual(os.fstat(disk._fd).st_blocks, 0)
        disk.write(5 << 30, memoryview(bytes(b"x" * (1 << 20))))
        self.assertEqual(os.fstat(disk._fd).st_blocks * 512, 1 << 20)
        disk.discard(5 << 30, 1 << 20)
        self.assertEqual(os.fstat(disk._fd).st_blocks, 0)

    def test_reading_costs_nothing(self) -> None:
        """Reading what was never written takes no memory."""
        disk = MemoryBackstore(1 << 30)
        self.addCleanup(disk.close)
        disk.readv(0, [memoryview(bytearray(1 << 20))])
        self.assertEqual(os.fstat(disk._fd).st_blocks, 0)

    def test_done_at_once(self) -> None:
        """Every operation is done when it returns: no Deferred on the fast path."""
        disk = MemoryBackstore(1 << 20)
        window = memoryview(bytearray(4096))
        self.assertEqual(disk.readv(0, [window]), 4096)
        calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = [
            (disk.writev, (0, [window])),
            (disk.write, (0, window)),
            (disk.flush, ()),
            (disk.discard, (0, 4096)),
            (disk.write_zeroes, (0, 4096)),
            (disk.close, ()),
        ]
        results = [call(*arguments) for call, arguments in calls]
        self.assertEqual(results, [None] * 6)

    def test_full_memory_is_an_error(self) -> None:
        """A write that finds no memory raises ENOSPC, instead of ending the daemon by SIGBUS."""

        class Full(SystemCalls):
            @staticmethod
            def pwritev(*_: Any) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        fd = os.memfd_create("full")
        os.ftruncate(fd, 1 << 20)
        disk = MemoryBackstore(Image(fd, system=Full()))
        self.addCleanup(disk.close)
        error = self.assertRaises(OSError, disk.write, 0, memoryview(bytes(4096)))
        self.assertEqual(error.errno, errno.ENOSPC)

    def test_short_write_is_finished(self) -> None:
        """A write that the system call did only a part of is done to the end."""

        class Short(SystemCalls):
            @staticmethod
            def pwritev(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
                return os.pwritev(fd, [buffers[0][:1000]], offset, flags)

        fd = os.memfd_create("short")
        os.ftruncate(fd, 1 << 20)
        disk = MemoryBackstore(Image(fd, system=Short()))
        self.addCleanup(disk.close)
        data = os.urandom(8192)
        disk.write(512, memoryview(data))
        self.assertEqual(disk.read(512, 8192), data)

    def test_long_discard_leaves_the_reactor(self) -> None:
        """With a reactor, freeing more than 64 MiB is a Deferred."""
        ran: list[Any] = []

        class Reactor:
            def getThreadPool(self) -> Any:
                return self

            def callInThreadWithCallback(self, done: Any, function: Any, *args: Any) -> None:
                ran.append((done, function, args))

        disk = MemoryBackstore(1 << 30, Reactor())
        self.addCleanup(disk.close)
        self.assertIsNone(disk.discard(0, 64 << 20))
        self.assertIsInstance(disk.discard(0, 65 << 20), Deferred)
        self.assertEqual(len(ran), 1)

    def test_missing(self) -> None:
        """Opening never makes a disk; the error says how to."""
        self.assertIn("txtcmu create memory/disk --new", self.problem("memory/disk"))
        self.assertIn("--new", self.factory.check(DeviceConfig.parse("memory/disk")) or "")
        self.assertFalse(os.path.exists(self.path))

    def test_create_option(self) -> None:
        """create=yes makes a missing disk, and opens an existing one as it is."""
        config = "memory/disk;create=yes"
        self.assertIsNone(self.factory.check(DeviceConfig.parse(config)))
        disk = self.factory.open(parameters(config))
        disk.write(0, memoryview(b"here"))
        disk.close()
        disk = self.factory.open(parameters(config, 2 << 20))
        self.addCleanup(disk.close)
        self.assertEqual((disk.read(0, 4), disk.size), (b"here", 1 << 20))

    def test_create_never_touches_what_exists(self) -> None:
        """Creating twice is refused and leaves the data alone."""
        self.factory.create(parameters("memory/disk"))
        with open(self.path, "r+b") as file:
            file.write(b"precious")
        error = self.assertRaises(ConfigError, self.factory.create, parameters("memory/disk"))
        self.assertIn("exists already", str(error))
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(8), b"precious")

    def test_create_needs_a_size(self) -> None:
        """A new disk without a size is refused by a line that names --size."""
        error = self.assertRaises(ConfigError, self.factory.create, parameters("memory/disk", None))
        self.assertIn("--size", str(error))

    def test_names(self) -> None:
        """A name cannot lead out of the directory."""
        for name in ("../etc/passwd", "a/b", ".hidden", "-x", "ä"):
            self.assertIn("rename it", self.problem(f"memory/{name}"))
            self.assertIn("rename it", self.factory.check(DeviceConfig.parse(f"memory/{name}")) or "")

    def test_one_user(self) -> None:
        """A disk that is open cannot be opened a second time."""
        disk = self.factory.open(parameters("memory/disk;create=yes"))
        self.addCleanup(disk.close)
        self.assertIn("in use", self.problem("memory/disk"))

    def test_refuses_links(self) -> None:
        """A link that somebody put into the shared directory is not followed, nor created through."""
        os.symlink("/etc/passwd", self.path)
        self.assertIn("not a file of ours", self.problem("memory/disk"))
        self.assertIn("not a file of ours", self.problem("memory/disk;create=yes"))
