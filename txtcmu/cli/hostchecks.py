"""What ``txtcmu doctor`` asks of the host: its kernel, its modules, its rights, its other daemons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from txtcmu.cli.environment import Environment
from txtcmu.cli.findings import (
    CAP_NET_ADMIN,
    CAP_SYS_ADMIN,
    CAP_SYS_RESOURCE,
    Finding,
    capabilities,
    failure,
    good,
    unseen,
    warning,
)
from txtcmu.cli.processes import foreign_listeners
from txtcmu.errors import KernelError

__all__ = ["HOST_CHECKS"]

_OLDEST = (4, 19)  # block_dev and reset_ring
_ENOUGH_FILES = 4096  # two for each device, and sockets or images behind them
_MODULE = "target_core_user"


def _parameter(world: Environment, name: str) -> Path:
    return world.sysfs / "module" / _MODULE / "parameters" / name


def linux(world: Environment) -> Iterator[Finding]:
    """Look at the version."""
    release = (world.proc / "sys/kernel/osrelease").read_text().strip()
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) < _OLDEST:
        yield failure("Linux", f"{release} is too old", "boot Linux 4.19 or later")
    else:
        yield good("Linux", release)


def module(world: Environment) -> Iterator[Finding]:
    """Look for target_core_user: loaded, loadable, or not there at all."""
    if (world.sysfs / "module" / _MODULE).is_dir():
        yield good(_MODULE, "loaded")
        return
    release = (world.proc / "sys/kernel/osrelease").read_text().strip()
    directory = world.modules / release
    try:
        known = (directory / "modules.dep").read_text()
    except FileNotFoundError:
        yield failure(
            _MODULE,
            f"not loaded, and {directory} has no modules of this kernel",
            "in a container: `modprobe target_core_user` on its host; else install the kernel's modules",
        )
        return
    if f"/{_MODULE}.ko" in known:
        yield failure(_MODULE, "not loaded", "modprobe target_core_user")
    else:
        yield failure(
            _MODULE,
            f"kernel {release} has none",
            "boot a kernel with CONFIG_TCM_USER2: on Debian linux-image-amd64, for the cloud kernels have none",
        )


def fabrics(world: Environment) -> Iterator[Finding]:
    """Look for what makes a disk of a backstore: on this host, or for others."""
    release = (world.proc / "sys/kernel/osrelease").read_text().strip()
    try:
        known = (world.modules / release / "modules.dep").read_text()
    except FileNotFoundError:
        known = ""
    for name, what, instead in (
        ("tcm_loop", "disks of this host", "--fabric iscsi"),
        ("iscsi_target_mod", "iSCSI targets", "--fabric loopback"),
    ):
        if not (world.sysfs / "module" / name).is_dir() and f"/{name}.ko" not in known:
            yield warning(name, f"kernel {release} has no such module: no {what}", f"`txtcmu create {instead}`")


def memory_order(world: Environment) -> Iterator[Finding]:
    """Look whether this machine can be made to keep the ring's loads and stores in order."""
    try:
        world.fence()
    except KernelError as error:
        text, _, mend = str(error).rpartition(": ")
        yield failure("memory barriers", text, mend)


def kernel_log(world: Environment) -> Iterator[Finding]:
    """Look whether the daemon could hear that the kernel has given a ring up."""
    try:
        (world.dev / "kmsg").open("rb").close()
    except FileNotFoundError:
        yield warning("kernel log", "no /dev/kmsg: a broken ring would not be noticed", "mknod /dev/kmsg c 1 11")
    except PermissionError:
        if capabilities(world) >> CAP_SYS_ADMIN & 1:
            yield warning(
                "kernel log",
                "/dev/kmsg cannot be read: a broken ring would not be noticed",
                "give the container CAP_SYSLOG",
            )
    else:
        yield good("kernel log", "heard")


def uio(world: Environment) -> Iterator[Finding]:
    """Look for the driver that hands the ring over."""
    if (world.sysfs / "class" / "uio").is_dir():
        yield good("uio", "there")
    else:
        yield failure("uio", "the kernel has no UIO", "modprobe uio")


