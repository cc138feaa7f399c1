"""Memory ordering between the ring's entries and its head and tail, from pure Python.

x86-64 keeps loads in order and stores in order, which is all that the ring asks for.  Other machines do not
(tcmu-runner without an acquire corrupted rings on aarch64), and Python has no barrier instruction; but
membarrier(2) with MEMBARRIER_CMD_GLOBAL_EXPEDITED contains a full barrier on the calling CPU (kernel/sched/
membarrier.c), needs no registration by the caller, and costs a fraction of a microsecond.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable

from txtcmu.errors import KernelError

_QUERY = 0
_GLOBAL_EXPEDITED = 1 << 1
_SYSCALL = {"aarch64": 283, "riscv64": 283, "loongarch64": 283, "ppc64le": 365, "s390x": 356}
_ORDERED = frozenset({"x86_64", "AMD64"})


def memory_fence(machine: str | None = None) -> Callable[[], object] | None:
    """Return a function that is a full memory barrier, or ``None`` where plain loads and stores are enough.

    :param machine: as :func:`platform.machine` says, by default this one.
    :raise KernelError: neither is to be had; the device must be refused.
    """
    machine = platform.machine() if machine is None else machine
    if machine in _ORDERED:
        return None
    number = _SYSCALL.get(machine)
    if number is None:
        raise KernelError(f"no memory barrier is known for {machine} machines: run txtcmu on x86-64 or 64-bit ARM")
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    mask = syscall(number, _QUERY, 0, 0)
    if mask < 0 or not mask & _GLOBAL_EXPEDITED:
        why = os.strerror(ctypes.get_errno()) if mask < 0 else "no GLOBAL_EXPEDITED command"
        raise KernelError(f"membarrier(2) is not usable ({why}): {machine} needs Linux 4.16 or later with MEMBARRIER")
    return lambda: syscall(number, _GLOBAL_EXPEDITED, 0, 0)
