"""What the daemon does for a life in the I/O path of its own host, on a host made of files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.iopath import Host, enter_io_path

PR_SET_IO_FLUSHER = 57

# What the daemon imports before it serves, and then what a device imports, whose backstore fails as well.
_LATE_IMPORTS = """
import sys
from txtcmu import tap
options = tap.Options()
options.parseOptions(["--handler", "memory", "--config", "/dev/null"])
tap.makeService(options)
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
globalLogBeginner.beginLoggingTo([textFileLogObserver(open("/dev/null", "w"))], redirectStandardIO=False)
from txtcmu.backstores.memory import MemoryFactory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.interfaces import ICommandHandler
from txtcmu.testing.rig import Rig
from zope.interface import implementer
@implementer(ICommandHandler)
class Failing:
    def handle(self, command):
        raise ValueError("on purpose")
    def close(self):
        pass
config = DeviceConfig("memory", "disk", {"create": "yes"})
backstore = MemoryFactory().open(DeviceParameters(config, 1 << 20, 512, None, Logger()))
rig = Rig(backstore)
failing = Rig(Failing(), size=1 << 20)
before = set(sys.modules)
disk = rig.initiator
commands = [disk.inquiry(), disk.read_capacity(), disk.mode_sense(), disk.write(0, bytes(4096)), disk.read(0, 8)]
commands += [disk.unmap((0, 8)), disk.sync()]
rig.settle()
assert {command.status for command in commands} == {0}, [command.status for command in commands]
failed = failing.initiator.read(0, 8)
failing.settle()
assert failed.status == 2
failing.close()
rig.close()
print(*sorted(set(sys.modules) - before))
"""


def _not_permitted(option: int, value: int) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


class IOPathTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a host on which the process is like any other."""
        self.calls: list[tuple[int, int]] = []
        root = Path(self.mktemp())
        self.host = Host(root / "proc", root / "sys", root / "kmsg", lambda *arguments: self.calls.append(arguments))
        self.own = self.host.proc / "self"
        (self.own / "fd").mkdir(parents=True)
        (self.own / "fdinfo").symlink_to("/proc/self/fdinfo")
        self.score.write_text("0\n")

    @property
    def score(self) -> Path:
        return self.own / "oom_score_adj"

    # Memory

    def test_memory(self) -> None:
        """The kernel is told that I/O of others waits for us, and to kill us last."""
        self.assertEqual(enter_io_path(self.host), [])
        self.assertEqual(self.calls, [(PR_SET_IO_FLUSHER, 1)])
        self.assertEqual(self.score.read_text(), "-999")

    def test_score_of_others(self) -> None:
        """An OOM score that somebody has set stays."""
        for score in ("-1000\n", "-200\n", "500\n"):
            self.score.write_text(score)
            self.assertEqual(enter_io_path(self.host), [])
            self.assertEqual(self.score.read_text(), score)

    def test_privileges(self) -> None:
        """Without the privileges there is a line for each, which names the mend, and that is all."""
        self.score.unlink()
        flusher, score = enter_io_path(evolve(self.host, prctl=_not_permitted))
        self.assertRegex(flusher, r"\APR_SET_IO_FLUSHER: Operation not permitted: .* CAP_SYS_RESOURCE")
        self.assertRegex(score, r"\Aoom_score_adj: .* OOMScoreAdjust=-999")

    def test_system_call(self) -> None:
        """The real call tells what the kernel thinks of it."""
        with self.assertRaises(OSError) as caught:
            Host().prctl(-1, 0)
        self.assertEqual(caught.exception.errno, errno.EINVAL)

    def test_imports(self) -> None:
        """Once a device serves nothing is imported any more: not for its commands, its failures, or its end."""
        done = subprocess.run([sys.executable, "-c", _LATE_IMPORTS], capture_output=True, text=True, timeout=120)
        self.assertEqual((done.stdout.split(), done.stderr), ([], ""))

    # The log

    def disk(self, name: str, vendor: str = "txtcmu") -> Path:
        directory = self.host.sys / "block" / name
        (directory / "device").mkdir(parents=True)
        (directory / "device" / "vendor").write_text(f"{vendor:8}\n")
        return directory

    def log(self, device: Path | None, source: str = "/dev/somewhere", number: str = "250:1") -> int:
        """Open a file on a file system on ``device``; the daemon knows of no other."""
        path = Path(self.mktemp())
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.addCleanup(os.close, descriptor)
        (self.own / "fd" / str(descriptor)).symlink_to(path.absolute())
        [mount_id] = [
            line.split()[1]
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            if line.startswith("mnt_id:")
        ]
        (self.own / "mountinfo").write_text(
            "1 1 250:99 / / rw,relatime - rootfs rootfs rw\n"
            f"{mount_id} 1 {number} / /mnt rw,relatime shared:1 - ext4 {source} rw\n"
        )
        if device is not None:
            numbers = self.host.sys / "dev" / "block"
            numbers.mkdir(parents=True, exist_ok=True)
            (numbers / "250:1").symlink_to(device.absolute())
        return descriptor

    def assert_dropped(self, descriptor: int) -> None:
        before = os.readlink(self.own / "fd" / str(descriptor))
        [line] = enter_io_path(self.host)
        self.assertRegex(line, rf"\Anothing is logged to {before}: it is on sdx, .*: log to the journal")
        self.assertEqual(self.host.kernel_log.read_text(), f"<4>txtcmu: {line}\n")
        os.write(descriptor, b"a line of the log")
        self.assertEqual(Path(before).read_bytes(), b"")

    def assert_kept(self, descriptor: int) -> None:
        self.assertEqual(enter_io_path(self.host), [])
        os.write(descriptor, b"a line of the log")
        self.assertFalse(self.host.kernel_log.exists())
        self.assertEqual(Path(os.readlink(self.own / "fd" / str(descriptor))).read_bytes(), b"a line of the log")

    def test_log_on_own_disk(self) -> None:
        """Nothing is logged to a file on a disk that txtcmu serves; the kernel's log says so."""
        self.assert_dropped(self.log(self.disk("sdx")))

    def test_log_on_partition(self) -> None:
        """A partition is on its disk."""
        partition = self.disk("sdx") / "sdx1"
        partition.mkdir()
        (partition / "partition").write_text("1\n")
        self.assert_dropped(self.log(partition))

    def stacked(self, *names: str) -> Path:
        """Make a device mapper's device of others."""
        mapped = self.host.sys / "block" / "dm-0"
        (mapped / "slaves").mkdir(parents=True)
        for name in names:
            (mapped / "slaves" / name).symlink_to((self.host.sys / "block" / name).absolute())
        return mapped

    def test_log_on_volume(self) -> None:
        """A logical volume is on each of its disks, whichever of them is ours."""
        self.disk("sda", "ATA")
        self.disk("sdx")
        self.assert_dropped(self.log(self.stacked("sda", "sdx")))

    def test_log_on_loop_device(self) -> None:
        """A loop device is on the disk that its file is on."""
        loop = self.host.sys / "block" / "loop0" / "loop"
        loop.mkdir(parents=True)
        descriptor = self.log(loop.parent)
        # The fake's mount is where all files are: the file system of the loop device's file is another one.
        [backing] = (self.own / "fd").iterdir()
        (loop / "backing_file").write_text("/proc/version\n")
        (self.own / "mountinfo").write_text(
            (self.own / "mountinfo").read_text() + f"{self.mount_id('/proc/version')} 1 250:2 / /p rw - ext4 x rw\n"
        )
        (self.host.sys / "dev" / "block" / "250:2").symlink_to(self.disk("sdx").absolute())
        self.assertEqual(int(backing.name), descriptor)
        self.assert_dropped(descriptor)

    def mount_id(self, path: str) -> str:
        descriptor = os.open(path, os.O_PATH)
        try:
            lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        finally:
            os.close(descriptor)
        return next(line.split()[1] for line in lines if line.startswith("mnt_id:"))

    def test_log_elsewhere(self) -> None:
        """A log on any other disk is written on, and on a file system that is on none, or on one nobody knows."""
        for number, device in enumerate((self.disk("sda", "ATA"), self.disk("vda"), None)):
            if device is not None and device.name == "vda":
                (device / "device" / "vendor").unlink()
            (self.host.sys / "dev" / "block" / "250:1").unlink(missing_ok=True)
            self.assert_kept(self.log(device, number="0:39" if number == 2 else "250:1"))

    def test_other_descriptors(self) -> None:
        """What is only read from the disk, and what is no file at all, is left alone."""
        path = Path(os.readlink(self.own / "fd" / str(self.log(self.disk("sdx")))))
        for each in (self.own / "fd").iterdir():
            each.unlink()
        reading = os.open(path, os.O_RDONLY)
        pipe, other_end = os.pipe()
        for descriptor in (reading, pipe, other_end):
            self.addCleanup(os.close, descriptor)
            (self.own / "fd" / str(descriptor)).symlink_to(path)
        (self.own / "fd" / "9999").symlink_to(path)  # closed meanwhile
        self.assertEqual(enter_io_path(self.host), [])
        self.assertTrue(os.path.samestat(os.fstat(reading), path.stat()))

    def test_silent_kernel_log(self) -> None:
        """Where not even the kernel's log can be written to, the log is dropped all the same."""
        descriptor = self.log(self.disk("sdx"))
        self.host.kernel_log.mkdir()
        self.assertEqual(len(enter_io_path(self.host)), 1)
        self.assertTrue(os.path.samestat(os.fstat(descriptor), os.stat(os.devnull)))