def configfs(world: Environment) -> Iterator[Finding]:
    """Look for LIO's part of configfs."""
    try:
        world.configfs.check()
    except KernelError as error:
        text, _, mend = str(error).rpartition(": ")
        yield failure("configfs", text, mend)
    else:
        yield good("configfs", f"mounted on {world.configfs.root}")


def privileges(world: Environment) -> Iterator[Finding]:
    """Look whether this user could run the daemon."""
    status = (world.proc / "self" / "status").read_text()
    user = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if user is None or user[1] != "0":
        yield warning("privileges", "this user is not root", "run `twist tcmu` and `txtcmu create` as root")
        return
    effective = capabilities(world)
    names = {CAP_SYS_ADMIN: "CAP_SYS_ADMIN", CAP_NET_ADMIN: "CAP_NET_ADMIN"}
    missing = " and ".join(name for number, name in names.items() if not effective >> number & 1)
    if missing:
        yield failure("privileges", f"root without {missing}", f"give the container {missing}, or run on the host")
    elif not effective >> CAP_SYS_RESOURCE & 1:
        yield warning(
            "privileges",
            "root without CAP_SYS_RESOURCE: the daemon cannot carry a file system of its own host safely",
            "give the container CAP_SYS_RESOURCE, or use its disks elsewhere",
        )
    else:
        yield good("privileges", "root")


def netlink(world: Environment) -> Iterator[Finding]:
    """Look for the kernel's events."""
    if not (world.sysfs / "module" / _MODULE).is_dir():
        return  # said already
    if world.group() is None:
        yield failure(
            "netlink",
            "there is no generic netlink family TCM-USER",
            "run in the host's network namespace, or see dmesg",
        )
    else:
        yield good("netlink", "family TCM-USER")


def netlink_blocked(world: Environment) -> Iterator[Finding]:
    """Look whether a program has blocked the kernel's events, and died or not."""
    path = _parameter(world, "block_netlink")
    if path.exists() and path.read_text().strip() in ("blocked", "1", "Y"):
        yield failure("netlink", "events are blocked: no disk can be made or removed", f"echo 0 > {path}")


def other_daemons(world: Environment) -> Iterator[Finding]:
    """Look for programs that answer for devices that are not theirs."""
    for process in foreign_listeners(world.proc, world.group()):
        yield warning(
            "other daemons",
            f"{process} answers for every TCMU device, and refuses ours",
            "stop it, or make disks with `txtcmu create`; with targetcli say control=nl_reply_supported=-1",
        )


def open_files(world: Environment) -> Iterator[Finding]:
    """Look at the limit that a daemon started from here would have."""
    limits = (world.proc / "self" / "limits").read_text()
    match = re.search(r"^Max open files\s+(\S+)", limits, re.MULTILINE)
    if match and match[1].isdecimal() and int(match[1]) < _ENOUGH_FILES:
        yield warning(
            "open files",
            f"a process may open {match[1]}: too few for many disks",
            "ulimit -n 65536, or LimitNOFILE=65536 in the unit",
        )
    else:
        yield good("open files", "unlimited" if match is None else match[1])


def data_areas(world: Environment) -> Iterator[Finding]:
    """Look whether the devices' data areas together are more than the kernel gives."""
    path = _parameter(world, "global_max_data_area_mb")
    if not path.exists():
        return
    limit, wanted = int(path.read_text()), 0
    for attribute in (world.configfs.target / "core").glob("user_*/*/attrib/max_data_area_mb"):
        wanted += int(attribute.read_text())
    if wanted > limit:
        yield warning(
            "data areas",
            f"the disks may want {wanted} MiB together, the kernel gives {limit}: commands will wait for memory",
            f"echo {wanted} > {path}",
        )
    else:
        yield good("data areas", f"{wanted} of {limit} MiB")


def processes(world: Environment) -> Iterator[Finding]:
    """Say what cannot be seen of others."""
    if not capabilities(world):
        yield unseen("processes", "what other users' processes have open cannot be seen")


HOST_CHECKS: tuple[Callable[[Environment], Iterator[Finding]], ...] = (
    linux,
    module,
    fabrics,
    memory_order,
    uio,
    configfs,
    privileges,
    netlink,
    netlink_blocked,
    other_daemons,
    open_files,
    data_areas,
    kernel_log,
    processes,
)
