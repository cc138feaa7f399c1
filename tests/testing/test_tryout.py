"""``txtcmu try``: what it refuses to touch, what it finds, and that good handlers pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from examples.dict_disk import dictionary
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.backstores.file import FileFactory
from txtcmu.backstores.memory import MemoryBackstore, MemoryFactory
from txtcmu.backstores.s3 import S3Factory
from txtcmu.cli import main
from txtcmu.cli.environment import Environment
from txtcmu.config import Configuration
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import BackstoreError, ConfigError, NotReadyError
from txtcmu.factory import Factory
from txtcmu.interfaces import ICommandHandler
from txtcmu.testing import contractrun
from txtcmu.testing.load import Load
from txtcmu.testing.storage import Storage
from txtcmu.testing.tryout import Trial

MIB = 1 << 20
SIZE = 2 * MIB


class Kept:
    """A handler of one disk, which is there until the test ends; tests spoil it.

    :ivar backstore_class: what it opens.
    :ivar exists: whether create has been called.
    """

    def __init__(self, backstore_class: Any = MemoryBackstore, exists: bool = False) -> None:
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.memory = MemoryFactory(self.directory.name)
        self.backstore_class = backstore_class
        self.factory: Any = Factory(name="memory", summary="", opener=self.open, creator=self.create)
        if exists:
            self.memory.create(self.parameters(SIZE))

    def parameters(self, size: int | None) -> DeviceParameters:
        config: Any = DeviceConfig.parse("memory/disk")
        return DeviceParameters(config, size, 512, None, None)  # type: ignore[arg-type]

    def create(self, parameters: Any) -> None:
        self.memory.create(parameters)

    def open(self, parameters: Any) -> Any:
        image = self.memory.open(parameters)._image
        return self.backstore_class(image)

    def fill(self, offset: int, data: bytes) -> None:
        """Put something into the disk."""
        with open(os.path.join(self.directory.name, "txtcmu-disk"), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def content(self) -> bytes:
        """Return the disk."""
        return Path(self.directory.name, "txtcmu-disk").read_bytes()


class TryCase(TestCase):
    def kept(self, backstore_class: Any = MemoryBackstore, exists: bool = False) -> Kept:
        """Return a handler whose disk goes with the test."""
        kept = Kept(backstore_class, exists)
        self.addCleanup(kept.directory.cleanup)
        return kept

    async def trial(self, factory: Any, **arguments: Any) -> Trial:
        """Try a handler."""
        from twisted.internet import reactor

        config = DeviceConfig.parse(arguments.pop("dev_config", "memory/disk"))
        arguments = {"size": SIZE, "block_size": 512, "overwrite": False, "seconds": 0, "operations": 300, **arguments}
        trial = Trial(factory, config, **arguments)
        await trial.run(reactor)
        return trial

    async def refused(self, factory: Any, **arguments: Any) -> str:
        """Return why a handler is not tried."""
        try:
            await self.trial(factory, **arguments)
        except ConfigError as error:
            return str(error)
        raise AssertionError("it was tried")

    def problems(self, trial: Trial) -> list[str]:
        """Return the tests that failed."""
        return [outcome.name for outcome in trial.outcomes if outcome.problem]


class PassTests(TryCase):
    async def test_memory(self) -> None:
        """A good handler passes all of the contract, and the load uses every kind of command that it has."""
        trial = await self.trial(self.kept().factory)
        assert trial.load is not None
        self.assertEqual((self.problems(trial), trial.load.problems, trial.passed), ([], [], True))
        self.assertTrue({"read", "write", "write FUA", "flush", "unmap", "verify"} <= trial.load.tallies.keys())
        self.assertIn("test_reopen", [outcome.name for outcome in trial.outcomes])
        self.assertTrue(all(outcome.sentence.endswith(".") for outcome in trial.outcomes))

    async def test_file(self) -> None:
        """Handlers whose work is done in threads are tried with threads, and with blocks of 4096 bytes."""
        path = os.path.abspath(self.mktemp())
        trial = await self.trial(FileFactory(), dev_config=f"file{path}", size=16 * MIB, block_size=4096)
        assert trial.load is not None
        self.assertEqual((self.problems(trial), trial.load.problems), ([], []))
        self.assertTrue(trial.survives)
        self.assertTrue(os.path.exists(path))

    async def test_odd_size(self) -> None:
        """A size of an odd number of blocks asks nothing of the handler that is no whole block."""

        class Strict(MemoryBackstore):
            def readv(self, offset: int, buffers: list[memoryview]) -> int:
                self._whole(offset, sum(map(len, buffers)))
                return super().readv(offset, buffers)

            def read(self, offset: int, length: int) -> bytes:
                self._whole(offset, length)
                return super().read(offset, length)

            def writev(self, offset: int, buffers: list[memoryview]) -> None:
                self._whole(offset, sum(map(len, buffers)))
                super().writev(offset, buffers)

            def discard(self, offset: int, length: int) -> None:
                self._whole(offset, length)
                super().discard(offset, length)

            write_zeroes = discard

            def resize(self, size: int) -> None:
                self._whole(0, size)
                super().resize(size)

            def _whole(self, offset: int, length: int) -> None:
                if offset % 512 or length % 512:
                    raise BackstoreError(f"{length} bytes at {offset}")

        trial = await self.trial(self.kept(Strict).factory, size=SIZE + 512)
        assert trial.load is not None
        self.assertEqual((self.problems(trial), trial.load.problems, trial.passed), ([], [], True))

    async def test_nothing_to_make(self) -> None:
        """A plugin of 25 lines, whose disk goes with it, has no tests of durability, and passes."""
        trial = await self.trial(dictionary, dev_config="dict/a")
        assert trial.load is not None
        self.assertEqual((self.problems(trial), trial.load.problems, trial.passed), ([], [], True))
        self.assertIs(trial.survives, False)
        self.assertNotIn("test_reopen", [outcome.name for outcome in trial.outcomes])

    async def test_overwrite(self) -> None:
        """With leave to do so, storage that is there is used as it is, of its own size."""
        kept = self.kept(exists=True)
        kept.fill(5000, b"precious")
        trial = await self.trial(kept.factory, overwrite=True, size=None)
        assert trial.storage is not None
        self.assertEqual((trial.passed, trial.storage.size, trial.storage.made), (True, SIZE, False))


class ServerTests(TryCase):
    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs

    async def test_s3(self) -> None:
        """A handler that works over the network is tried on a real server."""
        from twisted.internet import reactor

        config = DeviceConfig("s3", f"{self.server.bucket}/{self.id()}", {"object_size": "256K"})
        config = config.with_defaults(self.server.options)
        trial = Trial(S3Factory("here"), config, SIZE, 512, overwrite=False, seconds=0, operations=150)
        await trial.run(reactor)
        assert trial.load is not None
        self.assertEqual((self.problems(trial), trial.load.problems, trial.passed), ([], [], True))
        self.assertTrue(trial.survives)


class RefusalTests(TryCase):
    async def test_existing_storage(self) -> None:
        """Storage that is there is refused, even empty, and the mend named."""
        kept = self.kept(exists=True)
        self.assertIn("if its data may be overwritten, say --overwrite", await self.refused(kept.factory))

    async def test_existing_data(self) -> None:
        """Data behind a handler that has nothing to make is found, and left as it is."""
        kept = self.kept(exists=True)
        kept.fill(SIZE - 1, b"x")
        before = kept.content()
        factory = Factory(name="memory", summary="", opener=kept.open)
        self.assertIn("holds data", await self.refused(factory))
        self.assertEqual(kept.content(), before)

    async def test_wrong_size(self) -> None:
        """Storage of another size is named with its size; too little for the tests is refused."""
        kept = self.kept(exists=True)
        self.assertIn(f"say --size {SIZE}", await self.refused(kept.factory, overwrite=True, size=4 * MIB))
        self.assertIn("must be 2097152 to 134217728", await self.refused(kept.factory, size=MIB))
        self.assertIn("multiple of 512", await self.refused(kept.factory, size=SIZE + 1))
        self.assertIn("2097152 to 134217728", await self.refused(kept.factory, size=(128 << 20) + 512))

    async def test_no_disk(self) -> None:
        """What is no plain disk, or read-only, cannot be tried."""

        @implementer(ICommandHandler)
        class Handler:
            def handle(self, command: object) -> None:
                """Answer nothing."""

            def close(self) -> None:
                """Be closed."""

        class ReadOnly(MemoryBackstore):
            read_only = True

        factory = Factory(name="memory", summary="", opener=lambda _: Handler())
        self.assertIn("no plain disks", await self.refused(factory))
        self.assertIn("is read-only", await self.refused(self.kept(ReadOnly).factory))

    async def test_configuration(self) -> None:
        """Unknown options, and what check says, are one line."""
        kept = self.kept()
        self.assertIn("has no option 'x'", await self.refused(kept.factory, dev_config="memory/disk;x=y"))
        factory = Factory(name="memory", summary="", opener=kept.open, checker=lambda _: "no such place")
        self.assertEqual(await self.refused(factory), "no such place")

    async def test_away(self) -> None:
        """So is storage that cannot be reached now."""

        def away(_: object) -> None:
            raise NotReadyError("connection refused")

        for factory in (
            Factory(name="memory", summary="", opener=away),
            Factory(name="memory", summary="", opener=self.kept().open, creator=away),
        ):
            self.assertEqual(await self.refused(factory), "memory/disk: connection refused")

    async def test_lost_at_close(self) -> None:
        """Storage that is still there, while what was flushed is not, is no disk that goes when it is closed."""
        kept = self.kept()

        def opener(parameters: Any) -> Any:
            kept.fill(0, bytes(SIZE))
            return kept.open(parameters)

        factory = Factory(name="memory", summary="", opener=opener, creator=kept.create)
        self.assertIn("what was written and flushed is not", await self.refused(factory))

    async def test_create_destroys(self) -> None:
        """A create that touches what is there is found."""
        kept = self.kept(exists=True)
        factory = Factory(name="memory", summary="", opener=kept.open, creator=lambda _: kept.fill(0, bytes(SIZE)))
        self.assertIn("create has touched storage that was there", await self.refused(factory))


class Swallows(MemoryBackstore):
    """Loses one write in fifty, when there are many."""

    count = 0

    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        Swallows.count += 1
        if Swallows.count % 50:
            super().writev(offset, buffers)


class Fails(MemoryBackstore):
    """Cannot read its second half."""

    def readv(self, offset: int, buffers: list[memoryview]) -> int:
        if offset > SIZE // 2:
            raise BackstoreError("gone")
        return super().readv(offset, buffers)


class FindTests(TryCase):
    """What the load alone finds, on storage that is new."""

    async def load(self, backstore_class: Any, operations: int = 300) -> Load:
        """Put a load on a new disk."""
        from twisted.internet import reactor

        kept = self.kept(backstore_class)
        storage = Storage(kept.factory, DeviceConfig.parse("memory/disk"), SIZE, 512, reactor)
        await storage.make(False, SIZE)
        load = Load(reactor, storage, operations.__le__)
        await load.run(True)
        return load

    async def test_sound(self) -> None:
        """A sound disk has no problems, of which the following could be an echo; every command is counted."""
        load = await self.load(MemoryBackstore)
        self.assertEqual(load.problems, [])
        counted = sum(len(tally.seconds) for kind, tally in load.tallies.items() if kind != "verify")
        self.assertGreaterEqual(counted, 300)
        self.assertEqual(len(load.tallies["verify"].seconds), 4)
        self.assertGreater(load.elapsed, 0)

    async def test_lost_writes(self) -> None:
        """Lost writes are found, with the sector."""
        load = await self.load(Swallows)
        self.assertTrue(any("sector" in problem for problem in load.problems), load.problems)

    async def test_errors(self) -> None:
        """Commands that end with an error are counted, and the first ones named with their sense."""
        load = await self.load(Fails)
        self.assertGreater(load.tallies["read"].errors, 0)
        self.assertIn("ended with sense 4/44/00", load.problems[0])
        self.flushLoggedErrors(BackstoreError)

    async def test_lost_at_close(self) -> None:
        """What is lost by a close after a flush is found after the reopen."""

        class Loses(MemoryBackstore):
            def close(self) -> None:
                if os.pread(self._fd, 1 << 20, 0).strip(b"\0"):
                    os.pwrite(self._fd, bytes(1 << 19), 0)
                super().close()

        load = await self.load(Loses)
        self.assertTrue(load.problems)
        self.assertTrue(all("after close and reopen: sector" in problem for problem in load.problems), load.problems)

    async def test_slow_and_aborted(self) -> None:
        """Commands that take long are aborted in flight, and what is left of them is what may be left."""
        from twisted.internet import reactor

        class Slow(MemoryBackstore):
            def writev(self, offset: int, buffers: list[memoryview]) -> Any:
                data, written = b"".join(buffers), MemoryBackstore.writev
                result: Deferred[None] = Deferred(lambda _: call.cancel())
                call: Any = reactor.callLater(0.001, lambda: result.callback(written(self, offset, [memoryview(data)])))
                return result

        load = await self.load(Slow, 600)
        self.assertEqual(load.problems, [])
        self.assertGreater(len(load.tallies["abort"].seconds), 0)


class ContractRunTests(TryCase):
    async def test_failures_are_named(self) -> None:
        """A test that fails has its problem in one line; one that breaks has its traceback, too."""

        class NoFlush(Swallows):
            def flush(self) -> None:
                raise RuntimeError("flush is not\nwritten yet")

        kept = self.kept(NoFlush)
        from twisted.internet import reactor

        storage = Storage(kept.factory, DeviceConfig.parse("memory/disk"), SIZE, 512, reactor)
        await storage.make(False, SIZE)
        outcomes = {each.name: each async for each in contractrun.run_contract(reactor, storage, False)}
        outcome = outcomes["test_cancelled_flush_does_no_harm"]
        self.assertEqual(outcome.problem, "RuntimeError: flush is not written yet")
        self.assertIn("Traceback", outcome.details)
        self.assertIsNone(outcomes["test_attributes"].problem)

    async def test_hang(self) -> None:
        """A test that hangs ends the contract, and is named."""
        from twisted.internet import reactor

        clock = Clock()

        class Hangs(MemoryBackstore):
            def flush(self) -> Any:
                reactor.callLater(0, clock.advance, contractrun.PATIENCE)
                return Deferred()

        kept = self.kept(Hangs)
        storage = Storage(kept.factory, DeviceConfig.parse("memory/disk"), SIZE, 512, reactor)
        await storage.make(False, SIZE)
        outcomes = [each async for each in contractrun.run_contract(clock, storage, False)]
        self.assertEqual(outcomes[-1].name, "test_cancelled_flush_does_no_harm")
        self.assertIn("did not end in 300 s", str(outcomes[-1].problem))


class CommandTests(SynchronousTestCase):
    def run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the real command."""
        command = [sys.executable, "-c", "from txtcmu.cli import main; main()", "try", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_passes(self) -> None:
        """The command itself, as a user without root has it: tables, what was left, and status 0; then a refusal."""
        path = os.path.abspath(self.mktemp())
        result = self.run_command(f"file{path}", "--size", "4M", "--operations", "200")
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
        self.assertRegex(result.stdout, r"(?m)^read_after_write +ok +A read that starts")
        self.assertRegex(result.stdout, r"(?m)^read +\d+ +[\d.]+ +[\d.]+ +[\d.]+ +0$")
        self.assertRegex(result.stdout, r"(?m)^passed: 0 of \d+ tests failed, 0 problems under load$")
        self.assertIn("was made and is left", result.stderr)
        again = self.run_command(f"file{path}", "--size", "4M", "--operations", "200")
        self.assertEqual((again.returncode, again.stdout, again.stderr.count("\n")), (1, "", 1))
        self.assertIn("say --overwrite", again.stderr)

    def test_fails(self) -> None:
        """Whatever fails makes the status 1, and is in the table."""

        async def run(trial: Trial, reactor: Any) -> None:
            trial.outcomes += [contractrun.Outcome("test_a", "It works."), contractrun.Outcome("test_b", "So.", "no")]

        self.patch(Trial, "run", run)

        def runs(function: Any) -> None:
            Deferred.fromCoroutine(function(None))

        world = Environment(find=lambda name: dictionary, load=lambda path: Configuration(), run=runs)
        result = CliRunner().invoke(main, ["try", "dict/a"], obj=world)
        self.assertEqual(result.exit_code, 1)
        self.assertRegex(result.stdout, r"(?m)^b +no +So\.")
        self.assertIn("failed: 1 of 2 tests failed, no load", result.stdout)

    def test_interrupted(self) -> None:
        """What was ended early has not passed, whatever there was to see until then."""

        async def run(trial: Trial, reactor: Any) -> None:
            trial.outcomes.append(contractrun.Outcome("test_a", "It works."))
            trial.load = Load(None, Storage(dictionary, trial.config, SIZE, 512, None), bool)

        self.patch(Trial, "run", run)

        def runs(function: Any) -> None:
            Deferred.fromCoroutine(function(None))
            raise KeyboardInterrupt

        world = Environment(find=lambda name: dictionary, load=lambda path: Configuration(), run=runs)
        result = CliRunner().invoke(main, ["try", "dict/a"], obj=world)
        self.assertEqual(result.exit_code, 130)
        self.assertIn("not finished: 0 of 1 tests failed, 0 problems under load", result.stdout)

    def test_usage(self) -> None:
        """What contradicts itself is a mistake of usage."""
        result = CliRunner().invoke(main, ["try", "dict/a", "--seconds", "1", "--operations", "1"])
        self.assertEqual(result.exit_code, 2)
        self.assertIn("--seconds and --operations exclude each other", result.stderr)
