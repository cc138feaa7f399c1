"""What is installed works: from a wheel, from the checkout, and with handlers of third parties."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
DEPENDENCIES = sysconfig.get_path("purelib")

HANDLER = """
from txtcmu.factory import Factory
handler = Factory(name={name!r}, summary="a third party's", opener=None)
"""


def run(*command: str | Path, path: list[Path | str] | None = None, cwd: Path) -> str:
    """Return what a command prints; ``path`` becomes PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    result = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def first_words(text: str) -> set[str]:
    """Return the first word of each line."""
    return {line.split()[0] for line in text.splitlines() if line.strip()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what a checkout holds after a while, without git's knowledge of what does not belong to it."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
    for package in ("twisted", "txtcmu"):
        (source / package / "plugins" / "dropin.cache").write_bytes(b"stale")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, source, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


class Installed:
    """The wheel in a directory of its own.

    Without ``site`` (``-S``) no .pth file is read, so that the editable install in the directory of the dependencies
    does not lead to the checkout.
    """

    def __init__(self, wheel: Path, directory: Path) -> None:
        self.target = directory / "target"
        self._cwd = directory
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        run(*install, "--target", self.target, wheel, cwd=directory)

    def python(self, *arguments: str, extra: tuple[Path, ...] = ()) -> str:
        """Run Python on the wheel, its dependencies, and what is ``extra``."""
        return run(sys.executable, "-S", "-P", *arguments, path=[self.target, *extra, DEPENDENCIES], cwd=self._cwd)

    def twist(self, *arguments: str, extra: tuple[Path, ...] = ()) -> str:
        """Run ``twist``."""
        return self.python("-m", "twisted", *arguments, extra=extra)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel."""
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_contents(wheel: Path) -> None:
    """The wheel holds the package, both kinds of drop-ins, and nothing that is not its own."""
    names = ZipFile(wheel).namelist()
    assert {"twisted/plugins/txtcmu_plugin.py", "txtcmu/plugins/builtin.py", "txtcmu/py.typed"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"txtcmu", "twisted"}
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/txtcmu_plugin.py"]
    assert [name for name in names if name.endswith("dropin.cache")] == []


def test_wheel(installed: Installed) -> None:
    """Installed from the wheel alone, twist knows the command, and the command its handlers."""
    location = installed.python("-c", "import txtcmu; print(txtcmu.__file__)").strip()
    assert Path(location) == installed.target / "txtcmu" / "__init__.py"
    assert "tcmu" in first_words(installed.twist("--help"))
    assert {"memory", "file", "s3"} <= first_words(installed.twist("tcmu", "--list-handlers"))


def test_editable(tmp_path: Path) -> None:
    """So it does when the checkout is installed."""
    twist = Path(sys.executable).with_name("twist")
    assert "tcmu" in first_words(run(twist, "--help", cwd=tmp_path))
    assert {"memory", "file", "s3"} <= first_words(run(twist, "tcmu", "--list-handlers", cwd=tmp_path))


def test_third_parties(installed: Installed, tmp_path: Path) -> None:
    """Handlers of others are found: a file in a txtcmu/plugins/ on the path, and an entry point of a distribution."""
    drop_in, distribution = tmp_path / "drop-in", tmp_path / "distribution"
    plugins, metadata = drop_in / "txtcmu" / "plugins", distribution / "third_party-1.0.dist-info"
    plugins.mkdir(parents=True)
    metadata.mkdir(parents=True)
    (plugins / "dropped.py").write_text(HANDLER.format(name="dropped"))
    (distribution / "third_party.py").write_text(HANDLER.format(name="entered"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[txtcmu.backstores]\nentered = third_party:handler\n")
    handlers = first_words(installed.twist("tcmu", "--list-handlers", extra=(drop_in, distribution)))
    assert {"dropped", "entered", "memory"} <= handlers
