"""Fixtures: real servers, started once for all tests that ask for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.servers.radosgw import RadosGW
from tools.servers.seaweedfs import SeaweedFS


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """Give a running SeaweedFS; use a prefix of your own, for its bucket is everybody's."""
    with SeaweedFS(tmp_path_factory.mktemp("servers") / "seaweedfs") as server:
        yield server


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGW]:
    """Give a running radosgw; use a prefix of your own, for its bucket is everybody's."""
    with RadosGW(tmp_path_factory.mktemp("servers") / "radosgw") as server:
        yield server
