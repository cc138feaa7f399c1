"""User backstores in configfs: making them, reading and setting what they have, removing them.

Everything here blocks, some of it for as long as a daemon takes to answer: :meth:`Backstore.enable`,
:meth:`Backstore.remove` and a few attributes call back into the daemon that serves the device.  None of it
belongs in the reactor's thread: call it from a thread, or from a program of its own.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field, setters

from txtcmu.errors import KernelError

__all__ = ["CONFIGFS", "Backstore", "ConfigFS", "backstores", "find"]

CONFIGFS = Path("/sys/kernel/config")

_HBA = re.compile(r"user_(\d+)")
_NAME = re.compile(r"[^/\x00\n]{1,255}")
_LABEL = re.compile(r"T10 [A-Za-z ]+:")  # only before the serial number, on the kernels seen
_PAGE = 4096  # configfs hands an attribute over in one page, and takes it in one write

_MENDS = {
    errno.EPERM: "permission denied: run as root",
    errno.EACCES: "permission denied: run as root",
    errno.EROFS: "configfs is mounted read-only: remount it read-write",
    errno.ENODEV: "the daemon or the kernel has no such device any more: try again",
    errno.EAGAIN: "netlink is blocked: write 0 to /sys/module/target_core_user/parameters/block_netlink",
    errno.EINTR: "another program gave up all waiting operations (reset_netlink): try again",
    errno.ENOBUFS: "the daemon is swamped with events: try again",
    errno.ESRCH: "no daemon listens: start `twist tcmu`",
}


class ConfigFS:
    """The file operations that configfs knows; each failure becomes one :class:`KernelError` line.

    :ivar root: where configfs is mounted.
    """

    def __init__(self, root: Path = CONFIGFS) -> None:
        self.root = root

    @property
    def target(self) -> Path:
        """The directory of LIO."""
        return self.root / "target"

    def check(self) -> None:
        """Raise :class:`KernelError` unless LIO is there to be configured."""
        if not self.root.is_dir():
            raise KernelError("the kernel has no configfs: boot a distribution's kernel, or `modprobe configfs`")
        if not self.target.is_dir():
            if not os.path.ismount(self.root):
                raise KernelError(f"configfs is not mounted: `mount -t configfs none {self.root}`")
            raise KernelError("the kernel's SCSI target is not loaded: `modprobe target_core_mod`")

    def mkdir(self, path: Path, mends: dict[int, str] | None = None) -> None:
        """Make an object."""
        try:
            path.mkdir()
        except OSError as error:
            raise self._refusal(f"make {self._short(path)}", error, mends) from error

    def mkdirs(self, path: Path, mends: dict[int, str] | None = None) -> None:
        """Make an object and those above it, unless it is there."""
        if not path.is_dir():
            self.mkdirs(path.parent, mends)
            self.mkdir(path, mends)

    def rmdir(self, path: Path, *, if_empty: bool = False) -> None:
        """Remove an object, unless it is gone already.

        :param if_empty: no error when somebody has put more into it, or uses it.
        """
        tolerated = (errno.ENOTEMPTY, errno.EBUSY) if if_empty else ()
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in tolerated:
                raise self._refusal(f"remove {self._short(path)}", error) from error

    def link(self, path: Path, to: Path) -> None:
        """Make the link ``path``."""
        try:
            path.symlink_to(to)
        except OSError as error:
            raise self._refusal(f"link {self._short(path)}", error) from error

    def unlink(self, path: Path) -> None:
        """Remove a link, unless it is gone already."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(f"unlink {self._short(path)}", error) from error

    def links(self, path: Path) -> list[tuple[Path, Path]]:
        """Return the links in a directory and what each one leads to; none when the directory is gone."""
        found = []
        for entry in self.entries(path):
            try:
                if entry.is_symlink():
                    found.append((entry, entry.resolve(strict=True)))
            except FileNotFoundError:
                pass  # somebody has just taken it away
        return found

    def entries(self, path: Path) -> list[Path]:
        """Return what is in a directory, sorted; nothing when it is gone."""
        try:
            return sorted(path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._refusal(f"list {self._short(path)}", error) from error

    def read(self, path: Path) -> str:
        """Return an attribute without the newline at its end."""
        try:
            return path.read_text(errors="surrogateescape").rstrip("\n")
        except OSError as error:
            raise self._refusal(f"read {self._short(path)}", error) from error

    def write(self, path: Path, value: str, mends: dict[int, str] | None = None) -> None:
        """Set an attribute, in one write as configfs wants it."""
        content = value.encode(errors="surrogateescape")
        if len(content) >= _PAGE:
            raise KernelError(f"{self._short(path)}: {len(content)} bytes are more than the kernel takes; shorten it")
        try:
            # Not open(..., "w"): that would create files, and truncation means nothing here.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._refusal(f"write {value!r} to {self._short(path)}", error, mends) from error

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.target)) if path.is_relative_to(self.target) else str(path)

    def _refusal(self, doing: str, error: OSError, mends: dict[int, str] | None = None) -> KernelError:
        self.check()
        number = error.errno or 0
        mend = (mends or {}).get(number) or _MENDS.get(number) or error.strerror or str(error)
        return KernelError(f"cannot {doing}: {mend}")


