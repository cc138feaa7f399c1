"""What all tests share."""

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.installed", "tests.servers", "tools.no_skips"]


@pytest.fixture(autouse=True, scope="session")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have trial's ``mktemp``, which makes directories where it stands, and volumes with their marks, elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scratch"))
        patch.setattr("txtcmu.backstores.volumes.MARKS", tmp_path_factory.mktemp("marks"))
        yield
