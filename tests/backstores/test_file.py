"""The file backstore: contract, with and without a page cache, and after power cuts; every way to be refused."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from threading import Lock
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tests.backstores.filesupport import DeviceContract, FileContract
from txtcmu.backstores import file, fileio
from txtcmu.backstores.file import FileBackstore, FileFactory
from txtcmu.backstores.fileio import SystemCalls
from txtcmu.backstores.image import Image, create_image, open_image
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import BackstoreError, ConfigError
from txtcmu.interfaces import IBackstoreFactory, IDiscard, IResizable
from txtcmu.results import as_deferred
from txtcmu.threads import run

PAGE = os.sysconf("SC_PAGE_SIZE")


def failing(number: int) -> Any:
    """Return a system call that fails."""

    def call(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


class Threads:
    """A reactor whose threads are calls that wait to be run, and whose time stands still."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = self.clock.seconds
        self.waiting: list[tuple[Any, Any, Any, Any]] = []

    def getThreadPool(self) -> Threads:
        """Be one's own pool."""
        return self

    def callFromThread(self, function: Any, *args: Any) -> None:
        """Call at once."""
        function(*args)

    def callInThreadWithCallback(self, done: Any, function: Any, *args: Any, **kwargs: Any) -> None:
        """Queue a call."""
        self.waiting.append((done, function, args, kwargs))

    def run(self, number: int | None = None) -> None:
        """Do the oldest calls that wait; by default all, and those that they lead to."""
        while self.waiting and number != 0:
            done, function, args, kwargs = self.waiting.pop(0)
            try:
                result = function(*args, **kwargs)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)
            number = None if number is None else number - 1


