"""A stock Debian kernel under QEMU, with the host's own files as its root: see ``python -m tools.guest --help``.

From the bottom up: `debian` fetches packages, `kernel` the kernel, `initramfs` packs what it boots into, `qemu` writes
the command line, `accel` finds out whether KVM works here, `machine` is the running QEMU process, and ``__main__`` runs
commands. `relay` (on the host) and `agent` (in the guest) let pytest run tests there; `kernel_log` judges the
kernel's messages; `services` starts servers on the host for them.
"""

from pathlib import Path

__all__ = ["CACHE", "ROOT", "SHARE"]

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

CACHE = ROOT / "build" / "guest"
"""Everything made here: kernel, initramfs, what was found out about KVM, and one directory per run."""

SHARE = "/run/share"
"""Where the guest sees the one directory of the host that it can write to."""
