"""What the S3 servers of tests have in common: ports, credentials, a bucket, the way to start and to stop."""

from __future__ import annotations

import http.client
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tools.servers.process import ServerError, ServerProcess, free_ports

__all__ = ["S3Server", "program"]

_PORT_TAKEN = "address already in use"


def program(name: str, package: str, path: str | None = None) -> str:
    """Return where a program is.

    :param package: what brings it along; and :param path: where it is looked for: ``None`` for the virtual
        environment and ``PATH``.
    :raise ServerError: it is not there.
    """
    found = shutil.which(name, path=path or sysconfig.get_path("scripts")) or (None if path else shutil.which(name))
    if found is None:
        raise ServerError(f"there is no {name}; {package}")
    return found


class S3Server:
    """A server with one bucket, on 127.0.0.1; also a context manager.

    :cvar port_count: how many ports it listens on; the first is that of S3.
    :ivar endpoint: the URL of its S3 service; a QEMU guest reaches the same port at 10.0.2.2.
    :ivar processes: what runs, in the order of the start.
    :raise ServerError: it does not come up within ``seconds``; the message ends with what it said.
    """

    region = "us-east-1"
    access_key = "txtcmu-test-key"
    secret_key = "txtcmu-test-secret"
    port_count = 1

    def __init__(self, directory: Path, bucket: str = "disks", seconds: float = 60.0) -> None:
        self.bucket = bucket
        self.directory = directory
        self.processes: list[ServerProcess] = []
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start(seconds)
        except ServerError:
            # A port that was free may be taken before the server binds it, some seconds later.
            if not any(_PORT_TAKEN in log.read_text(errors="replace").lower() for log in directory.glob("*.log")):
                raise
            shutil.rmtree(directory / "data")
            self._start(seconds)

    def launch(self, data: Path, ports: list[int]) -> None:
        """Start what it consists of.

        :param data: an empty directory.
        """
        raise NotImplementedError

    def _start(self, seconds: float) -> None:
        data = self.directory / "data"
        data.mkdir()
        ports = free_ports(self.port_count)
        self.port = ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        try:
            self.launch(data, ports)
            self.processes[-1].wait_until(self.ready, seconds)
        except BaseException:
            self.stop(0)
            raise

    def run(
        self, name: str, arguments: list[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> ServerProcess:
        """Start a process, with its log beside the data."""
        process = ServerProcess(arguments, self.directory / f"{name}.log", self.directory, environment)
        self.processes.append(process)
        return process

    def ready(self) -> bool:
        """Make the bucket, and tell whether it can be written to; some servers answer long before."""
        made = self.request("PUT", f"/{self.bucket}")[0] in (200, 409)
        key = f"/{self.bucket}/ready"
        return made and self.request("PUT", key, b"ready")[0] == 200 and self.request("DELETE", key)[0] == 204

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one signed request, blocking; return status and body."""
        signed = AWSRequest(method, self.endpoint + path, data=body)
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self.region).add_auth(signed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(signed.headers.items()))
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    @property
    def pid(self) -> int:
        """The process that speaks S3."""
        return self.processes[-1].pid

    @property
    def options(self) -> dict[str, str]:
        """The connection options of handler ``s3`` for this server."""
        return {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def stop(self, patience: float = 10.0) -> None:
        """End the server, by SIGKILL after ``patience`` seconds; its data stays, if it is kept in files."""
        while self.processes:
            self.processes.pop().stop(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(patience=0)
