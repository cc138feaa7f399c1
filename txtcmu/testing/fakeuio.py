"""``/dev/uioN`` of a :class:`~txtcmu.testing.fakekernel.FakeKernel`."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Protocol

__all__ = ["Device", "FakeUIO"]


class Device(Protocol):
    """What the file calls."""

    removed: bool

    def written(self) -> None:
        """Four bytes were written."""

    def closed(self, leaked: bool) -> None:
        """The file is closed, but for the map if ``leaked``."""


class FakeUIO:
    """An open UIO device (:class:`txtcmu.kernel.uio.UIO`) with a pollable descriptor, for reactors real or not.

    Get it from :meth:`FakeKernel.open() <txtcmu.testing.fakekernel.FakeKernel.open>`.

    :ivar memory: the whole map, writable; this opener's own.
    """

    def __init__(self, device: Device, memory: mmap.mmap) -> None:
        self._device = device
        self._map = memory
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.memory = memoryview(memory)

    def fileno(self) -> int:
        """Return the descriptor to poll, -1 once closed."""
        return self._fd

    def acknowledge(self) -> None:
        """Clear the event, if there is one.

        :raise OSError: EIO once the device is unregistered; the descriptor stays readable then.
        """
        self._check_open()
        if self._device.removed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def doorbell(self) -> None:
        """Have the completions up to ``cmd_tail`` processed before this returns.

        :raise OSError: EINVAL once the device is unregistered.
        :raise RuleBroken: see :mod:`txtcmu.testing.fakekernel`.
        """
        self._check_open()
        self._device.written()

    def close(self) -> None:
        """Close; pending commands stay, kept buffers are freed.  Idempotent.

        :raise BufferError: a window was not released: as with the real one, the device is still mapped.
        """
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        leak = None
        try:
            self.memory.release()
            self._map.close()
        except BufferError as error:
            leak = error
        self._device.closed(leak is not None)
        if leak is not None:
            raise leak

    def notify(self) -> None:
        """Make the descriptor readable: the kernel's side of an event."""
        os.eventfd_write(self._fd, 1)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
