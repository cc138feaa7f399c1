"""The servers that tests use."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tools.servers import s3backer, s3server
from tools.servers.process import ServerError, free_ports
from tools.servers.s3backer import S3Backer
from tools.servers.seaweedfs import SeaweedFS

MASTER = 1


def test_a_port_that_was_taken_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that finds one of its ports taken is started once more, with others."""
    chosen = []

    def ports(count: int) -> list[int]:
        chosen.append(free_ports(count))
        if len(chosen) == 1:
            taken.bind(("127.0.0.1", chosen[0][MASTER]))
            taken.listen()
        return chosen[-1]

    monkeypatch.setattr(s3server, "free_ports", ports)
    with socket.socket() as taken, SeaweedFS(tmp_path / "server") as server:
        assert server.port == chosen[1][0]
        assert server.request("PUT", f"/{server.bucket}/key", b"data")[0] == 200


def test_any_other_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not start for another reason is not tried again."""
    chosen = []

    def ports(count: int) -> list[int]:
        chosen.append(free_ports(count))
        return [*chosen[-1][:MASTER], 1 << 16, *chosen[-1][MASTER + 1 :]]

    monkeypatch.setattr(s3server, "free_ports", ports)
    with pytest.raises(ServerError, match="exit status"):
        SeaweedFS(tmp_path / "server")
    assert len(chosen) == 1


def test_s3backer_that_cannot_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seaweedfs: SeaweedFS) -> None:
    """What is missing is named with its mend, and a mount that fails leaves nothing behind."""
    with pytest.raises(ServerError, match="exit status 1"):
        S3Backer(seaweedfs, tmp_path / "options", "x/", "--no-such-option")
    assert not os.path.ismount(tmp_path / "options" / "mount")
    monkeypatch.setattr(s3backer, "_FUSE", tmp_path / "fuse")
    with pytest.raises(ServerError, match="modprobe fuse, or give the container --device=/dev/fuse"):
        S3Backer(seaweedfs, tmp_path / "fuse-less", "x/")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerError, match="apt-get install s3backer"):
        S3Backer(seaweedfs, tmp_path / "nothing", "x/")
