"""The store of a measurement: a real S3 server behind a round-trip time, both on one processor."""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tools.servers.process import ServerError, ServerProcess
from tools.servers.seaweedfs import SeaweedFS

__all__ = ["ROOT", "Store", "on_processor", "processors"]

ROOT: Final = Path(__file__).parents[2]
_ROUND_TRIP: Final = 0.020
_ROUND_TRIPS_MEASURED: Final = 100


def processors() -> tuple[int, int]:
    """Return the store's processor, and that of engine and generator."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise ServerError("there is one processor only; the store and the engine need one each")
    return usable[0], usable[1]


@contextmanager
def on_processor(number: int) -> Iterator[None]:
    """Have what is started inside run on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Store:
    """A bucket, 20 ms away; also a context manager.

    :ivar endpoint: and :ivar bucket:, :ivar access_key:, :ivar secret_key: see
        :class:`tools.servers.bucket.Bucket`.
    """

    def __init__(self, directory: Path, processor: int) -> None:
        with on_processor(processor):
            self._server = SeaweedFS(directory / "seaweedfs")
            target = str(self._server.port)
            self._proxy = ServerProcess(
                [sys.executable, "-m", "tools.servers.delayproxy", target, str(_ROUND_TRIP)],
                directory / "proxy.log",
                ROOT,
            )
        self._proxy.wait_until(lambda: "counts=" in self._proxy.log.read_text(), 30)
        ports = dict(each.split("=") for each in self._proxy.log.read_text().split())
        self._port, self._counts = int(ports["port"]), int(ports["counts"])
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.bucket = self._server.bucket
        self.access_key = self._server.access_key
        self.secret_key = self._server.secret_key

    @property
    def options(self) -> dict[str, str]:
        """The connection options of handler ``s3``."""
        return {**self._server.options, "endpoint": self.endpoint}

    def counts(self) -> Counter[str]:
        """Return the requests so far, by method, and the ``bytes`` that they sent."""
        with socket.create_connection(("127.0.0.1", self._counts)) as connection:
            return Counter(json.loads(connection.makefile("rb").read()))

    def round_trip(self) -> float:
        """Measure what the smallest of requests takes, on one connection: the median, in seconds."""
        path = f"/{self.bucket}/round-trip"
        self._server.request("PUT", path, b"x")
        signed = AWSRequest("GET", self.endpoint + path)
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self._server.region).add_auth(signed)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        times = []
        for _ in range(_ROUND_TRIPS_MEASURED):
            began = time.perf_counter()
            connection.request("GET", path, headers=dict(signed.headers.items()))
            response = connection.getresponse()
            if response.read() != b"x":
                raise ServerError(f"{path}: status {response.status}")
            times.append(time.perf_counter() - began)
        connection.close()
        return statistics.median(times)

    def stop(self) -> None:
        """End both."""
        self._proxy.stop()
        self._server.stop(patience=0)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
