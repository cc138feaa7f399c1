"""LUNs: user backstores exported to this host (loopback) or to the network (iSCSI).

Everything here blocks.  Linking a backstore to a LUN of the loopback fabric runs INQUIRY, READ CAPACITY and so on
before it returns, and the daemon answers those: never call this in the thread of the reactor that serves the device.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from pathlib import Path

from attrs import frozen

from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import Backstore, ConfigFS
from txtcmu.kernel.sysfs import DEV, SYSFS

__all__ = ["IQN_PREFIX", "LUN", "export_iscsi", "export_loopback", "iqn", "lun_of_disk", "luns", "unexport"]

# What the in-kernel target's own tools use for names that nobody chose; ours are told apart by the rest.
IQN_PREFIX = "iqn.2003-01.org.linux-iscsi.txtcmu:"
_NAA_PREFIX = "naa.5001405"  # type 5, OpenFabrics Alliance: as in the kernel's and rtslib's own names
_UNSAFE_IN_IQN = re.compile(r"[^a-z0-9.:-]+")
_POLL_SECONDS = 0.02


@frozen
class LUN:
    """One LUN of one target portal group.

    :ivar fabric: ``loopback``, ``iscsi``, or another directory below ``target/``.
    :ivar target: the target's name: a WWN or an IQN.
    :ivar path: the ``lun_N`` directory.
    """

    fabric: str
    target: str
    path: Path

    @property
    def number(self) -> int:
        """The logical unit number."""
        return int(self.path.name.removeprefix("lun_"))

    @property
    def tpgt(self) -> Path:
        """The target portal group's directory."""
        return self.path.parent.parent

    def disk(self, sysfs: Path = SYSFS, dev: Path = DEV) -> str | None:
        """Return ``/dev/sdX`` of a loopback LUN, or ``None`` when there is none (yet)."""
        if self.fabric != "loopback":
            return None
        try:
            address = (self.tpgt / "address").read_text().strip()
            blocks = sysfs / "bus" / "scsi" / "devices" / f"{address}:{self.number}" / "block"
            return next((str(dev / name) for name in sorted(os.listdir(blocks))), None)
        except OSError:
            return None


def luns(backstore: Backstore) -> list[LUN]:
    """Return every LUN that exports ``backstore``, of whatever fabric and whoever made it."""
    tree = backstore.configfs
    goal = backstore.path.resolve()
    found = []
    # Others make and remove LUNs meanwhile: any directory may be gone by the time that it is looked into.
    for fabric in tree.entries(tree.target):
        for target in tree.entries(fabric) if fabric.name != "core" else []:
            for group in tree.entries(target):
                for path in tree.entries(group / "lun") if group.name.startswith("tpgt_") else []:
                    if path.name.startswith("lun_") and any(to == goal for _, to in tree.links(path)):
                        found.append(LUN(fabric.name, target.name, path))
    return found


def lun_of_disk(
    disk: str, backstores: list[Backstore], sysfs: Path = SYSFS, dev: Path = DEV
) -> tuple[Backstore, LUN] | None:
    """Return the backstore and the loopback LUN behind ``/dev/sdX``, or ``None`` when it is another disk."""
    wanted = os.path.realpath(disk)
    for backstore in backstores:
        for lun in luns(backstore):
            if lun.disk(sysfs, dev) == wanted:
                return backstore, lun
    return None


def _naa() -> str:
    return _NAA_PREFIX + secrets.token_hex(5)[:9]


def _fabric(tree: ConfigFS, name: str, module: str) -> Path:
    """Return a fabric's directory, made if need be: making it loads the module."""
    tree.check()
    path = tree.target / name
    missing = f"the kernel has no {name} fabric: `modprobe {module}`"
    tree.mkdirs(path, {errno.EINVAL: missing, errno.ENOENT: missing})
    return path


def _link(backstore: Backstore, lun: LUN) -> None:
    backstore.configfs.link(lun.path / backstore.name, backstore.path)


def export_loopback(
    backstore: Backstore, timeout: float = 60.0, sysfs: Path = SYSFS, dev: Path = DEV
) -> tuple[LUN, str]:
    """Make a disk of this host from an enabled backstore.

    :param timeout: how many seconds to wait for the disk after the LUN is made.
    :return: the LUN, and ``/dev/sdX``.
    :raise KernelError: it failed; nothing is left behind.
    """
    tree = backstore.configfs
    fabric = _fabric(tree, "loopback", "tcm_loop")
    target = _naa()
    tpgt = fabric / target / "tpgt_1"
    lun = LUN("loopback", target, tpgt / "lun" / "lun_0")
    try:
        tree.mkdirs(tpgt)
        tree.mkdir(lun.path)
        tree.write(tpgt / "nexus", _naa())  # must be there before the link
        _link(backstore, lun)
        return lun, _wait_for_disk(lun, timeout, sysfs, dev)
    except BaseException:
        _undo(lun, tree)
        raise


