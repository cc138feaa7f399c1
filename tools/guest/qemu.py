"""The command line of QEMU. Pure: nothing here runs anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROBE", "Hardware", "command_line"]

KERNEL_ARGUMENTS = (
    *("console=ttyS0", "quiet", "log_buf_len=4M", "printk.devkmsg=on"),
    *("panic=-1", "mitigations=off", "nokaslr", "tsc=reliable"),
    # An emulated processor on a busy host stands still for seconds at times: that is no bug of the kernel's.
    *("no_timer_check", "nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1"),
)

PROBE = "txtcmu.probe"
"""The kernel argument that makes init.sh report and power off."""


@dataclass(frozen=True)
class Hardware:
    """What the guest is made of.

    With `counted`, the guest's clock counts executed instructions (one nanosecond each), on one emulated processor:
    slow, but what is measured in it depends on nothing else the host does.
    """

    memory: int = 2048
    """In MiB. Half of it and more can be files, as the guest's own files live in memory."""
    processors: int = 2
    disk: int = 0
    """In MiB; the size of an empty /dev/vda, or none."""
    counted: bool = False
    kernel_arguments: tuple[str, ...] = ()


def command_line(
    hardware: Hardware,
    accelerator: str,
    kernel: Path,
    initramfs: Path,
    share: Path,
    console: Path,
    ports: Mapping[str, int],
    disk: Path | None = None,
    terminal: bool = False,
) -> list[str]:
    """Return the command that boots the guest.

    `ports` maps names of virtio serial ports to descriptors of connected sockets, which QEMU inherits. `disk` is the
    file behind /dev/vda. `terminal` joins the guest's /dev/hvc0 to QEMU's standard input and output.
    """
    arguments = [*KERNEL_ARGUMENTS, *hardware.kernel_arguments]
    line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    line += ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", " ".join(arguments)]
    line += ["-m", str(hardware.memory), "-smp", "1" if hardware.counted else str(hardware.processors)]
    line += _processor(accelerator, hardware.counted)
    line += ["-chardev", f"file,id=console,path={_escape(console)}", "-serial", "chardev:console"]
    line += ["-virtfs", _shared("/", "hostroot") + ",readonly=on"]
    line += ["-virtfs", _shared(share, "share")]
    # The guest reaches servers on the host's 127.0.0.1 at 10.0.2.2. Without a boot ROM: nobody boots from it.
    line += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    line += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,max_ports=16"]
    if disk is not None:  # nobody needs it after the guest, so no flush has to reach the host's storage
        line += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={_escape(disk)}"]
        line += ["-device", "virtio-blk-pci,drive=disk"]
    if terminal:
        line += ["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]
    for name, descriptor in ports.items():
        line += ["-chardev", f"socket,id={name},fd={descriptor}"]
        line += ["-device", f"virtserialport,chardev={name},name={name}"]
    return line


# QEMU 7.2 gets AVX2 wrong where numpy sorts with it: wrong orders, and faults of elements that are masked out.
_EMULATED = ["-cpu", "max,-avx2"]


def _processor(accelerator: str, counted: bool) -> list[str]:
    if counted:
        return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", *_EMULATED]
    if accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", *_EMULATED]


def _shared(path: Path | str, tag: str) -> str:
    # Inode numbers of different file systems below the path are told apart by remapping them.
    return f"local,path={_escape(path)},mount_tag={tag},security_model=none,multidevs=remap"


def _escape(path: Path | str) -> str:
    """Return the path as QEMU's option syntax wants it."""
    return str(path).replace(",", ",,")
