"""Objects as files: a kill between any two system calls, a power cut after it, and processes that race."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.objectstore.crashdisk import CrashDisk, Killed
from txtcmu.errors import PreconditionFailed
from txtcmu.objectstore.filenames import path_of
from txtcmu.objectstore.objectfiles import ObjectFiles

REPOSITORY = Path(__file__).parent.parent.parent
KEY = "volume/d/1/7"
PATH = "objects/" + path_of(KEY)
LOOKS = ("get", "list", "create", "compare", "sweep and get")


def refusing(call: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """Return a system call that is refused when none are left; the calls before and after it are not."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(left) == 0:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return call(*args, **kwargs)

    return wrapped


class KillTests(SynchronousTestCase):
    """A writer is killed after each number of system calls; then others come, and then the power fails."""

    def setUp(self) -> None:
        """Start with an empty directory."""
        self.make()

    def make(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.disk = CrashDisk(self.path)

    def open(self, calls: int | None = None) -> ObjectFiles:
        """Start a process."""
        files = ObjectFiles(self.path, self.disk.process(calls))
        self.addCleanup(files.close)
        return files

    def killed_at(self, calls: int, replaces: bool) -> bool:
        """Have one object written, or another replaced by it, with a kill; return whether there was one."""
        self.make()
        etag = self.open().put(KEY, b"old", {}, None, True) if replaces else None
        try:
            self.open(calls).put(KEY, b"new", {}, etag, not replaces)
        except Killed:
            return True
        return False

    def survives(self) -> bool:
        """Whether what has the object's name now will have it after a power cut."""
        return self.disk.survivor(PATH) == os.stat(os.path.join(self.path, PATH)).st_ino

    def sees(self, files: ObjectFiles, look: str, replaces: bool) -> bool:
        """Whether a process learns, in one of the ways that there are, that the object is there."""
        if look == "list":
            return bool(files.list("volume/", ""))
        if look in ("create", "compare"):
            condition = "0" * 32 if look == "compare" else None
            try:
                files.put(KEY, b"other", {}, condition, condition is None)
            except PreconditionFailed:
                return os.path.exists(os.path.join(self.path, PATH))
            self.assertEqual((look, replaces), ("create", False))
            return True
        if look == "sweep and get":
            files.sweep()
        return files.get(KEY, 0, None) is not None

    def test_acknowledged(self) -> None:
        """What was acknowledged survives the power cut, and so does its absence once it is deleted."""
        files = self.open()
        etag = files.put(KEY, b"one", {}, None, True)
        self.assertTrue(self.survives())
        files.put(KEY, b"two", {}, etag, False)
        self.assertTrue(self.survives())
        files.delete(KEY, None)
        self.assertIsNone(self.disk.survivor(PATH))

    def test_seen(self) -> None:
        """Whoever reads, lists, or is refused sees the old or the new object, whole; and it survives the power cut."""
        for replaces in (False, True):
            calls, outcomes = 0, set()
            while self.killed_at(calls, replaces):
                for look in LOOKS:
                    self.killed_at(calls, replaces)
                    other = self.open()
                    seen = self.sees(other, look, replaces)
                    if look == "sweep and get":
                        self.assertFalse(calls and os.listdir(f"{self.path}/temporary"))
                    self.assertTrue(seen or not replaces)
                    if seen:
                        self.assertTrue(self.survives(), f"{look} after {calls} calls, replaces: {replaces}")
                        found = other.get(KEY, 0, None)
                        assert found is not None
                        outcomes.add(found.data)
                calls += 1
            self.assertEqual(outcomes, {b"old" if replaces else b"other", b"new"})
            self.assertGreater(calls, 8)

    def refused_at(self, calls: int, replaces: bool) -> tuple[ObjectFiles, bool]:
        """Have one object written, or another replaced by it, while the system refuses one call.

        :return: the process, which goes on, and whether there was such a call.
        """
        self.make()
        etag = self.open().put(KEY, b"old", {}, None, True) if replaces else None
        system = self.disk.process()
        left = itertools.count(calls, -1)
        for name in ("open", "write", "mkdir", "link", "rename", "unlink"):
            setattr(system, name, refusing(getattr(system, name), left))
        files = ObjectFiles(self.path, system)
        self.addCleanup(files.close)
        try:
            files.put(KEY, b"new", {}, etag, not replaces)
            self.assertTrue(self.survives())
        except OSError:
            pass
        return files, next(left) < 0

    def test_refused(self) -> None:
        """So does what is seen after the system refused one call, a descriptor perhaps, and the process goes on."""
        for replaces in (False, True):
            calls, outcomes = 0, set()
            while self.refused_at(calls, replaces)[1]:
                for look in LOOKS:
                    for own in (True, False):
                        process, _ = self.refused_at(calls, replaces)
                        if self.sees(process if own else self.open(), look, replaces):
                            self.assertTrue(self.survives(), f"{look} after {calls} calls, {replaces=}, {own=}")
                        found = process.get(KEY, 0, None)
                        outcomes.add(found and found.data)
                calls += 1
            self.assertLessEqual({b"old" if replaces else b"other", b"new"}, outcomes)
            self.assertGreater(calls, 8)

    def test_deletion(self) -> None:
        """A killed deletion has removed the object or not; who deletes again makes it durable."""
        for calls in range(2):
            self.make()
            self.open().put(KEY, b"old", {}, None, True)
            with self.assertRaises(Killed):
                self.open(calls).delete(KEY, None)
            self.assertEqual(self.open().get(KEY, 0, None) is None, calls == 1)
            self.assertTrue(self.disk.survivor(PATH))
            self.open().delete(KEY, None)
            self.assertIsNone(self.disk.survivor(PATH))

    def test_temporary_files_are_never_listed(self) -> None:
        """What a killed writer left is in no list, whatever the prefix."""
        calls = 0
        while self.killed_at(calls, replaces=False):
            listed = [found.key for found in self.open().list("", "")]
            self.assertIn(listed, ([], [KEY]))
            calls += 1

    def test_a_living_writers_file_is_not_swept(self) -> None:
        """The sweep of another process leaves alone what has a writer."""
        system = self.disk.process()
        fsync = system.fsync

        def meddled(fd: Any) -> None:
            self.open().sweep()
            fsync(fd)

        system.fsync = meddled
        files = ObjectFiles(self.path, system)
        self.addCleanup(files.close)
        files.put(KEY, b"new", {}, None, True)
        self.assertTrue(self.survives())


# Counts by compare-and-replace, and makes objects; says what was acknowledged.
RACER = """
import os, sys
from txtcmu.errors import PreconditionFailed
from txtcmu.objectstore.objectfiles import ObjectFiles
from txtcmu.objectstore.retry import Later

path, name = sys.argv[1:]
files = ObjectFiles(path)
files.sweep()
while True:
    found = files.get("count", 0, None)
    number = int(found.data) + 1
    if files.get("stop", 0, 0):
        break
    try:
        files.put(f"made/{number}", name.encode(), {}, None, True)
        os.write(1, f"made {number}\\n".encode())
    except PreconditionFailed:
        pass
    try:
        files.put("count", b"%d" % number, {"name": name}, found.etag, False)
        os.write(1, f"counted {number}\\n".encode())
    except (Later, PreconditionFailed):
        pass
os.write(1, b"end\\n")
"""


class ProcessTests(SynchronousTestCase):
    """Real processes in one directory."""

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start a racer."""
        command = [sys.executable, "-c", RACER, self.path, name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End a racer if the test could not."""
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def test_racers_are_killed(self) -> None:
        """No two processes are told the same success, none is lost, and kills leave nothing that hinders the rest."""
        chance = random.Random(4)
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        files = ObjectFiles(self.path)
        self.addCleanup(files.close)
        files.put("count", b"0", {}, None, True)
        said: dict[str, list[str]] = {}
        racers = {name: self.start(name) for name in ("a", "b", "c")}
        kills = 10
        for number in range(kills):
            victim = chance.choice(sorted(racers))
            process = racers.pop(victim)
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(1, 4))]  # it is at work
            os.kill(process.pid, signal.SIGKILL)
            said[victim] = [*lines, *process.communicate()[0].splitlines(True)]
            racers[f"{victim}{number}"] = self.start(f"{victim}{number}")
        files.put("stop", b"", {}, None, True)
        for name, process in racers.items():
            said[name] = process.communicate()[0].splitlines(True)
            self.assertEqual((process.returncode, said[name][-1]), (0, "end\n"))
        found = files.get("count", 0, None)
        assert found is not None
        count = int(found.data)
        # A process that was killed may have done one thing more than it could tell.
        counted = [line for lines in said.values() for line in lines if line.startswith("counted")]
        self.assertEqual(len(counted), len(set(counted)))
        self.assertTrue(count - kills <= len(counted) <= count)
        owners = {line.split()[1]: name for name, lines in said.items() for line in lines if line.startswith("made")}
        listed = {found.key: found for found in files.list("made/", "")}
        self.assertTrue(len(listed) - kills <= len(owners) <= len(listed))
        self.assertIn(len(listed), (count, count + 1))
        for number_made, owner in owners.items():
            found = files.get(f"made/{number_made}", 0, None)
            assert found is not None
            self.assertEqual(found.data.decode(), owner)
        files.sweep()
        self.assertEqual(os.listdir(f"{self.path}/temporary"), [])
