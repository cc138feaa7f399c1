"""The stock kernel: Debian's package, downloaded and unpacked below the checkout, never installed."""

import lzma
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from tools.guest import CACHE
from tools.guest.debian import PackageError, output, tool, unpack

__all__ = ["Kernel", "decompressed", "fetch", "unpacked"]

METAPACKAGE = "linux-image-amd64"
"""Depends on the newest kernel of the distribution."""

KERNELS = CACHE / "kernel"


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package."""

    version: str
    tree: Path

    @property
    def image(self) -> Path:
        """What QEMU boots: the plain kernel where we could decompress it, else the package's own image."""
        plain = self.tree / "boot" / f"vmlinux-{self.version}"
        return plain if plain.exists() else self.tree / "boot" / f"vmlinuz-{self.version}"

    @property
    def modules(self) -> Path:
        """The directory to appear as /lib/modules/VERSION in the guest."""
        return self.tree / "lib" / "modules" / self.version


def fetch() -> Kernel:
    """Return the newest unpacked kernel; if there is none, download the one the distribution ships now."""
    try:
        return unpacked()
    except PackageError:
        return _download(_newest_package())


def unpacked() -> Kernel:
    """Return the newest kernel that is here already, or raise `PackageError`."""
    kernels = [Kernel(tree.name, tree) for tree in KERNELS.glob("[0-9]*")]
    if not kernels:
        raise PackageError(f"no kernel below {KERNELS}; run tools/setup")
    return max(kernels, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.version)])


def decompressed(image: bytes) -> bytes | None:
    """Return the ELF file inside a bzImage, or None if it is compressed by a method unknown here.

    QEMU boots that one as well, and what takes the host a second takes an emulated processor eight. The offsets are
    those of the x86 boot protocol's header.
    """
    sectors = image[0x1F1] or 4  # of the real-mode code after the boot sector
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]  # ends with its uncompressed size, as four bytes
    if not payload.startswith(b"\xfd7zXZ"):
        return None
    return lzma.LZMADecompressor().decompress(payload)


def _newest_package() -> str:
    listing = output("apt-cache", "depends", "--important", METAPACKAGE)
    found = re.search(r"Depends: (linux-image-\d\S+)", listing)
    if found is None:
        raise PackageError(f"apt knows no kernel behind {METAPACKAGE}: {listing.strip() or 'empty lists'}")
    return found[1]


def _download(package: str) -> Kernel:
    version = package.removeprefix("linux-image-")

    def finish(tree: Path) -> None:
        if not (tree / "lib").exists():  # newer packages come with merged /usr, which depmod does not expect
            (tree / "lib").symlink_to("usr/lib")
        packed = tree / "boot" / f"vmlinuz-{version}"
        plain = decompressed(packed.read_bytes())
        if plain is not None:
            packed.with_name(f"vmlinux-{version}").write_bytes(plain)
        output(tool("depmod"), "-b", str(tree), version)

    return Kernel(version, unpack((package,), KERNELS / version, finish))
