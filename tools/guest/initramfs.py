"""The initramfs: a static busybox, the kernel modules the guest needs, and init.sh."""

import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.guest import CACHE
from tools.guest.kernel import Kernel

__all__ = ["build", "load_order", "unsigned"]

MODULES = (
    *("virtio_pci", "virtio_rng", "virtio_net", "virtio_console", "virtio_blk"),
    *("9pnet_virtio", "9p", "overlay", "configfs"),
    *("uio", "target_core_user", "tcm_loop", "iscsi_target_mod"),
    *("sd_mod", "sg", "ext4"),
)
"""Loaded before the command runs; the kernel finds any other in /lib/modules."""

APPLETS = (
    "cat",
    "echo",
    "hostname",
    "ifconfig",
    "insmod",
    "ln",
    "mkdir",
    "mount",
    "poweroff",
    "route",
    "sh",
    "switch_root",
)

SIGNATURE_MAGIC = b"~Module signature appended~\n"

INIT = Path(__file__).with_name("init.sh")
BUSYBOX = Path("/bin/busybox")


def build(kernel: Kernel) -> Path:
    """Return the initramfs for this kernel, made anew only when something that goes into it has changed."""
    modules = load_order((kernel.modules / "modules.dep").read_text(), MODULES)
    recipe = hashlib.sha256(b"\0".join([INIT.read_bytes(), BUSYBOX.read_bytes(), Path(__file__).read_bytes()]))
    path = CACHE / f"initramfs-{kernel.version}-{recipe.hexdigest()[:12]}.cpio"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="initramfs-") as scratch:
        tree = Path(scratch) / "tree"
        _populate(tree, kernel, modules)
        names = "\n".join(str(found.relative_to(tree)) for found in sorted(tree.rglob("*")))
        archive = subprocess.run(
            ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"],
            cwd=tree, input=names.encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        packed = Path(scratch) / path.name
        packed.write_bytes(archive)  # plain: unpacking costs an emulated processor more than reading
        os.replace(packed, path)  # complete or absent, also for another run that looks now
    return path


def load_order(modules_dep: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the files of the wanted modules and of all they depend on, each after its dependencies.

    `modules_dep` is the text that depmod writes: ``file: its dependencies, the deepest last``. Modules built into the
    kernel are not in it and need no loading.
    """
    files: dict[str, list[str]] = {}
    for line in modules_dep.splitlines():
        file, _, dependencies = line.partition(":")
        name = Path(file).name.partition(".ko")[0].replace("-", "_")
        files[name] = [*reversed(dependencies.split()), file]
    return list(dict.fromkeys(file for name in wanted for file in files.get(name, ())))


def unsigned(module: bytes) -> bytes:
    """Return the module without its signature, which takes an emulated processor long to check.

    The signature stands at the end: its bytes, twelve more whose last four are its big-endian length, and a magic line.
    """
    if not module.endswith(SIGNATURE_MAGIC):
        return module
    end = len(module) - len(SIGNATURE_MAGIC)
    return module[: end - 12 - int.from_bytes(module[end - 4 : end], "big")]


def _populate(tree: Path, kernel: Kernel, modules: list[str]) -> None:
    for name in ("bin", "modules", "dev", "proc", "sys", "host", "layer", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    order = []
    for file in modules:
        content = (kernel.modules / file).read_bytes()
        if file.endswith(".xz"):  # insmod takes plain modules only
            content = lzma.decompress(content)
        content = unsigned(content)
        order.append(Path(file).name.removesuffix(".xz"))
        (tree / "modules" / order[-1]).write_bytes(content)
    (tree / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