class PowerCut(SystemCalls):
    """System calls that remember what is not durable yet, so that :meth:`cut` can take it back."""

    def __init__(self) -> None:
        self._undo: list[tuple[int, bytes]] = []
        self._failed = False
        self._lock = Lock()  # a flush comes in a thread

    def _remember(self, fd: int, offset: int, length: int) -> None:
        self._undo.append((offset, os.pread(fd, length, offset)))

    def pwritev(self, fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        """Write; only with RWF_DSYNC for good."""
        if flags & os.RWF_NOWAIT:
            raise OSError(errno.EOPNOTSUPP, "not here")
        if not flags & os.RWF_DSYNC:
            self._remember(fd, offset, sum(map(len, buffers)))
        return os.pwritev(fd, buffers, offset, flags)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """Punch or zero, not for good."""
        if offset < os.fstat(fd).st_size:
            self._remember(fd, offset, length)
        SystemCalls.fallocate(fd, mode, offset, length)

    def fdatasync(self, fd: int) -> None:
        """Make good what was written before this call; tell of a failed write-back, once."""
        with self._lock:
            if self._failed:
                self._failed = False
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            written = len(self._undo)
            os.fdatasync(fd)
            del self._undo[:written]

    def fail(self, path: str) -> None:
        """Let a write-back fail: what is not durable is gone, and the next fdatasync tells."""
        with self._lock:
            self.cut(path)
            self._failed = True

    def cut(self, path: str) -> None:
        """Take back, newest first, what is not durable."""
        with open(path, "r+b") as file:
            for offset, data in reversed(self._undo):
                file.seek(offset)
                file.write(data)
        self._undo.clear()


class FileTests(FileContract, TestCase):
    """A file on a local filesystem can do everything."""


class PowerCutTests(FileContract, TestCase):
    def calls(self) -> SystemCalls:
        """Remember what is not durable."""
        return PowerCut()

    async def crash(self, backstore: FileBackstore) -> FileBackstore:
        """Cut the power."""
        await backstore.close()
        assert isinstance(self.system, PowerCut)
        self.system.cut(self.path)
        return self.open()

    async def lose(self, backstore: FileBackstore) -> None:
        """Let a write-back fail."""
        assert isinstance(self.system, PowerCut)
        self.system.fail(self.path)

    async def test_the_cut_is_real(self) -> None:
        """A write that was never flushed is gone after the cut: the tests above prove something."""
        backstore = await self.open_backstore()
        await self.write(backstore, 0, b"x" * 4096)
        backstore = await self.again(self.crash, backstore)
        await self.expect(backstore, 0, bytes(4096), "never flushed")


class ColdCacheTests(FileContract, TestCase):
    """Nothing is ever in the page cache, and calls come up short: every operation goes through a thread."""

    rounds = 60

    def calls(self) -> SystemCalls:
        """Cut calls short, refuse those that may not wait."""

        class Cold(SystemCalls):
            @staticmethod
            def preadv(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
                if flags:
                    raise BlockingIOError(errno.EAGAIN, "cold")
                cut = [buffers[0][:30000]] if len(buffers[0]) > 30000 else buffers[:3]
                return os.preadv(fd, cut, offset)

            @staticmethod
            def pwritev(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
                if flags & os.RWF_NOWAIT:
                    raise BlockingIOError(errno.EAGAIN, "busy")
                return os.pwritev(fd, [buffers[0][:30000]], offset, flags)

        return Cold()


class PoorFilesystemTests(FileContract, TestCase):
    """A filesystem without RWF_NOWAIT, RWF_DSYNC, holes and zeroing: no discard is offered, zeroing writes zeroes."""

    companions = FileContract.companions - {IDiscard}
    rounds = 60

    def calls(self) -> SystemCalls:
        """Refuse every flag and fallocate."""

        class Poor(SystemCalls):
            fallocate = failing(errno.EOPNOTSUPP)

            @staticmethod
            def preadv(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
                if flags:
                    raise OSError(errno.EOPNOTSUPP, "no flags")
                return os.preadv(fd, buffers, offset)

            @staticmethod
            def pwritev(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
                if flags:
                    raise OSError(errno.EOPNOTSUPP, "no flags")
                return os.pwritev(fd, buffers, offset)

        return Poor()


class Injected(SynchronousTestCase):
    """An image whose system calls and threads the test rules."""

    def setUp(self) -> None:
        """Make an image of sixteen pages."""
        self.path = os.path.abspath(self.mktemp())
        create_image(self.path, 16 * PAGE)
        self.threads = Threads()
        self.page = memoryview(bytearray(b"p" * PAGE))

    def open(self, **calls: Any) -> FileBackstore:
        """Open the image with some system calls replaced."""
        system = type("Calls", (SystemCalls,), {name: staticmethod(call) for name, call in calls.items()})()
        backstore = FileBackstore(open_image(self.path, system=system), self.threads)
        self.addCleanup(backstore._image.close)
        return backstore

    def warm(self, **calls: Any) -> FileBackstore:
        """Open it on a filesystem with RWF_NOWAIT for reads and not for writes, like ext4."""

        def preadv(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            return os.preadv(fd, buffers, offset)

        def pwritev(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            if flags & os.RWF_NOWAIT:
                raise OSError(errno.EOPNOTSUPP, "like ext4")
            return os.pwritev(fd, buffers, offset, flags)

        backstore = self.open(**{"preadv": preadv, "pwritev": pwritev, **calls})
        first = backstore.writev(0, [self.page])  # learns that RWF_NOWAIT is not for writes here
        self.threads.run()
        if first is not None:
            self.successResultOf(first)
        return backstore


class DecisionTests(Injected):
    """Which calls run at once, and which in a thread."""

    def test_cached_read(self) -> None:
        """A read from the page cache is done when it returns."""
        backstore = self.warm()
        self.assertEqual(backstore.readv(0, [memoryview(bytearray(PAGE))]), PAGE)
        self.assertEqual(backstore.read(0, 4), b"pppp")

    def test_partly_cached_read(self) -> None:
        """A read of which only a part is cached is a thread's, whole."""

        def partly(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            return os.preadv(fd, [buffers[0][:512]] if flags else buffers, offset)

        backstore = self.warm(preadv=partly)
        window = memoryview(bytearray(PAGE))
        result = backstore.readv(0, [window])
        assert isinstance(result, Deferred)
        self.assertNoResult(result)
        self.threads.run()
        self.assertEqual(self.successResultOf(result), PAGE)
        self.assertEqual(bytes(window), bytes(self.page))

    def test_small_aligned_write(self) -> None:
        """A small write of whole pages is done when it returns."""
        backstore = self.warm()
        self.assertIsNone(backstore.writev(PAGE, [self.page]))
        self.assertIsNone(backstore.write(PAGE, self.page))

    def test_writes_for_threads(self) -> None:
        """A write of a part of a page, which may have to be read first, and a large one are a thread's."""
        backstore = self.warm()
        for offset, length in ((512, PAGE), (0, 512), (0, (128 << 10) + PAGE)):
            result = backstore.writev(offset, [memoryview(bytes(length))])
            assert result is not None
            self.threads.run()
            self.assertIsNone(self.successResultOf(result))

    def test_after_a_slow_write(self) -> None:
        """When a write took long, the writes of the next second are a thread's."""

        def slow(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            self.threads.clock.advance(0.02)
            return os.pwritev(fd, buffers, offset)

        backstore = self.warm()
        backstore._pwritev = slow
        self.assertIsNone(backstore.writev(0, [self.page]))
        for _ in range(2):
            self.assertIsInstance(backstore.writev(0, [self.page]), Deferred)
            self.threads.run()
        self.threads.clock.advance(1)
        self.assertIsNone(backstore.writev(0, [self.page]))

    def test_not_beside_a_thread(self) -> None:
        """While a thread may hold the file's lock, writes are threads' too: the reactor must not wait for it."""
        backstore = self.warm()
        for begin in (
            lambda: backstore.discard(0, PAGE),
            lambda: backstore.write_zeroes(0, PAGE),
            lambda: Deferred.fromCoroutine(backstore.write_fua(0, [self.page])),
            lambda: backstore.writev(0, [memoryview(bytes(512))]),
        ):
            change = begin()
            assert change is not None
            self.assertIsInstance(backstore.writev(PAGE, [self.page]), Deferred)
            self.threads.run()
            self.successResultOf(change)
            self.assertIsNone(backstore.writev(PAGE, [self.page]))

    def test_filesystem_that_may_hang(self) -> None:
        """Where RWF_NOWAIT is unknown, as on NFS, not one read or write runs in the reactor."""

        def preadv(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            if flags:
                raise OSError(errno.EOPNOTSUPP, "like NFS")
            return os.preadv(fd, buffers, offset)

        backstore = self.open(preadv=preadv)
        for _ in range(2):
            for result in (backstore.readv(0, [memoryview(bytearray(PAGE))]), backstore.writev(0, [self.page])):
                self.assertIsInstance(result, Deferred)
            self.threads.run()

    def test_short_file(self) -> None:
        """What a file that somebody cut lacks is reported as missing, not waited for."""
        backstore = self.warm()
        os.truncate(self.path, 1000)
        result = backstore.readv(0, [memoryview(bytearray(PAGE))])
        assert isinstance(result, Deferred)
        self.threads.run()
        self.assertEqual(self.successResultOf(result), 1000)

    def test_write_without_progress(self) -> None:
        """A write that stores nothing is an I/O error, not an endless loop."""
        backstore = self.open(pwritev=lambda *_: 0)
        result = backstore.writev(0, [self.page])
        assert result is not None
        self.threads.run()
        self.assertEqual(self.failureResultOf(result, OSError).value.errno, errno.EIO)

    def test_errors_are_reported(self) -> None:
        """EFAULT, EIO and ENOSPC of a call arrive as that error, and the backstore works on."""
        backstore = self.warm()
        for number in (errno.EFAULT, errno.EIO, errno.ENOSPC):
            backstore._image.system.pwritev = failing(number)
            backstore._image.system.preadv = failing(number)
            backstore._pwritev = backstore._preadv = failing(number)
            for result in (backstore.readv(0, [memoryview(bytearray(PAGE))]), backstore.writev(0, [self.page])):
                assert isinstance(result, Deferred)
                self.threads.run()
                self.assertEqual(self.failureResultOf(result, OSError).value.errno, number)
        backstore._pwritev = os.pwritev
        self.assertIsNone(backstore.writev(0, [self.page]))

    def test_cancelled_in_a_thread(self) -> None:
        """Cancelling what a thread does changes nothing: the Deferred fires when the thread has ended."""
        backstore = self.warm()
        result = backstore.discard(0, PAGE)
        result.cancel()
        self.assertNoResult(result)
        self.threads.run()
        self.assertIsNone(self.successResultOf(result))


class DurabilityTests(Injected):
    """Flush, FUA and their failures."""

    def test_failed_flush_stays_failed(self) -> None:
        """After a failed fdatasync every flush fails, although the kernel would say that all is well."""
        answers = [failing(errno.EIO), os.fdatasync]
        backstore = self.warm(fdatasync=lambda fd: answers.pop(0)(fd))
        first = backstore.flush()
        self.threads.run()
        self.assertEqual(self.failureResultOf(first, OSError).value.errno, errno.EIO)
        for _ in range(2):
            later = backstore.flush()
            self.threads.run()
            self.assertIn("reopen", str(self.failureResultOf(later, BackstoreError).value))

    def test_flush_that_waited_hears_of_it(self) -> None:
        """Flushes that waited behind a failing one fail as well: Linux reports a lost write only once."""
        answers = [failing(errno.EIO), os.fdatasync]
        backstore = self.warm(fdatasync=lambda fd: answers.pop(0)(fd))
        flushes = [backstore.flush() for _ in range(3)]
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.run()
        for flush in flushes:
            self.failureResultOf(flush)

    def test_reopen_forgets(self) -> None:
        """A backstore that was opened anew flushes again."""
        backstore = self.warm(fdatasync=failing(errno.EIO))
        self.threads.run()
        lost = backstore.flush()
        self.threads.run()
        self.failureResultOf(lost)
        backstore._image.close()
        self._cleanups.pop()  # it is closed
        backstore = self.warm()
        flush = backstore.flush()
        self.threads.run()
        self.successResultOf(flush)

    def test_waiting_flushes_share(self) -> None:
        """Flushes that came while one ran share the next fdatasync, which began after them all."""
        calls: list[int] = []
        backstore = self.warm(fdatasync=calls.append)
        flushes = [backstore.flush() for _ in range(2000)]
        self.threads.run(1)
        self.successResultOf(flushes[0])
        self.assertNoResult(flushes[1])
        self.threads.run()
        for flush in flushes[1:]:
            self.successResultOf(flush)
        self.assertEqual(len(calls), 2)

    def test_cancelled_flush(self) -> None:
        """A cancelled flush fires when its fdatasync has ended, for until then the file cannot be closed."""
        backstore = self.warm()
        flushes = [backstore.flush() for _ in range(3)]
        for flush in flushes[:2]:
            flush.cancel()
            self.assertNoResult(flush)
        self.threads.run()
        for flush in flushes:
            self.assertIsNone(self.successResultOf(flush))

    def test_fua_has_its_own_open_file(self) -> None:
        """A FUA write uses another open file than flush, and so cannot use up the error that flush must see."""
        seen: dict[str, int] = {}

        def pwritev(fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
            if flags & os.RWF_DSYNC:
                seen["fua"] = fd
            return os.pwritev(fd, buffers, offset, flags & ~os.RWF_NOWAIT)

        def fdatasync(fd: int) -> None:
            seen["flush"] = fd

        backstore = self.warm(pwritev=pwritev, fdatasync=fdatasync)
        results = DeferredList(
            [
                Deferred.fromCoroutine(backstore.write_fua(0, [self.page])),
                backstore.flush(),
            ]
        )
        self.threads.run()
        self.assertEqual(self.successResultOf(results), [(True, None), (True, None)])
        self.assertNotEqual(seen["fua"], seen["flush"])
        self.assertTrue(os.path.sameopenfile(seen["fua"], seen["flush"]))


class ZeroingTests(SynchronousTestCase):
    """What discard and zeroing do with storage that cannot do everything."""

    def image(self, **calls: Any) -> Any:
        """Open an image of eight pages of ones."""
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(b"1" * 8 * PAGE)
        system = type("Calls", (SystemCalls,), {name: staticmethod(call) for name, call in calls.items()})()
        image = open_image(path, system=system)
        self.addCleanup(image.close)
        return image

    def content(self, image: Any) -> bytes:
        """Return all that is in it."""
        return os.pread(image.fd, image.size, 0)

    def test_without_zero_range(self) -> None:
        """Without ZERO_RANGE a hole is punched, and the kernel is not asked again."""
        modes: list[int] = []

        def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
            modes.append(mode)
            if mode == fileio.ZERO_RANGE:
                raise OSError(errno.EOPNOTSUPP, "no")
            SystemCalls.fallocate(fd, mode, offset, length)

        image = self.image(fallocate=fallocate)
        modes.clear()
        image.write_zeroes(100, PAGE)
        image.write_zeroes(2 * PAGE, PAGE)
        self.assertEqual(modes, [fileio.ZERO_RANGE, fileio.PUNCH_HOLE, fileio.PUNCH_HOLE])
        expected = bytearray(b"1" * 8 * PAGE)
        expected[100 : 100 + PAGE] = expected[2 * PAGE : 3 * PAGE] = bytes(PAGE)
        self.assertEqual(self.content(image), expected)

    def test_punching_that_stops_to_work(self) -> None:
        """When a punch is refused later, the promise of zeroes is kept by writing them."""
        image = self.image()
        image.system.fallocate = failing(errno.EOPNOTSUPP)
        image.discard(PAGE, 3 * PAGE)
        self.assertEqual(self.content(image), b"1" * PAGE + bytes(3 * PAGE) + b"1" * 4 * PAGE)

    def test_other_errors_are_errors(self) -> None:
        """A punch that fails for another reason fails."""
        image = self.image()
        image.system.fallocate = failing(errno.EIO)
        for operation in (image.discard, image.write_zeroes):
            self.assertEqual(self.assertRaises(OSError, operation, 0, PAGE).errno, errno.EIO)

    def test_interrupted(self) -> None:
        """A fallocate that a signal interrupted is called again."""
        answers = [-1, 0]
        self.patch(fileio, "_libc_fallocate", lambda *_: answers.pop(0))
        self.patch(ctypes, "get_errno", lambda: errno.EINTR)
        SystemCalls.fallocate(0, 0, 0, 0)
        self.assertEqual(answers, [])


class RefusalTests(SynchronousTestCase):
    """Each refusal is one line that says what to do."""

    def setUp(self) -> None:
        """Have an image."""
        self.path = os.path.abspath(self.mktemp())
        create_image(self.path, 1 << 20)
        self.threads = Threads()
        self.factory = FileFactory()

    def parameters(self, path: str, options: str = "", size: int | None = 1 << 20, block: int = 512) -> Any:
        """Return what the device would pass."""
        return DeviceParameters(DeviceConfig.parse(f"file{path}{options}"), size, block, self.threads, Logger())

    def open(self, *args: Any, **kwargs: Any) -> FileBackstore:
        """Open, or raise."""
        result = Deferred.fromCoroutine(self.factory.open(self.parameters(*args, **kwargs)))
        self.threads.run()
        backstore: FileBackstore = self.successResultOf(result)
        self.addCleanup(backstore._image.close)
        return backstore

    def problem(self, *args: Any, **kwargs: Any) -> str:
        """Return the line of the refusal."""
        result = Deferred.fromCoroutine(self.factory.open(self.parameters(*args, **kwargs)))
        self.threads.run()
        text = str(self.failureResultOf(result, ConfigError).value)
        self.assertNotIn("\n", text)
        return text

    def check(self, dev_config: str) -> str:
        """Return what the factory finds in a thread: nowhere else may the path be touched."""
        self.patch(file, "deferToThread", lambda function, *args: run(self.threads, function, *args))
        checked = as_deferred(self.factory.check(DeviceConfig.parse(dev_config)))
        self.assertNoResult(checked)
        self.threads.run()
        return self.successResultOf(checked) or ""

    def test_factory(self) -> None:
        """The factory provides what the registry looks for."""
        verifyObject(IBackstoreFactory, self.factory)

    def test_path_is_from_the_root(self) -> None:
        """file/x and file//x are /x."""
        for dev_config in (f"file{self.path}", f"file/{self.path}"):
            self.assertEqual(self.check(dev_config), "")
        self.assertEqual(self.open(self.path).size, 1 << 20)

    def test_missing(self) -> None:
        """A missing file is not made; the line names txtcmu create --new."""
        path = self.path + "x"
        self.assertIn(f"txtcmu create file{path} --new", self.problem(path))
        self.assertIn("--new", self.check(f"file{path}"))
        self.assertFalse(os.path.exists(path))

    def test_created(self) -> None:
        """Create makes a sparse file of the size, once; create=yes does so on open."""
        path = self.path + "x"
        created = self.factory.create(self.parameters(path, size=1 << 30))
        self.threads.run()
        self.successResultOf(created)
        self.assertEqual((os.stat(path).st_size, os.stat(path).st_blocks), (1 << 30, 0))
        again = self.factory.create(self.parameters(path))
        self.threads.run()
        self.assertIn("exists already", str(self.failureResultOf(again, ConfigError).value))
        self.assertEqual(self.open(path + "y", ";create=yes").size, 1 << 20)
        self.assertEqual(self.open(path, ";create=yes").size, 1 << 30)

    def test_opening_asks_the_filesystem_in_a_thread(self) -> None:
        """Not even whether there is a file is asked in the reactor's thread: the filesystem may hang."""
        asked: list[object] = []
        self.patch(os.path, "exists", asked.append)
        path = self.path + "x"
        result = Deferred.fromCoroutine(self.factory.open(self.parameters(path, ";create=yes")))
        self.assertNoResult(result)
        self.assertEqual(asked, [])
        self.threads.run()
        self.addCleanup(self.successResultOf(result)._image.close)
        self.assertEqual(asked, [path])

    def test_create_refusals(self) -> None:
        """Create without a size, or where there is no directory, is refused and leaves nothing behind."""
        error = self.assertRaises(ConfigError, self.factory.create, self.parameters(self.path, size=None))
        self.assertIn("--size", str(error))
        self.assertIn("--size", self.problem(self.path + "new", ";create=yes", size=None))
        for path, size in ((self.path + "/x", 1), (self.path + "x/y", 1), (self.path + "z", 1 << 62)):
            created = self.factory.create(self.parameters(path, size=size))
            self.threads.run()
            self.failureResultOf(created, ConfigError)
            self.assertFalse(os.path.exists(path))

    def test_directory(self) -> None:
        """A directory is refused, by check and by open."""
        path = os.path.dirname(self.path)
        self.assertIn("is a directory", self.problem(path))
        self.assertIn("is a directory", self.check(f"file{path}"))

    def test_pipe(self) -> None:
        """A pipe is refused without waiting for its writer."""
        os.mkfifo(self.path + "p")
        self.assertIn("neither a file nor a block device", self.problem(self.path + "p"))

    def test_sizes(self) -> None:
        """An empty file, and one that is not a number of blocks, are refused."""
        os.truncate(self.path, 1000)
        self.assertIn("not a multiple of the 512-byte block", self.problem(self.path))
        os.truncate(self.path, 512)
        self.assertIn("not a multiple of the 4096-byte block", self.problem(self.path, block=4096))
        os.truncate(self.path, 0)
        self.assertIn("is empty", self.problem(self.path))

    def test_one_writer(self) -> None:
        """An image that is open for writing cannot be opened again, not even for reading."""
        self.open(self.path)
        self.assertIn("in use", self.problem(self.path))
        self.assertIn("in use", self.problem(self.path, ";read-only=yes"))

    def test_many_readers(self) -> None:
        """Several may read an image; nobody can write it meanwhile."""
        for _ in range(2):
            backstore = self.open(self.path, ";read-only=yes")
            self.assertTrue(backstore.read_only)
            self.assertFalse(IDiscard.providedBy(backstore))
        self.assertIn("in use", self.problem(self.path))

    def test_closing_unlocks(self) -> None:
        """A closed image can be opened again."""
        image = open_image(self.path)
        image.close()
        self.open(self.path)

    def test_failed_open_unlocks(self) -> None:
        """An open that was refused leaves no lock and no descriptor behind."""
        os.truncate(self.path, 1000)
        before = len(os.listdir("/proc/self/fd"))
        self.problem(self.path)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        os.truncate(self.path, 1024)
        self.open(self.path)

    def test_permission(self) -> None:
        """A file that may not be written is refused by a line that names read-only=yes."""
        self.patch(os, "open", failing(errno.EACCES))
        self.assertIn("read-only=yes", self.problem(self.path))
        self.assertNotIn("read-only=yes", self.problem(self.path, ";read-only=yes"))
        self.patch(os, "open", failing(errno.EROFS))
        self.assertIn("read-only=yes", self.problem(self.path))
        self.patch(os, "open", failing(errno.EBUSY))
        self.assertIn("mounted", self.problem(self.path))

    def test_options(self) -> None:
        """Options are yes or no; making and only reading exclude each other."""
        for options in (";create=maybe", ";read-only=1", ";create=yes;read-only=yes"):
            problem = self.factory.check(DeviceConfig.parse(f"file{self.path}{options}"))
            self.assertIn("-" if "1" in options else "create", problem or "")


class FakeDevice(SystemCalls):
    """A block device in a file, with a driver that can do what the test says."""

    def __init__(self, write_zeroes: int, discard: int) -> None:
        self.limits = {
            "write_zeroes_max_bytes": write_zeroes,
            "discard_max_bytes": discard,
            "discard_granularity": 8192,
        }
        self.trimmed: list[tuple[int, int]] = []

    def fstat(self, fd: int) -> os.stat_result:
        """Say that it is a block device."""
        status = list(os.fstat(fd))
        status[stat.ST_MODE] = stat.S_IFBLK | 0o600
        return os.stat_result([*status, *[0] * 9])

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        """Answer what is asked of block devices."""
        match request:
            case fileio.BLKGETSIZE64:
                return struct.pack("Q", os.fstat(fd).st_size)
            case fileio.BLKSSZGET:
                return struct.pack("i", 512)
            case fileio.BLKPBSZGET | fileio.BLKBSZGET:
                return struct.pack("i", 4096)
            case fileio.BLKDISCARD:
                start, length = struct.unpack("QQ", argument)
                self.trimmed.append((start, length))
                return argument
        raise OSError(errno.ENOTTY, "what?")

    def queue_limit(self, device: int, name: str) -> int:
        """Return what sysfs would say."""
        return self.limits[name]

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """Do whole sectors, and holes only when the driver can zero."""
        if (offset | length) % 512:
            raise OSError(errno.EINVAL, "unaligned")
        if mode == fileio.PUNCH_HOLE and not self.limits["write_zeroes_max_bytes"]:
            raise OSError(errno.EOPNOTSUPP, "cannot zero")
        SystemCalls.fallocate(fd, mode, offset, length)


class DeviceTests(SynchronousTestCase):
    """Block devices, by ioctls that the test answers."""

    def image(self, write_zeroes: int, discard: int) -> tuple[Image, FakeDevice]:
        """Open a device of 64 KiB of ones."""
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(b"1" * 65536)
        system = FakeDevice(write_zeroes, discard)
        image = open_image(path, system=system)
        self.addCleanup(image.close)
        return image, system

    def test_measured(self) -> None:
        """Size, blocks and granularity are the device's own."""
        image, _ = self.image(1 << 20, 1 << 20)
        self.assertEqual((image.size, image.physical_block_size, image.discard_granularity), (65536, 4096, 8192))
        self.assertTrue(image.discard_zeroes)

    def test_unaligned(self) -> None:
        """Zeroing and discard are exact to the byte, although the device takes whole sectors only."""
        for name in ("write_zeroes", "discard"):
            image, _ = self.image(1 << 20, 1 << 20)
            getattr(image, name)(100, 5000)
            getattr(image, name)(20000, 7)
            expected = bytearray(b"1" * 65536)
            expected[100:5100], expected[20000:20007] = bytes(5000), bytes(7)
            self.assertEqual(os.pread(image.fd, 65536, 0), expected)

    def test_trim_without_promise(self) -> None:
        """A device that can trim but not zero frees whole sectors and promises no zeroes."""
        image, system = self.image(0, 1 << 20)
        self.assertFalse(image.discard_zeroes)
        image.discard(100, 5000)
        image.discard(600, 100)
        self.assertEqual(system.trimmed, [(512, 4096)])
        image.write_zeroes(0, 65536)
        self.assertEqual(os.pread(image.fd, 65536, 0), bytes(65536))

    def test_neither(self) -> None:
        """A device that can do neither offers no discard."""
        image, _ = self.image(0, 0)
        self.assertEqual(image.discard_granularity, 0)

    def test_exclusive(self) -> None:
        """A device is opened with O_EXCL, as the kernel's own users of devices do, but not when it is only read."""
        opened: list[int] = []
        path = os.path.abspath(self.mktemp())
        create_image(path, 65536)
        real = os.open

        def open_(path: str, flags: int) -> int:
            opened.append(flags & os.O_EXCL)
            return real(path, flags & ~os.O_EXCL)

        system = FakeDevice(0, 0)
        with open(path, "rb") as file:
            status = system.fstat(file.fileno())
        self.patch(os, "stat", lambda path: status)
        self.patch(os, "open", open_)
        for read_only in (False, True):
            open_image(path, read_only=read_only, system=system).close()
        self.assertEqual(opened, [os.O_EXCL, 0])

    def test_queue_limits(self) -> None:
        """The limits of a disk and of its partitions come from sysfs; of what is not there they are 0."""
        self.assertEqual(fileio.queue_limit(os.makedev(4095, 1), "discard_max_bytes"), 0)
        for name in os.listdir("/sys/class/block"):
            with open(f"/sys/class/block/{name}/dev") as file:
                major, minor = map(int, file.read().split(":"))
            self.assertGreaterEqual(fileio.queue_limit(os.makedev(major, minor), "logical_block_size"), 512, name)


class ResizeTests(Injected):
    """What the contract cannot see of a change of size."""

    def resized(self, backstore: FileBackstore, size: int) -> Deferred[None]:
        resized = backstore.resize(size)
        self.threads.run()
        return resized

    def test_in_a_thread(self) -> None:
        """A change of size waits for the filesystem in a thread; until it is made the size is what it was."""
        backstore = self.open()
        resized = backstore.resize(8 * PAGE)
        self.assertEqual((backstore.size, os.path.getsize(self.path)), (16 * PAGE, 16 * PAGE))
        self.threads.run()
        self.successResultOf(resized)
        self.assertEqual((backstore.size, os.path.getsize(self.path)), (8 * PAGE, 8 * PAGE))

    def test_impossible(self) -> None:
        """A size that the filesystem refuses changes nothing."""
        backstore = self.open(ftruncate=failing(errno.EFBIG))
        self.failureResultOf(self.resized(backstore, 1 << 62), ConfigError)
        self.assertEqual(backstore.size, 16 * PAGE)

    def test_not_durable(self) -> None:
        """A size that cannot be made durable is an error, and the size that is there is the one that is told."""
        backstore = self.open(fdatasync=failing(errno.EIO))
        self.failureResultOf(self.resized(backstore, 8 * PAGE), OSError)
        self.assertEqual((backstore.size, os.path.getsize(self.path)), (8 * PAGE, 8 * PAGE))

    def test_error_of_an_earlier_write(self) -> None:
        """The report of a lost write is not spent on a change of size: that has an open file of its own."""
        synced: list[int] = []
        backstore = self.open(fdatasync=synced.append)
        self.successResultOf(self.resized(backstore, 8 * PAGE))
        self.assertEqual(len(synced), 1)
        self.assertNotIn(backstore._fd, synced)

    def test_read_only(self) -> None:
        """An image that is only read does not offer to be resized."""
        backstore = FileBackstore(open_image(self.path, read_only=True), self.threads)
        self.addCleanup(backstore._image.close)
        self.assertFalse(IResizable.providedBy(backstore))
        self.assertEqual(backstore.size, 16 * PAGE)

    def test_device_that_grew(self) -> None:
        """A block device is as large as it is now."""
        device = FakeDevice(0, 0)
        backstore = FileBackstore(open_image(self.path, system=device), self.threads)
        self.addCleanup(backstore._image.close)
        self.assertFalse(IResizable.providedBy(backstore))
        os.truncate(self.path, 32 * PAGE)
        self.assertEqual(backstore.size, 32 * PAGE)


class FakeDeviceTests(DeviceContract, TestCase):
    """The contract on a device that can zero; tests/kernel/test_block_device.py has a real one."""

    rounds = 60

    def calls(self) -> SystemCalls:
        """Be a device that zeroes and trims."""
        return FakeDevice(1 << 20, 1 << 20)


class TrimmingDeviceTests(FakeDeviceTests):
    """The contract on a device that trims without a promise of zeroes."""

    def calls(self) -> SystemCalls:
        """Be a device that only trims."""
        return FakeDevice(0, 1 << 20)


class PlainDeviceTests(DeviceContract, TestCase):
    """The contract on a device that can neither zero nor trim."""

    companions = DeviceContract.companions - {IDiscard}
    rounds = 60

    def calls(self) -> SystemCalls:
        """Be a plain device."""
        return FakeDevice(0, 0)
