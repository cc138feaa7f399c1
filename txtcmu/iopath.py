"""The daemon in the I/O path of the host that it runs on.

A disk of ours can carry a file system of our own host.  When memory is short there, the kernel writes that file
system's dirty pages to our disk and waits for us.  So we must not wait for the kernel to free memory in this way, must
not be killed to free some, and must not write our log to a file whose disk may be waiting for us.

Memory is not locked (mlockall): from then on the kernel would touch the whole map of each new ring, data pages that
are not there included, and the disks of the handler ``memory`` could never be swapped out.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attrs import fields, frozen

from txtcmu.scsi.unit import Identity

__all__ = ["Host", "enter_io_path"]

_PR_SET_IO_FLUSHER: Final = 57
#: The last to be killed; -1000 would have the kernel panic rather than end a daemon that has all the memory.
_OOM_SCORE: Final = -999
_WARNING: Final = 4


def _prctl(option: int, value: int) -> None:
    """See prctl(2).  :raise OSError: the kernel refused."""
    function = ctypes.CDLL(None, use_errno=True).prctl
    if function(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@frozen
class Host:
    """What is asked of the host; tests put theirs in its place."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    kernel_log: Path = Path("/dev/kmsg")
    prctl: Callable[[int, int], None] = _prctl


_HOST: Final = Host()


def enter_io_path(host: Host = _HOST) -> list[str]:
    """Make this thread, and all that it starts from now on, fit for the I/O path of the host.

    Call it before there are other threads: what PR_SET_IO_FLUSHER sets belongs to a thread, and new ones inherit it.

    :return: a line for each thing that cannot be had, or is not as it was asked for; the daemon can work without.
    """
    problems = []
    try:
        # Whoever allocates memory then neither starts I/O nor waits for any (PF_MEMALLOC_NOIO), and is not held up when
        # it writes to its backing store although the disk in front of it has too many dirty pages (PF_LOCAL_THROTTLE).
        host.prctl(_PR_SET_IO_FLUSHER, 1)
    except OSError as error:
        problems.append(
            f"PR_SET_IO_FLUSHER: {error.strerror}: a file system of this host on a disk served here may hang when"
            " memory is short: run as root or with CAP_SYS_RESOURCE, on Linux 5.6 or newer"
        )
    score = host.proc / "self" / "oom_score_adj"
    try:
        if int(score.read_text()) == 0:  # any other is what systemd or an operator wants
            score.write_text(str(_OOM_SCORE))
    except OSError as error:
        problems.append(
            f"oom_score_adj: {error.strerror}: the daemon may be killed when memory is short: run as root, or with"
            f" OOMScoreAdjust={_OOM_SCORE} in its systemd unit"
        )
    for descriptor, path, disk in list(_logs_on_own_disks(host)):
        problem = (
            f"nothing is logged to {path}: it is on {disk}, a disk that txtcmu serves, and each line could wait for"
            " itself: log to the journal, or to another disk"
        )
        _drop(descriptor)
        _tell_kernel_log(host, problem)
        problems.append(problem)
    return problems


def _drop(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor, os.get_inheritable(descriptor))
    os.close(nowhere)


def _tell_kernel_log(host: Host, text: str) -> None:
    """Tell where it can still be read; nothing else is left if that fails."""
    try:
        host.kernel_log.write_text(f"<{_WARNING}>txtcmu: {text}\n")
    except OSError:
        pass


def _logs_on_own_disks(host: Host) -> Iterator[tuple[int, str, str]]:
    """Yield descriptor, path and disk of each file that is open for writing on a disk that txtcmu serves.

    Before devices are served, such files are standard output, standard error and ``twist --log-file``.
    """
    for entry in list((host.proc / "self" / "fd").iterdir()):
        descriptor = int(entry.name)
        try:
            status = os.fstat(descriptor)
            information = _information(host, descriptor)
        except OSError:  # the directory's own descriptor, closed by now
            continue
        if stat.S_ISREG(status.st_mode) and int(information["flags"], 8) & os.O_ACCMODE != os.O_RDONLY:
            disk = next(filter(_is_own, _disks_of_mount(host, information["mnt_id"])), None)
            if disk is not None:
                yield descriptor, os.readlink(entry), disk.name


def _information(host: Host, descriptor: int) -> dict[str, str]:
    lines = (host.proc / "self" / "fdinfo" / str(descriptor)).read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _disks_of_mount(host: Host, mount_id: str) -> Iterator[Path]:
    """Yield the disks, as directories in sysfs, under the mounted file system."""
    for line in (host.proc / "self" / "mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        number, _, device, *_ = mount.split()
        if number == mount_id:
            if device.startswith("0:"):  # btrfs: a number of its own, and one of its devices
                device = _block_device(source.split()[1])
            directory = host.sys / "dev" / "block" / device
            if directory.exists():
                yield from _disks(host, directory.resolve())


def _block_device(path: str) -> str:
    try:
        number = os.stat(path).st_rdev
    except OSError:
        number = 0  # of no block device
    return f"{os.major(number)}:{os.minor(number)}"


def _disks(host: Host, device: Path) -> Iterator[Path]:
    """Yield the disks that a block device is made of: a partition, a device mapper's or md device, a loop device."""
    if (device / "partition").exists():
        device = device.parent
    slaves = list((device / "slaves").glob("*"))
    backing_file = device / "loop" / "backing_file"
    if slaves:
        for slave in slaves:
            yield from _disks(host, slave.resolve())
    elif backing_file.exists():
        yield from _disks_of_file(host, backing_file.read_text().rstrip("\n"))
    else:
        yield device


def _disks_of_file(host: Host, path: str) -> Iterator[Path]:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # deleted meanwhile, or in another mount namespace
        return
    try:
        mount_id = _information(host, descriptor)["mnt_id"]
    finally:
        os.close(descriptor)
    yield from _disks_of_mount(host, mount_id)


def _is_own(disk: Path) -> bool:
    """Tell whether a disk answers INQUIRY as ours do; this daemon's or another's, it may be down with us."""
    try:
        return (disk / "device" / "vendor").read_text().strip() == fields(Identity).vendor.default
    except OSError:
        return False
