"""Fixtures: real servers, started once for all tests that ask for them.

A test module imports the fixture that it uses: ``from tests.servers import seaweedfs as seaweedfs``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.servers.seaweedfs import SeaweedFS

# To pytest each module that imports a fixture has one of its own.
_shared: list[SeaweedFS] = []


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """Give a running SeaweedFS; use a prefix of your own, for its bucket is everybody's."""
    if not _shared:
        _shared.append(SeaweedFS(tmp_path_factory.mktemp("servers") / "seaweedfs"))
    yield _shared[0]
    _shared[0].stop(patience=0)