@define(unsafe_hash=True)
class Backstore:
    """One user backstore, ``core/user_<hba>/<name>``, whether that exists or not.

    :ivar hba: its HBA's number.  A number belongs to one backstore only, as with rtslib.
    :ivar name: its directory below that.
    """

    hba: int = field(on_setattr=setters.frozen)
    name: str = field(on_setattr=setters.frozen)
    configfs: ConfigFS = field(factory=ConfigFS, eq=False, repr=False)

    @property
    def path(self) -> Path:
        """Its directory in configfs."""
        return self.configfs.target / "core" / f"user_{self.hba}" / self.name

    @property
    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.path.is_dir()

    @classmethod
    def create(cls, name: str, control: Mapping[str, str | int], configfs: ConfigFS | None = None) -> Backstore:
        """Make a backstore on a free HBA number and configure it; it is not enabled.

        :param control: keys of the ``control`` file: ``dev_config``, ``dev_size`` (bytes), ``hw_block_size``,
            ``hw_max_sectors``, ``max_data_area_mb``, ``cmd_ring_size_mb``, ``nl_reply_supported`` (-1: never wait
            for a daemon's reply) and so on.
        """
        tree = configfs or ConfigFS()
        tree.check()
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise KernelError(f"{name!r} cannot name a backstore: use letters, digits, dot, dash and underscore")
        if any(made.name == name for made in backstores(tree)):
            raise KernelError(f"a backstore called {name} exists already: remove it, or use another name")
        made = cls(_claim_hba(tree), name, tree)
        try:
            tree.mkdir(made.path)
            made.configure(control)
        except BaseException:
            made.remove()
            raise
        return made

    def configure(self, control: Mapping[str, str | int]) -> None:
        """Write ``control`` keys; see :meth:`create`.  The kernel ignores keys that it does not know.

        After :meth:`enable` only ``dev_size`` still has an effect, and no daemon hears of it.
        """
        for key, value in control.items():
            text = str(value)
            if "," in text or "\n" in text:
                raise KernelError(f"{key}={text!r}: the kernel splits control at commas and newlines; rename it")
            self.configfs.write(self.path / "control", f"{key}={text}")

    def enable(self) -> None:
        """Make the UIO device.  Blocks, and cannot be interrupted, until a daemon has answered if replies are on."""
        mends = {
            errno.EEXIST: "it is enabled already",
            errno.EINVAL: "the kernel refuses its configuration: see dmesg",
            errno.ENOENT: "another TCMU daemon refused it (tcmu-runner does so for types it does not know):"
            " stop that daemon, or create with nl_reply_supported=-1",
            errno.ENOMEM: "no memory for the ring: lower cmd_ring_size_mb or max_data_area_mb",
        }
        self.check_size()
        self.configfs.write(self.path / "enable", "1", mends)

    def check_size(self) -> None:
        """Raise :class:`KernelError` while there is no size: the kernel would make a disk of no blocks."""
        if not self.size:
            raise KernelError(f"{self.name} has no dev_size: set it before enabling")

    @property
    def enabled(self) -> bool:
        """Whether enabling has finished: ``False`` also while ADDED waits for its reply."""
        return self.configfs.read(self.path / "enable").strip() == "1"

    @property
    def device_id(self) -> int:
        """The number that netlink replies name."""
        return int(self.configfs.read(self.path / "statistics" / "scsi_dev" / "indx"))

    def attribute(self, name: str) -> str:
        """Return attribute ``name`` of ``attrib/``: ``dev_size``, ``hw_block_size``, ``cmd_time_out`` ..."""
        return self.configfs.read(self.path / "attrib" / name)

    def set_attribute(self, name: str, value: str | int) -> None:
        """Set attribute ``name`` of ``attrib/``.

        ``dev_config``, ``dev_size`` and ``emulate_write_cache`` of an enabled backstore wait for the daemon.
        """
        mends = {errno.EINVAL: "the kernel refuses the value"}
        if name == "cmd_time_out":
            mends[errno.EINVAL] = "it can be set only while no LUN exports the device"
        self.configfs.write(self.path / "attrib" / name, str(value), mends)

    @property
    def dev_config(self) -> str:
        """What :meth:`create` was told."""
        return self.attribute("dev_config")

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.attribute("dev_size"))

    @property
    def serial(self) -> str:
        """The unit serial number, empty when there is none."""
        return self.identity("vpd_unit_serial")

    @serial.setter
    def serial(self, value: str) -> None:
        in_use = {errno.EINVAL: "it can be set only while no LUN exports the device"}
        self.configfs.write(self.path / "wwn" / "vpd_unit_serial", value, in_use)

    def identity(self, name: str) -> str:
        """Return ``vpd_unit_serial``, ``vendor_id``, ``product_id``, ``revision`` or ``company_id``; may be empty."""
        return _LABEL.sub("", self.configfs.read(self.path / "wwn" / name)).strip()

    @property
    def blocked(self) -> bool:
        """Whether commands are answered BUSY."""
        return self._action("block_dev").strip() == "blocked"

    def block(self) -> None:
        """Have commands answered BUSY by the kernel."""
        self._act("block_dev", 1)

    def unblock(self) -> None:
        """Let commands through again."""
        self._act("block_dev", 0)

    def reset_ring(self, hard: bool = False) -> None:
        """Empty the ring: outstanding commands end BUSY, or with ``hard`` with NOT READY 08/00."""
        self._act("reset_ring", 2 if hard else 1)

    def free_kept_buf(self, cmd_id: int) -> None:
        """Free the id and the buffers of a command that was completed with KEEP_BUF."""
        self._act("free_kept_buf", cmd_id)

    def _action(self, name: str) -> str:
        return self.configfs.read(self.path / "action" / name)

    def _act(self, name: str, value: int) -> None:
        mends = {errno.EINVAL: "the device is not enabled yet, or the kernel knows no such value"}
        self.configfs.write(self.path / "action" / name, str(value), mends)

    def remove(self) -> None:
        """Remove the backstore and its HBA; harmless when either is gone.  Blocks until the daemon has let go.

        LUNs must be gone before: :func:`txtcmu.kernel.fabric.unexport`.
        """
        try:
            self.configfs.rmdir(self.path)
        except KernelError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EBUSY, errno.ENOTEMPTY):
                raise KernelError(f"{self.name} is in use by a LUN: remove the LUN first") from error.__cause__
            raise
        self.configfs.rmdir(self.path.parent, if_empty=True)


