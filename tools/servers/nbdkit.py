"""nbdkit with its S3 plugin: a bucket as an NBD export, one object for each block.

Debian's packages nbdkit, nbdkit-plugin-python and python3-boto3.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from tools.servers.bucket import Bucket
from tools.servers.process import ServerError, ServerProcess

__all__ = ["Nbdkit"]

_SECONDS = 60.0


class Nbdkit:
    """A disk, exported; also a context manager.

    Every write is in the store when it is acknowledged.

    :param key: the prefix of the objects' names.
    :param size: bytes of the disk.
    :param object_size: bytes of an object, at most 64 KiB: requests must be that long exactly, or the plugin refuses
        them, for it names it as the least and the most that it takes.
    :ivar socket: where it listens.
    :raise ServerError: it does not start; the message ends with what it said.
    """

    def __init__(self, server: Bucket, directory: Path, key: str, size: int, object_size: int) -> None:
        program = shutil.which("nbdkit")
        if program is None:
            raise ServerError("there is no nbdkit; apt-get install nbdkit nbdkit-plugin-python python3-boto3")
        directory.mkdir(parents=True)
        self.socket = directory / "nbdkit.sock"
        arguments = [program, "--foreground", "--unix", str(self.socket), "S3", f"bucket={server.bucket}", f"key={key}"]
        arguments += [f"size={size}", f"object-size={object_size}", f"endpoint-url={server.endpoint}"]
        arguments += [f"access-key={server.access_key}", f"secret-key={server.secret_key}"]
        self._process = ServerProcess(arguments, directory / "nbdkit.log", directory)
        self.pid = self._process.pid
        self._process.wait_until(self.socket.exists, _SECONDS)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def __enter__(self) -> Nbdkit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
