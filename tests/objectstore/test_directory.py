"""Objects in a directory: the contract, the probe, and what becomes of the file system's failures."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from tests.objectstore.storecontract import StoreContract
from txtcmu.errors import ObjectStoreError, PreconditionFailed, SpaceExhaustedError, StoreUnavailable
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.directory import DirectoryObjectStore, connect
from txtcmu.objectstore.objectfiles import ObjectFiles, SystemCalls
from txtcmu.objectstore.objects import ObjectDamaged, StoreBroken
from txtcmu.objectstore.probe import probe
from txtcmu.objectstore.retry import Patience

REPOSITORY = Path(__file__).parent.parent.parent


class DirectoryCase(TestCase):
    """A test with a directory."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it, unittest would not
        """Start with an empty directory."""
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.system = SystemCalls()
        self.store: Any = await self.connect(self.system)

    async def connect(self, system: SystemCalls | None = None) -> Any:
        """Open the directory."""
        from twisted.internet import reactor

        store = await connect(reactor, self.path, system)
        self.addCleanup(store.close)
        return store

    def temporary(self) -> list[str]:
        """Return what is left of writers."""
        return os.listdir(os.path.join(self.path, "temporary"))

    async def line(self, request: Any, error: type[Exception], *words: str) -> None:
        """Assert that a request fails with exactly this error, in one line that holds ``words``."""
        with self.assertRaises(error) as caught:
            await request
        line = str(caught.exception)
        self.assertIsInstance(caught.exception, ObjectStoreError)
        if error is ObjectStoreError:
            self.assertNotIsInstance(caught.exception, StoreUnavailable)
        self.assertNotIn("\n", line)
        for word in words:
            self.assertIn(word, line)


class DirectoryStoreTests(StoreContract, DirectoryCase):
    """A directory keeps the contract."""

    def test_interface(self) -> None:
        """It provides what it says."""
        verifyObject(IObjectStore, self.store)

    async def test_probe(self) -> None:
        """The probe finds all conditions honoured, and leaves nothing behind."""
        self.assertTrue(await probe(self.store, "place/"))
        self.assertEqual(list(await self.store.list("")), [])
        self.assertEqual(self.temporary(), [])

    async def test_no_etag_comes_back(self) -> None:
        """The same content has another etag each time, so that a delayed replacement of it is refused."""
        first = await self.store.put("head", b"same")
        await self.store.put("head", b"other", if_match=first.etag)
        again = await self.store.put("head", b"same")
        self.assertNotEqual(first.etag, again.etag)
        await self.refused(self.store.put("head", b"late", if_match=first.etag))

    async def test_key_and_prefix(self) -> None:
        """A key may be the beginning of others, with a slash or without."""
        keys = ["a", "a/", "a/b", "a/b/c", "ab", "b/" + "x" * 300, "b/" + "x" * 300 + "/y"]
        for key in keys:
            await self.store.put(key, key.encode(), absent=True)
        self.assertEqual([each.key for each in await self.store.list("")], keys)
        await self.store.delete("a/b")
        self.assertEqual((await self.store.get("a/b/c")).data, b"a/b/c")

    async def test_pages(self) -> None:
        """A list of more keys than fit on a page comes in pages, none twice and none left out."""
        for number in range(1005):
            os.makedirs(f"{self.path}/objects/d", exist_ok=True)
            with open(f"{self.path}/objects/d/{number:04}.object", "wb"):
                pass
        keys: list[str] = []
        while page := await self.store.list("d/", keys[-1] if keys else ""):
            self.assertLessEqual(len(page), 1000)
            keys += [each.key for each in page]
        self.assertEqual(keys, [f"d/{number:04}" for number in range(1005)])

    async def test_large_objects(self) -> None:
        """An object larger than one write comes back whole and in parts, with all of much metadata."""
        data = os.urandom(3 << 20)
        metadata = {f"name-{number}": "v" * 100 for number in range(50)}
        await self.store.put("large", memoryview(data).cast("I"), metadata=metadata)
        found = await self.store.get("large")
        self.assertTrue(found.data == data)
        self.assertEqual(found.metadata, metadata)
        self.assertEqual((await self.store.get("large", (2 << 20) - 5, 4096)).data, data[(2 << 20) - 5 :][:4096])

    async def test_races_between_stores(self) -> None:
        """Of many writers in two stores, each with threads, exactly one creates and one replaces."""
        other = await self.connect()
        etag = None
        for _ in range(5):
            puts = [
                store.put("key", b"%d" % number, absent=etag is None, if_match=etag)
                for number in range(8)
                for store in (self.store, other)
            ]
            for put in puts:
                put.addErrback(lambda failure: failure.trap(PreconditionFailed) and None)
            winners = [receipt for receipt in await gatherResults(puts) if receipt is not None]
            self.assertEqual(len(winners), 1)
            etag = winners[0].etag
            self.assertEqual((await other.head("key")).etag, etag)

    async def test_tidied_directories(self) -> None:
        """Somebody who removes empty directories meanwhile does no harm."""
        await self.store.put("a/b/c", b"data")
        await self.store.delete("a/b/c")
        os.removedirs(f"{self.path}/objects/a/b")
        os.rmdir(f"{self.path}/temporary")
        await self.store.put("a/b/c", b"data")
        self.assertEqual((await self.store.get("a/b/c")).data, b"data")

    def test_needs_no_other_packages(self) -> None:
        """A directory works where S3's packages are not installed, the probe included."""
        program = (
            "import sys; sys.modules.update(treq=None, botocore=None)\n"
            "import txtcmu.objectstore.directory, txtcmu.objectstore.probe"
        )
        subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


