"""The stock kernel: Debian's package, downloaded and unpacked below the checkout, never installed."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.guest import CACHE

__all__ = ["Kernel", "KernelUnavailable", "fetch", "unpacked"]

METAPACKAGE = "linux-image-amd64"
"""Depends on the newest kernel of the distribution."""

KERNELS = CACHE / "kernel"


class KernelUnavailable(Exception):
    """No kernel is unpacked, and none could be fetched."""


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package."""

    version: str
    tree: Path

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.tree / "boot" / f"vmlinuz-{self.version}"

    @property
    def modules(self) -> Path:
        """The directory to appear as /lib/modules/VERSION in the guest."""
        return self.tree / "lib" / "modules" / self.version


def fetch() -> Kernel:
    """Return the newest unpacked kernel; if there is none, download the one the distribution ships now."""
    try:
        return unpacked()
    except KernelUnavailable:
        return _download(_newest_package())


def unpacked() -> Kernel:
    """Return the newest kernel that is here already, or raise `KernelUnavailable`."""
    kernels = [Kernel(tree.name, tree) for tree in KERNELS.glob("[0-9]*")]
    if not kernels:
        raise KernelUnavailable(f"no kernel below {KERNELS}; run tools/setup")
    return max(kernels, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.version)])


def _newest_package() -> str:
    listing = _output("apt-cache", "depends", "--important", METAPACKAGE)
    found = re.search(r"Depends: (linux-image-\d\S+)", listing)
    if found is None:
        raise KernelUnavailable(f"apt knows no kernel behind {METAPACKAGE}: {listing.strip() or 'empty lists'}")
    return found[1]


def _download(package: str) -> Kernel:
    version = package.removeprefix("linux-image-")
    KERNELS.mkdir(parents=True, exist_ok=True)
    # Renamed into place at the end: a directory named by a version is always complete.
    with tempfile.TemporaryDirectory(dir=KERNELS, prefix="new-") as scratch:
        _output("apt-get", "download", "-qq", package, cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        tree = Path(scratch) / "tree"
        _output("dpkg-deb", "-x", str(archive), str(tree))
        if not (tree / "lib").exists():  # newer packages come with merged /usr, which depmod does not expect
            (tree / "lib").symlink_to("usr/lib")
        _output(_tool("depmod"), "-b", str(tree), version)
        tree.chmod(0o755)
        tree.rename(KERNELS / version)
    return Kernel(version, KERNELS / version)


def _tool(name: str) -> str:
    """Return where an administrator's tool is: users' PATH often lacks /usr/sbin."""
    return shutil.which(name) or f"/usr/sbin/{name}"


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise KernelUnavailable(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout
