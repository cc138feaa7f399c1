"""A pytest plugin: the wheel, and clean virtual environments to install it into, without a network.

A clean environment holds what the wheel's metadata asks for, copied from the environment of the tests, and no more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from attrs import frozen
from packaging.requirements import Requirement

__all__ = ["ROOT", "VirtualEnvironment", "build_wheel", "first_words", "run"]

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Return what a command prints; none of our own ``PYTHON*`` variables reach it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def first_words(text: str) -> set[str]:
    """Return the first word of each line that is not indented."""
    return {line.split()[0] for line in text.splitlines() if line[:1].strip()}


def build_wheel(source: Path, directory: Path) -> Path:
    """Build the wheel of a project; build isolation would fetch what is here already."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, source, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


def _required(name: str) -> Iterator[str]:
    """Yield what a distribution requires, without extras nobody asked for."""
    wanted, seen = [Requirement(name)], set()
    while wanted:
        requirement = wanted.pop()
        for text in distribution(requirement.name).requires or []:
            child = Requirement(text)
            environments = [{"extra": extra} for extra in requirement.extras or {""}]
            if child.marker is not None and not any(child.marker.evaluate(each) for each in environments):
                continue
            key = (child.name, frozenset(child.extras))
            if key not in seen:
                seen.add(key)
                wanted.append(child)
                yield child.name


@frozen
class VirtualEnvironment:
    """A virtual environment."""

    directory: Path

    @classmethod
    def clean(cls, directory: Path) -> VirtualEnvironment:
        """Make one with everything that txtcmu requires, but without txtcmu."""
        venv.create(directory, symlinks=True)
        made = cls(directory)
        for name in set(_required("txtcmu")):
            made._copy(name)
        return made

    def _copy(self, name: str) -> None:
        packages = self.packages
        for file in distribution(name).files or []:
            source = Path(str(file.locate()))
            target = Path(os.path.normpath(packages / file))
            if not source.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            if target.parent == self.directory / "bin":
                _, _, script = target.read_text().partition("\n")
                target.write_text(f"#!{self.directory}/bin/python\n{script}")

    @property
    def packages(self) -> Path:
        """``site-packages``."""
        (found,) = self.directory.glob("lib/python*/site-packages")
        return found

    def install(self, wheel: Path) -> None:
        """Install a wheel whose requirements have to be there."""
        self.pip("install", "--no-index", "--no-compile", str(wheel))

    def pip(self, *arguments: str) -> str:
        """Run our own pip for this environment."""
        pip = (sys.executable, "-m", "pip", "--python", self.directory, "--disable-pip-version-check")
        return run(*pip, *arguments, cwd=self.directory)

    def run(self, program: str, *arguments: str, cwd: Path | None = None, **variables: str) -> str:
        """Run one of its commands."""
        return run(self.directory / "bin" / program, *arguments, cwd=cwd or self.directory, **variables)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what a checkout holds after a while, without git's knowledge of what does not belong to it."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
    for package in ("twisted", "txtcmu"):
        (source / package / "plugins" / "dropin.cache").write_bytes(b"stale")
    return build_wheel(source, directory)


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> VirtualEnvironment:
    """A clean environment with the wheel; who installs more into it takes it out again."""
    made = VirtualEnvironment.clean(tmp_path_factory.mktemp("clean") / "venv")
    made.install(wheel)
    return made