class FailureTests(DirectoryCase):
    """What the store makes of the file system's failures."""

    def fail_with(self, name: str, code: int, matching: Callable[[Any], bool] = lambda _: True) -> list[Any]:
        """Let a system call fail when its first argument matches; return where its calls are noted."""
        calls: list[Any] = []
        original = getattr(self.system, name)

        def replacement(first: Any, *args: Any, **kwargs: Any) -> Any:
            if not matching(first):
                return original(first, *args, **kwargs)
            calls.append(first)
            raise OSError(code, os.strerror(code))

        self.patch(self.system, name, replacement)
        return calls

    @staticmethod
    def is_directory(fd: int) -> bool:
        """Whether a descriptor is that of a directory."""
        return os.path.isdir(f"/proc/self/fd/{fd}")

    async def assert_unchanged(self) -> None:
        """Assert that nothing happened, and nothing is left."""
        store = await self.connect()
        self.assertEqual([found.key for found in await store.list("")], ["old"])
        self.assertEqual((await store.get("old")).data, b"old")
        self.assertEqual(self.temporary(), [])

    async def test_refusals(self) -> None:
        """A write that the system refuses changes nothing, and the line says what to do about it."""
        etag = (await self.store.put("old", b"old")).etag
        cases: list[tuple[str, int, type[Exception], str]] = [
            ("write", errno.ENOSPC, SpaceExhaustedError, "free space"),
            ("fsync", errno.ENOSPC, SpaceExhaustedError, "free space"),
            ("write", errno.EDQUOT, SpaceExhaustedError, "quota"),
            ("write", errno.EIO, StoreUnavailable, "dmesg"),
            ("fsync", errno.EIO, StoreUnavailable, "dmesg"),
            ("write", errno.EFBIG, ObjectStoreError, "ulimit"),
            ("link", errno.EPERM, ObjectStoreError, "hard links"),
            ("link", errno.EACCES, ObjectStoreError, "chown"),
            ("mkdir", errno.EROFS, ObjectStoreError, "remount"),
            ("mkdir", errno.ENOSPC, SpaceExhaustedError, "free space"),
        ]
        for number, (name, code, error, word) in enumerate(cases):
            with self.subTest(name, code=code):
                calls = self.fail_with(
                    name, code, lambda first: not isinstance(first, int) or not self.is_directory(first)
                )
                await self.line(self.store.put(f"{number}/key", b"new", absent=True), error, word, self.path)
                self.assertEqual(len(calls), 1)
                if name != "mkdir":
                    await self.line(self.store.put("old", b"new", if_match=etag), error, word, self.path)
                self.system.__init__()  # type: ignore[misc]  # all is well again
                await self.assert_unchanged()
        await self.store.put("new/key", b"new", absent=True)

    async def test_rename_and_unlink_fail(self) -> None:
        """A replacement or deletion that fails leaves the object as it was."""
        etag = (await self.store.put("old", b"old")).etag
        self.fail_with("rename", errno.EACCES)
        await self.line(self.store.put("old", b"new", if_match=etag), ObjectStoreError, "chown")
        await self.assert_unchanged()
        self.fail_with("unlink", errno.EROFS, lambda path: path.startswith("objects"))
        await self.line(self.store.delete("old"), ObjectStoreError, "remount")
        await self.assert_unchanged()

    async def test_fsync_of_a_directory_fails(self) -> None:
        """Nobody is told afterwards that the object is there, or is not; and no such fsync is tried again."""
        await self.store.put("old", b"old")
        calls = self.fail_with("fsync", errno.EIO, self.is_directory)
        await self.line(self.store.put("new", b"new", absent=True), StoreBroken, "not known", "check the file")
        for request in (
            lambda: self.store.put("new", b"new", absent=True),
            lambda: self.store.put("other", b"other"),
            lambda: self.store.delete("old"),
            lambda: self.store.get("new"),
            lambda: self.store.list("n"),
        ):
            await self.line(request(), StoreBroken, "not known")
        self.assertEqual(len(calls), 1)
        self.assertEqual((await self.store.get("old")).data, b"old")
        self.assertEqual((await (await self.connect()).get("new")).data, b"new")

    async def test_fsync_fails_after_a_deletion(self) -> None:
        """Nobody knows whether a deletion is durable whose fsync failed."""
        await self.store.put("old", b"old")
        self.fail_with("fsync", errno.EIO, self.is_directory)
        await self.line(self.store.delete("old"), StoreBroken, "not known")

    async def test_damage(self) -> None:
        """A file that was cut, or overwritten at its end, is damaged: listed without an etag, and never read."""
        await self.store.put("cut", b"0123456789")
        path = f"{self.path}/objects/cut.object"
        with open(path, "rb") as file:
            whole = file.read()
        flipped = bytearray(whole)
        flipped[-30] ^= 1
        for content in (b"", whole[:5], whole[:-1], bytes(flipped), b"\0" * len(whole), whole + b"\0"):
            with open(path, "wb") as file:
                file.write(content)
            await self.line(self.store.get("cut"), ObjectDamaged, "damaged", "restore")
            await self.line(self.store.put("cut", b"", if_match=""), ObjectDamaged, "damaged")
            await self.line(self.store.put("cut", b"", absent=True), ObjectDamaged, "damaged")
            self.assertEqual([(each.etag, each.size) for each in await self.store.list("")], [("", len(content))])
        await self.store.delete("cut")
        await self.store.put("cut", b"", absent=True)

    async def test_unreadable(self) -> None:
        """What the disk cannot read is damaged; what it may read later is not."""
        await self.store.put("key", b"0123456789")
        for code, error in ((errno.EIO, ObjectDamaged), (errno.ETIMEDOUT, StoreUnavailable)):
            self.fail_with("pread", code)
            await self.line(self.store.get("key"), error, os.strerror(code))
            self.system.__init__()  # type: ignore[misc]

    async def test_renamed(self) -> None:
        """A file under another's name is not taken for it."""
        await self.store.put("key", b"data")
        os.rename(f"{self.path}/objects/key.object", f"{self.path}/objects/Key.object")
        await self.line(self.store.get("Key"), ObjectStoreError, "holds 'key'", "case")

    async def test_impossible_directories(self) -> None:
        """A directory that does not exist, or is none, is refused with the mend; one that vanishes is not empty."""
        from twisted.internet import reactor

        await self.line(connect(reactor, self.path + "/none"), ObjectStoreError, "mkdir -p")
        with open(self.path + "/file", "w"):
            pass
        await self.line(connect(reactor, self.path + "/file"), ObjectStoreError, "should be a directory")
        os.mkdir(self.path + "/gone")
        store = await connect(reactor, self.path + "/gone")
        self.addCleanup(store.close)
        os.rmdir(self.path + "/gone")
        await self.line(store.get("key"), ObjectStoreError, "removed")
        await self.line(store.put("key", b"data"), ObjectStoreError, "removed")
        await self.line(store.list(""), ObjectStoreError, "removed")

    async def test_lock_is_held(self) -> None:
        """While a stopped process holds the lock, objects are created and read; replacements wait, then fail."""
        from twisted.internet import reactor

        await self.store.put("old", b"old")
        lock = os.open(f"{self.path}/lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        hasty: Any = DirectoryObjectStore(reactor, ObjectFiles(self.path), Patience(reactor, lambda: 1.0, total=0.1))
        self.addCleanup(hasty.close)
        await hasty.put("new", b"new", absent=True)
        await self.line(hasty.put("old", b"never"), StoreUnavailable, "lock")
        await self.line(hasty.delete("old"), StoreUnavailable, "lock")
        self.assertEqual((await hasty.get("old")).data, b"old")
        waiting = self.store.put("old", b"patient")
        await hasty.get("old")
        self.assertFalse(waiting.called)
        os.close(lock)
        await waiting
        self.assertEqual((await hasty.get("old")).data, b"patient")


class ThreadTests(DirectoryCase):
    """Calls in threads cannot be recalled."""

    def hold_writes(self) -> tuple[threading.Event, threading.Event]:
        """Let each write wait; return what tells that one does, and what lets it go on."""
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        write = self.system.write

        def held(fd: int, data: Any) -> int:
            begun.set()
            go.wait(30)
            return write(fd, data)

        self.system.write = held
        return begun, go

    async def test_cancelled(self) -> None:
        """A cancelled put fires when its thread has ended, and says what became of it."""
        begun, go = self.hold_writes()
        put: Deferred[Any] = self.store.put("key", bytearray(b"data"))
        await self.store.head("key")  # the reactor's threads run
        self.assertTrue(begun.wait(30))
        ended: list[Any] = []
        put.addBoth(ended.append)
        put.cancel()
        await self.store.head("key")
        self.assertEqual(ended, [])
        go.set()
        await self.store.close()
        self.assertEqual((await (await self.connect()).head("key")).etag, ended[0].etag)

    async def test_close_waits(self) -> None:
        """Close waits for what runs; nothing is begun afterwards, and closing again is no error."""
        begun, go = self.hold_writes()
        put = self.store.put("key", b"data")
        await self.store.head("key")
        self.assertTrue(begun.wait(30))
        ended: list[str] = []
        put.addCallback(lambda _: ended.append("put"))
        closed = self.store.close().addCallback(lambda _: ended.append("closed"))
        await self.line(self.store.get("key"), ObjectStoreError, "closed")
        self.assertEqual(ended, [])
        go.set()
        await closed
        self.assertEqual(ended, ["put", "closed"])
        await self.store.close()
        self.assertEqual((await (await self.connect()).get("key")).data, b"data")

    async def test_close_ends_waiting(self) -> None:
        """Close fails those that wait for the lock."""
        await self.store.put("key", b"data")
        lock = os.open(f"{self.path}/lock", os.O_RDWR)
        self.addCleanup(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = self.store.put("key", b"never")
        ended: list[Any] = []
        waiting.addBoth(ended.append)
        await self.store.close()
        self.assertTrue(ended[0].check(ObjectStoreError), ended)
