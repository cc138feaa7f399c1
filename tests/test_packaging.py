"""What is installed works: from a wheel, from a checkout, and with handlers of third parties."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from zipfile import ZipFile

import hatchling.build
import pytest

from tests.installed import ROOT, VirtualEnvironment, first_words
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.plugins import builtin

BUILT_IN = {each.name for each in vars(builtin).values() if IBackstoreFactory.providedBy(each)}

HANDLER = """
from txtcmu.factory import Factory
handler = Factory(name={name!r}, summary="a third party's", opener=None)
"""


def handlers(environment: VirtualEnvironment, *path: Path) -> set[str]:
    """Return the handlers that ``twist tcmu`` knows with ``path`` as PYTHONPATH."""
    variable = os.pathsep.join(map(str, path))
    return first_words(environment.run("twist", "tcmu", "--list-handlers", PYTHONPATH=variable))


def knows_command(environment: VirtualEnvironment) -> bool:
    """Tell whether ``twist --help`` lists ``tcmu``."""
    return "\n    tcmu " in environment.run("twist", "--help")


def where(environment: VirtualEnvironment) -> Path:
    """Return where txtcmu is imported from."""
    return Path(environment.run("python", "-c", "import txtcmu; print(txtcmu.__file__)").strip())


def test_contents(wheel: Path) -> None:
    """The wheel holds the package, both kinds of drop-ins, and nothing that is not its own."""
    names = ZipFile(wheel).namelist()
    assert {"twisted/plugins/txtcmu_plugin.py", "txtcmu/plugins/builtin.py", "txtcmu/py.typed"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"txtcmu", "twisted"}
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/txtcmu_plugin.py"]
    assert [name for name in names if name.endswith("dropin.cache")] == []


def test_wheel(environment: VirtualEnvironment) -> None:
    """Installed from the wheel with what it requires and no more, twist knows the command, and that its handlers."""
    assert where(environment) == environment.packages / "txtcmu" / "__init__.py"
    assert "No broken requirements" in environment.pip("check")
    assert knows_command(environment)
    assert handlers(environment) == BUILT_IN >= {"memory", "file", "s3"}
    assert "\n  create " in environment.run("txtcmu", "--help")


def test_editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it does when the checkout is installed as editable: what runs is the checkout."""
    environment = VirtualEnvironment.clean(tmp_path / "venv")
    monkeypatch.chdir(ROOT)
    environment.install(tmp_path / hatchling.build.build_editable(str(tmp_path)))
    assert where(environment) == ROOT / "txtcmu" / "__init__.py"
    assert knows_command(environment)
    assert handlers(environment) >= BUILT_IN


def test_third_parties(environment: VirtualEnvironment, tmp_path: Path) -> None:
    """Handlers of others are found: a file in a txtcmu/plugins/ on the path, and an entry point of a distribution."""
    drop_in, distribution = tmp_path / "drop-in", tmp_path / "distribution"
    plugins, metadata = drop_in / "txtcmu" / "plugins", distribution / "third_party-1.0.dist-info"
    plugins.mkdir(parents=True)
    metadata.mkdir(parents=True)
    (plugins / "dropped.py").write_text(HANDLER.format(name="dropped"))
    (distribution / "third_party.py").write_text(HANDLER.format(name="entered"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[txtcmu.backstores]\nentered = third_party:handler\n")
    assert handlers(environment, drop_in, distribution) == BUILT_IN | {"dropped", "entered"}
    # Its cache remembers a drop-in that is gone.
    assert (plugins / "dropin.cache").exists()
    (plugins / "dropped.py").unlink()
    assert handlers(environment, drop_in, distribution) == BUILT_IN | {"entered"}


def test_no_cache_can_be_written(environment: VirtualEnvironment) -> None:
    """Where Twisted can neither read nor write its caches, as in read-only site-packages, all is found all the same."""
    caches = [environment.packages / package / "plugins" / "dropin.cache" for package in ("twisted", "txtcmu")]
    for cache in caches:  # root writes where it may not, but nobody writes into a directory
        cache.unlink(missing_ok=True)
        (cache / "in the way").mkdir(parents=True)
    try:
        assert knows_command(environment)
        assert handlers(environment) == BUILT_IN
    finally:
        for cache in caches:
            shutil.rmtree(cache)