def _wait_for_disk(lun: LUN, timeout: float, sysfs: Path, dev: Path) -> str:
    # The SCSI device is there when the link is; its disk is probed in the background, through the daemon.
    deadline = time.monotonic() + timeout
    while True:
        disk = lun.disk(sysfs, dev)
        if disk is not None and _opens(disk):
            return disk
        if time.monotonic() >= deadline:
            raise KernelError(
                f"the LUN made no disk in {timeout:g} s: see the daemon's log and dmesg; is the daemon running?"
            )
        time.sleep(_POLL_SECONDS)


def _opens(disk: str) -> bool:
    """Tell whether a disk is there to be used: its node appears a moment before the disk behind it (ENXIO)."""
    try:
        os.close(os.open(disk, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def iqn(name: str) -> str:
    """Return the IQN under which a backstore of this name is exported unless somebody chose another."""
    return IQN_PREFIX + _UNSAFE_IN_IQN.sub("-", name.lower().replace("_", "-")).strip("-.:")


def export_iscsi(backstore: Backstore, target: str | None = None, portal: str = "0.0.0.0:3260") -> LUN:
    """Export an enabled backstore to every initiator that asks, without authentication (demo mode).

    :param target: the IQN; by default made from the backstore's name.
    :param portal: address and port to listen on.
    :raise KernelError: it failed; nothing is left behind.
    """
    tree = backstore.configfs
    fabric = _fabric(tree, "iscsi", "iscsi_target_mod")
    target = target or iqn(backstore.name)
    if not target.startswith(("iqn.", "eui.", "naa.")):  # the kernel takes any name, initiators do not
        raise KernelError(f"{target} is no iSCSI name: it must begin with iqn., eui. or naa.")
    if (fabric / target).is_dir():
        raise KernelError(f"target {target} exists already: remove it, or use another name")
    tpgt = fabric / target / "tpgt_1"
    lun = LUN("iscsi", target, tpgt / "lun" / "lun_0")
    busy = f"the address is in use, or not this host's: use another portal than {portal}"
    try:
        tree.mkdirs(tpgt)
        tree.mkdir(tpgt / "np" / portal, {errno.EADDRINUSE: busy, errno.EADDRNOTAVAIL: busy, errno.EINVAL: busy})
        tree.mkdir(lun.path)
        _link(backstore, lun)
        demo = {"authentication": 0, "generate_node_acls": 1, "cache_dynamic_acls": 1, "demo_mode_write_protect": 0}
        for name, value in demo.items():
            tree.write(tpgt / "attrib" / name, str(value))
        tree.write(tpgt / "enable", "1")
    except BaseException:
        _undo(lun, tree)
        raise
    return lun


def unexport(lun: LUN, tree: ConfigFS) -> None:
    """Take a LUN away, and its target when that is txtcmu's own and exports nothing else.

    Works on half-made and half-removed LUNs too.  Blocks until the LUN's commands have ended.
    """
    for initiator in tree.entries(lun.tpgt / "acls"):
        for mapped in tree.entries(initiator):
            for link, to in tree.links(mapped) if mapped.is_dir() else []:
                if to == lun.path.resolve():  # the kernel refuses to remove a LUN that an ACL names
                    tree.unlink(link)
                    tree.rmdir(mapped, if_empty=True)
    for link, to in tree.links(lun.path):
        if to.parent.parent == (tree.target / "core").resolve():  # not the link of ALUA's default group
            tree.unlink(link)
    tree.rmdir(lun.path)
    if not any(entry.is_dir() for entry in tree.entries(lun.tpgt / "lun")):
        _remove_target(lun, tree)


def _undo(lun: LUN, tree: ConfigFS) -> None:
    """As :func:`unexport`, after a failure, whose error is the one to report."""
    try:
        unexport(lun, tree)
    except KernelError:
        pass


def _remove_target(lun: LUN, tree: ConfigFS) -> None:
    if lun.fabric == "iscsi" and lun.target.startswith(IQN_PREFIX):
        if (lun.tpgt / "enable").exists():
            tree.write(lun.tpgt / "enable", "0")
        for portal in tree.entries(lun.tpgt / "np"):
            tree.rmdir(portal)
    elif lun.fabric == "loopback":
        if (lun.tpgt / "nexus").exists():
            try:
                tree.write(lun.tpgt / "nexus", "NULL")
            except KernelError:
                pass  # there was none; removing the group drops it anyway
    else:
        return  # somebody's own target, with portals and rights that they will want again
    tree.rmdir(lun.tpgt, if_empty=True)
    tree.rmdir(lun.tpgt.parent, if_empty=True)