def _claim_hba(tree: ConfigFS) -> int:
    """Make and return the first free HBA number."""
    core = tree.target / "core"
    if not core.is_dir():
        raise KernelError("the kernel's SCSI target is not loaded: `modprobe target_core_mod`")
    taken = {int(match[1]) for entry in tree.entries(core) if (match := _HBA.fullmatch(entry.name))}
    hba = 0
    mends = {errno.EINVAL: "the kernel has no user backstores: `modprobe target_core_user`"}
    while True:
        if hba not in taken:
            try:
                tree.mkdir(core / f"user_{hba}", mends)
                return hba
            except KernelError as error:
                if not isinstance(error.__cause__, FileExistsError):  # another program was faster
                    raise
        hba += 1


def backstores(configfs: ConfigFS | None = None) -> list[Backstore]:
    """Return every user backstore, in order of HBA number and name."""
    tree = configfs or ConfigFS()
    found = []
    for hba in tree.entries(tree.target / "core"):
        match = _HBA.fullmatch(hba.name)
        if match:
            found += [Backstore(int(match[1]), entry.name, tree) for entry in tree.entries(hba) if entry.is_dir()]
    return sorted(found, key=lambda backstore: (backstore.hba, backstore.name))


def find(name: str, configfs: ConfigFS | None = None) -> Backstore | None:
    """Return the user backstore called ``name``, or the one with that dev_config, or ``None``."""
    if "/" in name:
        return next((each for each in backstores(configfs) if each.dev_config.rstrip("\n") == name), None)
    return next((each for each in backstores(configfs) if each.name == name), None)
