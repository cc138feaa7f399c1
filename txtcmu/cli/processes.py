"""The processes around a device: who answers the kernel's events, and who serves which device.

Found in ``/proc``; without root only one's own processes can be looked into, and a container sees no other's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from txtcmu.errors import KernelError
from txtcmu.kernel import tcm_user
from txtcmu.kernel.netlink import RequestSocket, resolve

__all__ = ["Process", "config_group", "foreign_listeners", "holders", "listeners", "wait_until_held"]

_GENERIC = "16"  # NETLINK_GENERIC in the column "Eth" of /proc/net/netlink
_VISIBLE_GROUPS = 32  # its column "Groups" ends there
# Known by name, because it may be about to join the group, and because groups beyond the 32nd are not shown.
_ANSWERS_FOR_ALL = "tcmu-runner"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_POLL_SECONDS = 0.05


@frozen(order=True)
class Process:
    """A process.

    :ivar pid: its number, and ``name``: what the kernel calls it.
    :ivar ours: whether it is a ``twist tcmu``, which answers for its own subtypes only.
    """

    pid: int
    name: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def config_group() -> int | None:
    """Return the number of the group that TCM-USER events are sent to; ``None`` when the kernel has none."""
    try:
        requests = RequestSocket()
    except OSError:
        return None
    try:
        return resolve(requests).groups[tcm_user.GROUP]
    except KernelError:
        return None
    finally:
        requests.close()


def _processes(proc: Path) -> Iterator[tuple[Process, Path]]:
    """Yield every process with its directory."""
    for directory in proc.iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            name = (directory / "comm").read_text(errors="replace").rstrip("\n")
            arguments = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        yield Process(int(directory.name), name, b"tcmu" in arguments), directory


def _open_files(directory: Path) -> Iterator[str]:
    """Yield what a process has open; nothing when it is not ours to see."""
    try:
        descriptors = list((directory / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield os.readlink(descriptor)
        except OSError:
            continue  # closed meanwhile


def _group_sockets(proc: Path, group: int | None) -> set[str]:
    """Return the inodes of the sockets that are members of ``group``."""
    if group is None or group > _VISIBLE_GROUPS:
        return set()
    try:
        lines = (proc / "net" / "netlink").read_text().splitlines()[1:]
    except OSError:
        return set()
    rows = (line.split() for line in lines)
    return {row[9] for row in rows if row[1] == _GENERIC and int(row[3], 16) >> (group - 1) & 1}


def listeners(proc: Path, group: int | None) -> list[Process]:
    """Return the processes that hear of TCMU devices, as far as they can be seen.

    :param group: see :func:`config_group`.
    """
    sockets = _group_sockets(proc, group)
    found = []
    for process, directory in _processes(proc):
        inodes = (_SOCKET.fullmatch(file) for file in (_open_files(directory) if sockets else ()))
        if process.name == _ANSWERS_FOR_ALL or any(match and match[1] in sockets for match in inodes):
            found.append(process)
    return sorted(found)


def foreign_listeners(proc: Path, group: int | None) -> list[Process]:
    """Return the listeners that may answer for devices of subtypes that they do not serve.

    Of those only ``twist tcmu`` is known not to: tcmu-runner, and whatever else is built on libtcmu, refuses what
    it does not know with ENOENT, and the first answer counts.
    """
    return [process for process in listeners(proc, group) if not process.ours]


def holders(node: str, proc: Path) -> list[Process]:
    """Return who has the device node of a UIO device open: the daemon that serves the device."""
    return sorted(process for process, directory in _processes(proc) if node in _open_files(directory))


def wait_until_held(node: str, proc: Path, notice: Callable[[], object], patience: float) -> None:
    """Return when a daemon has ``node`` open; can be interrupted.

    :param notice: called once, when that takes longer than ``patience`` seconds.
    """
    told = time.monotonic() + patience
    while not holders(node, proc):
        if time.monotonic() >= told:
            told = float("inf")
            notice()
        time.sleep(_POLL_SECONDS)
