"""s3backer, the other program that knows the layout ``blocks``: a bucket mounted through FUSE as one file.

Debian's package; wants root, and /dev/fuse.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from tools.servers.bucket import Bucket
from tools.servers.process import ServerError, ServerProcess

__all__ = ["S3Backer"]

_FUSE = Path("/dev/fuse")
_SECONDS = 60.0


class S3Backer:
    """A disk, mounted; also a context manager.

    :param options: further ones, as on the command line.
    :param sync: a write is in the store when it is acknowledged; else it is in a cache, as its authors meant it to be,
        and is in the store when :meth:`stop` has returned.  (That the file was synced says nothing, in version 1.5.)
    :ivar file: the disk's content.
    :raise ServerError: it does not mount; the message ends with what it said.
    """

    def __init__(self, server: Bucket, directory: Path, prefix: str, *options: str, sync: bool = True) -> None:
        program = shutil.which("s3backer")
        if program is None:
            raise ServerError("there is no s3backer; apt-get install s3backer")
        if not _FUSE.exists():
            raise ServerError("there is no /dev/fuse; modprobe fuse, or give the container --device=/dev/fuse")
        self._mount = directory / "mount"
        self._mount.mkdir(parents=True)
        self.file = self._mount / "file"
        arguments = [program, *self._arguments(server, directory, prefix), "-f"]
        arguments += ["--blockCacheSync", "--blockCacheWriteDelay=0"] if sync else []
        arguments += [*options, server.bucket, str(self._mount)]
        self._process = ServerProcess(arguments, directory / "s3backer.log", directory)
        self.pid = self._process.pid
        try:
            self._process.wait_until(self.file.exists, _SECONDS)
        except ServerError:
            self._release()
            raise

    @classmethod
    def reset_mounted_flag(cls, server: Bucket, directory: Path, prefix: str) -> None:
        """Do what its manual says to do when a mount is known to be dead."""
        directory.mkdir(parents=True, exist_ok=True)
        arguments = ["s3backer", "--reset-mounted-flag", *cls._arguments(server, directory, prefix), server.bucket]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            raise ServerError(f"s3backer --reset-mounted-flag: {done.stderr}")

    @staticmethod
    def _arguments(server: Bucket, directory: Path, prefix: str) -> list[str]:
        secret = directory / "access"
        secret.touch(0o600)
        secret.write_text(f"{server.access_key}:{server.secret_key}\n")
        return [f"--baseURL={server.endpoint}/", f"--accessFile={secret}", f"--prefix={prefix}"]

    def read(self) -> bytes:
        """Return all of the disk."""
        return self.file.read_bytes()

    def write(self, offset: int, data: bytes) -> None:
        """Write, down to the store."""
        descriptor = os.open(self.file, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        """Unmount properly: the marker in the bucket goes away."""
        self._process.stop(_SECONDS)
        self._release()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._release()

    def _release(self) -> None:
        """Take away the mount that a dead process leaves."""
        if os.path.ismount(self._mount) or not self._is_readable():
            subprocess.run(["umount", "--lazy", str(self._mount)], check=False, capture_output=True, timeout=_SECONDS)

    def _is_readable(self) -> bool:
        try:
            self._mount.stat()
        except OSError:
            return False
        return True

    def __enter__(self) -> S3Backer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
