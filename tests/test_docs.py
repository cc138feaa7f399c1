"""What the tutorial shows is true: its files make a plugin that is found both ways, and that passes its own tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.installed import ROOT, VirtualEnvironment, build_wheel, first_words

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
_FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The reader's directory: every block of the tutorial that has a file name is that file."""
    directory = tmp_path / "txtcmu-sqlite"
    for name, content in _FILE.findall(TUTORIAL):
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return directory


def shown(command: str) -> list[str]:
    """Return the words of a command that the tutorial shows."""
    assert f"\n    {command}\n" in TUTORIAL
    return command.split()


def test_files(project: Path) -> None:
    """The tutorial's files are those of a plugin that is found both ways."""
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml",
        "test_sqlite_disk.py",
        "txtcmu/plugins/sqlite_dropin.py",
        "txtcmu_sqlite.py",
    }


def test_entry_point(project: Path, environment: VirtualEnvironment) -> None:
    """Built and installed beside txtcmu's wheel, the tutorial's package is listed by its entry point, until removed."""
    command = shown("twist tcmu --list-handlers")
    assert shown("pip install .")  # what it does, without a network: a wheel, and its installation
    (built := project.parent / "built").mkdir()
    environment.install(build_wheel(project, built))
    try:
        assert "sqlite" in first_words(environment.run(*command))
    finally:
        environment.pip("uninstall", "--yes", "txtcmu-sqlite")
    assert "sqlite" not in first_words(environment.run(*command))


def test_drop_in(project: Path, environment: VirtualEnvironment) -> None:
    """Without being installed, it is listed by its drop-in."""
    variable, *command = shown("PYTHONPATH=. twist tcmu --list-handlers")
    name, _, value = variable.partition("=")
    (project / "pyproject.toml").unlink()
    assert "sqlite" in first_words(environment.run(*command, cwd=project, **{name: value}))


def test_its_tests(project: Path, environment: VirtualEnvironment) -> None:
    """The tutorial's tests pass, and they are many."""
    printed = environment.run(*shown("python -m twisted.trial test_sqlite_disk"), cwd=project)
    passed = re.search(r"PASSED \(successes=(\d+)\)", printed)
    assert passed is not None, printed
    assert int(passed[1]) > 15


def test_try(project: Path, environment: VirtualEnvironment) -> None:
    """``txtcmu try`` finds nothing wrong with the tutorial's disk."""
    variable, *command = shown("PYTHONPATH=. txtcmu try sqlite/tmp/try.db --size 16M --seconds 3")
    name, _, value = variable.partition("=")
    where = f"sqlite{project}/try.db"
    command[2:] = [where, "--size", "4M", "--operations", "50"]  # the same, in a place of its own and in less time
    printed = environment.run(*command, cwd=project, **{name: value})
    assert "passed: 0 of " in printed
    assert "0 problems under load" in printed
