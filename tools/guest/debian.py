"""Debian's packages for the guest: downloaded and unpacked below the checkout, never installed on the host."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.guest import CACHE

__all__ = ["PackageError", "fetch_tcmu_runner", "output", "tool", "unpack"]

TCMU_RUNNER = ("tcmu-runner", "libtcmu2", "libnl-3-200", "libnl-genl-3-200")
"""The package, and what it needs that nothing else here brings along."""


class PackageError(Exception):
    """What the guest needs is not here, and could not be fetched."""


def fetch_tcmu_runner() -> Path:
    """Return the directory with tcmu-runner's files, to be copied over a root directory; download them if need be.

    Installed on the host, its service would start there, and answer for everybody's devices.
    """
    return unpack(TCMU_RUNNER, CACHE / TCMU_RUNNER[0])


def unpack(packages: tuple[str, ...], destination: Path, finish: Callable[[Path], object] = lambda _: None) -> Path:
    """Return ``destination``, the directory of these packages' files; make it if it is not there.

    :param finish: called with the directory before it gets its name: under that name it is always complete.
    :raise PackageError: a package cannot be had.
    """
    if destination.exists():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix="new-") as scratch:
        output("apt-get", "download", "-qq", *packages, cwd=Path(scratch))
        tree = Path(scratch) / "tree"
        for archive in Path(scratch).glob("*.deb"):
            output("dpkg-deb", "-x", str(archive), str(tree))
        finish(tree)
        tree.chmod(0o755)
        tree.rename(destination)
    return destination


def tool(name: str) -> str:
    """Return where an administrator's tool is: users' PATH often lacks /usr/sbin."""
    return shutil.which(name) or f"/usr/sbin/{name}"


def output(*command: str, cwd: Path | None = None) -> str:
    """Return what a command prints.  :raise PackageError: it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise PackageError(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout
