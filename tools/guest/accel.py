"""Whether KVM works here: found out by booting, since a /dev/kvm that opens may still not run a guest."""

import os
import platform
import subprocess
import tempfile
from pathlib import Path

from tools.guest import CACHE, qemu
from tools.guest.kernel import Kernel

__all__ = ["choose"]

VERDICT = CACHE / "accelerator"
PROBE_SECONDS = 15.0
"""A KVM that takes longer than this to boot is broken, or no faster than emulation."""


def choose(kernel: Kernel, initramfs: Path) -> str:
    """Return "kvm" or "tcg". The environment's TXTCMU_GUEST_ACCEL overrules what was found out."""
    forced = os.environ.get("TXTCMU_GUEST_ACCEL")
    if forced:
        return forced
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    # What was true of one machine and its kernel says nothing about another that sees the same checkout.
    here = f"{platform.node()} {platform.release()} {kernel.version}"
    try:
        verdict, _, where = VERDICT.read_text().strip().partition(" ")
    except FileNotFoundError:
        verdict, where = "", ""
    if where != here:
        verdict = "kvm" if _boots_under_kvm(kernel, initramfs) else "tcg"
        VERDICT.write_text(f"{verdict} {here}\n")
    return verdict


def _boots_under_kvm(kernel: Kernel, initramfs: Path) -> bool:
    hardware = qemu.Hardware(kernel_arguments=(qemu.PROBE,))
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="probe-") as scratch:
        console = Path(scratch) / "console.log"
        line = qemu.command_line(hardware, "kvm", kernel.image, initramfs, Path(scratch), console, {})
        try:
            subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return console.exists() and b"txtcmu: guest booted" in console.read_bytes()
