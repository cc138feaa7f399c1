"""A directory that behaves like LIO's configfs, as far as making and removing disks goes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from txtcmu.kernel.configfs import ConfigFS

_BACKSTORE = {
    "control": "",
    "enable": "0",
    "info": "",
    "attrib/dev_config": "",
    "attrib/dev_size": "0",
    "attrib/hw_block_size": "512",
    "attrib/hw_max_sectors": "128",
    "attrib/cmd_time_out": "30",
    "attrib/emulate_write_cache": "0",
    "attrib/nl_reply_supported": "0",
    "wwn/vpd_unit_serial": "T10 VPD Unit Serial Number: ",
    "wwn/vendor_id": "LIO-ORG",
    "statistics/scsi_dev/indx": "7",
    "action/block_dev": "unblocked",
    "action/reset_ring": "",
    "action/free_kept_buf": "",
}
_GROUP = {
    "enable": "0",
    "nexus": "",
    "address": "9:0:1",
    "attrib/authentication": "1",
    "attrib/generate_node_acls": "0",
    "attrib/cache_dynamic_acls": "0",
    "attrib/demo_mode_write_protect": "1",
}


class FakeConfigFS(ConfigFS):
    """Directories bring their attributes; only what was made can be removed, and only when it holds nothing made.

    :ivar sysfs: where the disk of a loopback LUN appears, and ``dev`` its node.
    :ivar refusing: ends of paths that cannot be written, or made, the next time, with their errno.
    :ivar log: what was done, in order.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root / "config")
        self.sysfs = root / "sys"
        self.dev = root / "dev"
        self.proc = root / "proc"
        self.refusing: dict[str, int] = {}
        self.log: list[str] = []
        for path in (self.target / "core", self.sysfs / "class" / "uio", self.dev, self.proc / "self"):
            path.mkdir(parents=True)
        (self.proc / "self" / "mountinfo").write_text("22 1 254:0 / / rw - ext4 /dev/vda rw\n")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")
        self._made: set[Path] = set()

    def _check(self, path: Path) -> None:
        for name, error in list(self.refusing.items()):
            if str(path).endswith(name):
                del self.refusing[name]
                raise self._refusal(f"use {self._short(path)}", OSError(error, os.strerror(error)))

    def mkdir(self, path: Path, mends: dict[int, str] | None = None) -> None:
        """Make an object with what it brings."""
        self._check(path)
        super().mkdir(path, mends)
        self._made.add(path)
        self.log.append(f"mkdir {self._short(path)}")
        if path.parent.parent == self.target / "core":
            self._populate(path, _BACKSTORE)
        elif path.name.startswith("tpgt_"):
            self._populate(path, _GROUP)
            for name in ("lun", "np", "acls"):
                (path / name).mkdir()

    def _populate(self, path: Path, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(value + "\n")

    def rmdir(self, path: Path, *, if_empty: bool = False) -> None:
        """Remove what was made."""
        if path in self._made:
            held = any(path in other.parents for other in self._made) or any(
                each.is_symlink() for each in path.iterdir()
            )
            if held:
                if not if_empty:
                    raise self._refusal(f"remove {path}", OSError(errno.ENOTEMPTY, "Directory not empty"))
                return
            shutil.rmtree(path)
            self._made.discard(path)
            self.log.append(f"rmdir {self._short(path)}")

    def write(self, path: Path, value: str, mends: dict[int, str] | None = None) -> None:
        """Set an attribute; ``control`` sets others."""
        self._check(path)
        super().write(path, value, mends)
        self.log.append(f"write {self._short(path)} {value}")
        if path.name == "vpd_unit_serial":
            path.write_text(f"{_BACKSTORE['wwn/vpd_unit_serial']}{value}\n")
        if path.name == "control":
            key, _, setting = value.partition("=")
            (path.parent / "attrib" / key).write_text(setting + "\n")

    def link(self, path: Path, to: Path) -> None:
        """Export; on the loopback fabric a disk appears."""
        self._check(path)
        super().link(path, to)
        self.log.append(f"link {self._short(path)}")
        if "loopback" in path.parts:
            (self.sysfs / "bus/scsi/devices/9:0:1:0/block/sdx").mkdir(parents=True)
            for name, number in (("sdx", "8:16"), ("sdx/sdx1", "8:17")):
                block = self.sysfs / "class/block" / name
                (block / "holders").mkdir(parents=True, exist_ok=True)
                (block / "dev").write_text(number + "\n")
            (self.sysfs / "class/block/sdx/sdx1/partition").write_text("1\n")
            (self.dev / "sdx").write_text("")

    def unlink(self, path: Path) -> None:
        """Take an export back."""
        super().unlink(path)
        self.log.append(f"unlink {self._short(path)}")
        if "loopback" in path.parts:
            (self.dev / "sdx").unlink()
            shutil.rmtree(self.sysfs / "bus/scsi/devices/9:0:1:0")
