"""The disk's part of the demo, on a kernel with TCMU: daemon, LUN, file system, and a SIGKILL in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import twisted
from tools.demo.show import Failed, command, step

SIZE = "64M"
OBJECT_SIZE = "64K"
#: A real source tree: Twisted's own, without the tests.
TREE = Path(twisted.__file__).parent
MOST = 20 << 20
DISK_TIMEOUT = 180
FIO_SIZE = "4m"
MOUNT = "mnt"


class Daemon:
    """``twist tcmu --handler s3``, its output in a file that is shown when something goes wrong."""

    def __init__(self, directory: Path) -> None:
        self._configuration = directory / "txtcmu.toml"
        self._configuration.write_text(f'[handlers.s3]\nendpoint = "{os.environ["TXTCMU_S3_ENDPOINT"]}"\n')
        self.configuration = str(self._configuration)
        self.log = directory / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        words = ["twist", "--log-format", "text", "tcmu", "--config", self.configuration, "--handler", "s3"]
        print(f"$ {' '.join(words)} &", flush=True)
        with self.log.open("ab") as log:
            # In a session of its own: ^C is for the demo, which then still needs it to clean up.
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    @property
    def runs(self) -> bool:
        """Whether it does."""
        return self._process is not None and self._process.poll() is None

    def end(self, number: int) -> None:
        """Send it a signal that ends it, and wait until it has ended."""
        assert self._process is not None
        print(f"$ kill -{signal.Signals(number).name.removeprefix('SIG')} {self._process.pid}", flush=True)
        if self._process.poll() is not None:
            raise Failed("the daemon had ended by itself")
        self._process.send_signal(number)
        self._process.wait(60)

    def stop(self) -> None:
        """Stop it if it runs, one way or the other."""
        if self._process is None or not self.runs:
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _checksum(tree: Path) -> str:
    """Return one checksum of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(tree)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _copy(source: Path, goal: Path) -> None:
    """Copy a source tree, up to MOST bytes of it."""
    copied = 0
    for path in sorted(source.rglob("*.py")):
        if "test" in path.parts:
            continue
        data = path.read_bytes()
        if copied + len(data) > MOST:
            break
        copied += len(data)
        target = goal / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    print(f"{copied / (1 << 20):.1f} MiB of {source} copied", flush=True)


def _wait(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def _in_flight(disk: str) -> int:
    return sum(map(int, (Path("/sys/block") / Path(disk).name / "inflight").read_text().split()))


def _survive(daemon: Daemon, disk: str, mount: Path) -> None:
    """Kill and restart the daemon while fio writes and verifies."""
    words = ["fio", "--name=survive", f"--filename={mount}/fio", f"--size={FIO_SIZE}", "--bs=4k", "--rw=randwrite"]
    words += ["--direct=1", "--ioengine=libaio", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1"]
    print(f"$ {' '.join(words)} &", flush=True)
    fio = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _wait(lambda: _in_flight(disk) >= 8 or fio.poll() is not None, "writes are in flight")
        if fio.poll() is not None:
            raise Failed(f"fio ended before enough requests were in flight: {fio.communicate()[0]}")
        daemon.end(signal.SIGKILL)
        waiting = _in_flight(disk)
        print(f"{waiting} requests are in flight, and wait", flush=True)
        if waiting == 0 or fio.poll() is not None:
            raise Failed("the daemon was killed too late: nothing was in flight")
        daemon.start()
        output, _ = fio.communicate(timeout=240)
        if fio.returncode != 0 or "err= 0" not in output:
            raise Failed(f"fio: {output}")
    finally:
        fio.kill()
    print("\n".join(line for line in output.splitlines() if "err=" in line or "IOPS=" in line), flush=True)


def _last_try(*words: str) -> bool:
    """Run a program while cleaning up, where a failure must not keep the rest from being done."""
    try:
        command(*words, seconds=60)
    except Failed as error:
        print(f"demo: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _unmount(daemon: Daemon, mount: Path) -> None:
    """Unmount the file system if it is mounted still; only a daemon can take what it has left to write."""
    if os.path.ismount(mount):
        if not daemon.runs:
            daemon.start()
        _last_try("umount", str(mount)) or _last_try("umount", "--lazy", str(mount))


def _remove(daemon: Daemon, disk: str) -> None:
    """Remove the LUN if it is there still."""
    if (Path("/sys/block") / Path(disk).name).exists():
        if not daemon.runs:
            daemon.start()
        _last_try("txtcmu", "rm", "--force", disk)


def run(daemon: Daemon, directory: Path) -> None:
    """Do it all; whatever happens, no mount, no LUN and no daemon are left."""
    with ExitStack() as left:
        _run(daemon, directory, left)


def _run(daemon: Daemon, directory: Path, left: ExitStack) -> None:
    mount, volume = directory / MOUNT, f"s3/{os.environ['TXTCMU_S3_BUCKET']}/demo;object_size={OBJECT_SIZE}"
    mount.mkdir()
    step("start the daemon")
    left.callback(daemon.stop)
    daemon.start()
    step(f"make a volume of {SIZE} in the bucket, and a LUN of it")
    disk = command("txtcmu", "create", volume, "--new", "--size", SIZE, "--config", daemon.configuration)
    disk = disk.splitlines()[-1]
    left.callback(_remove, daemon, disk)
    left.callback(_unmount, daemon, mount)
    (Path("/sys/block") / Path(disk).name / "device" / "timeout").write_text(str(DISK_TIMEOUT))
    command("txtcmu", "ls")
    step("make a file system and copy a source tree")
    command("mkfs.ext4", "-q", disk)
    command("mount", disk, str(mount))
    _copy(TREE, mount / "tree")
    before = _checksum(mount / "tree")
    command("umount", str(mount))
    step("kill the daemon while fio writes; start it again")
    command("mount", disk, str(mount))
    _survive(daemon, disk, mount)
    command("umount", str(mount))
    step("check the file system and compare the tree")
    command("e2fsck", "-fn", disk)
    command("mount", "-o", "ro", disk, str(mount))
    after = _checksum(mount / "tree")
    command("umount", str(mount))
    print(f"before {before}\nafter  {after}", flush=True)
    if before != after:
        raise Failed("the tree has changed")
    step("remove the LUN and stop the daemon; the volume stays in the bucket")
    command("txtcmu", "rm", disk)
    daemon.end(signal.SIGTERM)


def _give_up(number: int, _: object) -> None:
    """End, and let nothing disturb the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    sys.exit(f"demo: {signal.Signals(number).name}")


def main() -> int:
    """Run the disk's part."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _give_up)
    directory = Path(tempfile.mkdtemp(prefix="txtcmu-demo-"))
    try:
        daemon = Daemon(directory)
        try:
            run(daemon, directory)
        except Exception as error:
            log = daemon.log.read_text()[-6000:] if daemon.log.exists() else ""
            print(f"demo: {error}\nthe daemon's log:\n{log}", file=sys.stderr, flush=True)
            return 1
    finally:
        if os.path.ismount(directory / MOUNT):
            print(f"demo: {directory / MOUNT} is still mounted, and left as it is", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
