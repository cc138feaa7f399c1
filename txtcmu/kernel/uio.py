"""The UIO device of one LUN: the file, and the reactor's reader that turns its events into calls.

:class:`UIOFile` is ``/dev/uioN`` (drivers/uio/uio.c); the fake kernel offers the same :class:`UIO`.
:class:`RingReader` empties the ring with a budget per turn of the reactor, stores cmd_tail and rings the doorbell
once per batch, and notices when the device goes away.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from txtcmu.errors import KernelError, RingError
from txtcmu.kernel.ringbase import Command, RingBase, TaskManagement

__all__ = ["UIO", "RingConsumer", "RingReader", "UIOFile"]

# One turn of the reactor takes at most this much, so that timers, signals and other devices get theirs.
ENTRIES_PER_TURN: Final = 64
BYTES_PER_TURN: Final = 4 << 20

_WORD: Final = bytes(4)


class UIO(Protocol):
    """What a reader needs of an open UIO device."""

    memory: memoryview

    def fileno(self) -> int:
        """Return the descriptor to poll; -1 once closed."""

    def acknowledge(self) -> None:
        """Mark the events so far as seen.  :raise OSError: EIO, the device is gone."""

    def doorbell(self) -> None:
        """Have the kernel process completions up to cmd_tail, in this call.  :raise OSError: it is gone."""

    def close(self) -> None:
        """Unmap and close; idempotent.  Every window must have been released before."""


class UIOFile:
    """``/dev/uioN``, opened and mapped.

    :param path: the device node.
    :param map_size: bytes of map0, exactly as sysfs says (anything else is refused by the kernel).
    :raise KernelError: one line that says why it cannot be used.
    """

    def __init__(self, path: str, map_size: int) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(f"cannot open {path}: {_why_not(error)}") from error
        try:
            # epoll refuses a regular file, and the reactor would then poll it in a busy loop.
            if not stat.S_ISCHR(os.fstat(self._fd).st_mode):
                raise KernelError(f"{path} is not a character device")
            # mmap duplicates the descriptor: the device stays open, EBUSY to others, until both are closed.
            self._map = mmap.mmap(self._fd, map_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as error:
            os.close(self._fd)
            raise KernelError(f"cannot map {map_size} bytes of {path}: {error}") from error
        except KernelError:
            os.close(self._fd)
            raise
        self.memory = memoryview(self._map)

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._fd

    def acknowledge(self) -> None:
        """Read the event counter.  That nothing was new is no error: another wake-up took it."""
        try:
            os.read(self._fd, 4)
        except BlockingIOError:
            pass

    def doorbell(self) -> None:
        """Write any four bytes: target_core_user handles the completions before the call returns."""
        os.write(self._fd, _WORD)

    def close(self) -> None:
        """Unmap and close.  :raise BufferError: somebody still holds a window; the descriptor is closed anyway."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.memory.release()
            self._map.close()


def _why_not(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "another process serves this device: stop it first, or give this daemon other handlers"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied: run as root"
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
        return "the device is gone"
    return error.strerror or str(error)


class RingConsumer(Protocol):
    """Who is told what a reader finds; nothing here may raise."""

    def command_received(self, command: Any) -> None:
        """Carry out ``command``, of the type the ring was given; it may be completed before this returns."""

    def task_management_received(self, request: TaskManagement) -> None:
        """End the commands that ``request`` names, soon."""

    def device_lost(self) -> None:
        """The kernel has unregistered the device: nothing can be completed any more."""

    def ring_broken(self, error: RingError) -> None:
        """The ring cannot be read any further."""


@implementer(IReadDescriptor)
class RingReader:
    """Reads one device's ring whenever the kernel, or what is left of the last budget, says so.

    Runs in the reactor's thread.  After a completion call :meth:`completed`; tail store and doorbell follow at
    the end of the batch, or in the reactor's next turn.
    """

    def __init__(self, reactor: Any, uio: UIO, ring: RingBase, consumer: RingConsumer) -> None:
        self._reactor = reactor
        self._uio = uio
        self._ring = ring
        self._consumer = consumer
        self._running = False
        self._in_batch = False
        self._flush_due = False
        self._work_due = False

    def start(self) -> None:
        """Take events from now on, and first what is in the ring already: UIO tells nothing of events before open."""
        self._running = True
        self._reactor.addReader(self)
        self._work()

    def stop(self) -> None:
        """Take nothing more; completions still reach the kernel.  Idempotent."""
        if self._running:
            self._running = False
            self._reactor.removeReader(self)

    def completed(self) -> None:
        """Tell that the ring has news for the kernel."""
        if not self._in_batch and not self._flush_due:
            self._flush_due = True
            self._reactor.callLater(0, self.flush)

    def flush(self) -> None:
        """Store cmd_tail and ring the doorbell, if anything was completed since."""
        self._flush_due = False
        if self._uio.fileno() >= 0 and self._ring.publish():
            try:
                self._uio.doorbell()
            except OSError:
                self._lost()

    def fileno(self) -> int:
        """See IReadDescriptor."""
        return self._uio.fileno()

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return "tcmu"

    def doRead(self) -> None:
        """Events are cleared first and the ring read afterwards: nothing can fall in between."""
        try:
            self._uio.acknowledge()
        except OSError:
            self._lost()
        else:
            # What is due takes this, too: two chains of turns would take two budgets in each.
            if not self._work_due:
                self._work()

    def connectionLost(self, reason: Failure) -> None:
        """See IReadDescriptor: the reactor saw only an error condition."""
        self._lost()

    def _lost(self) -> None:
        if self._running:
            # Polling an unregistered device always succeeds: a reader left in the reactor would spin.
            self.stop()
            self._consumer.device_lost()

    def _work(self) -> None:
        """Take entries until the ring is empty or the budget is spent."""
        self._work_due = False
        if not self._running:
            return
        take, received = self._ring.take, self._consumer.command_received
        entries, room = ENTRIES_PER_TURN, BYTES_PER_TURN
        entry: Command | TaskManagement | None = None
        self._in_batch = True
        try:
            while True:
                entry = take()
                if entry is None:
                    break
                if isinstance(entry, TaskManagement):
                    self._consumer.task_management_received(entry)
                else:
                    received(entry)
                    room -= entry.length
                entries -= 1
                if entries <= 0 or room <= 0 or not self._running:
                    break
        except RingError as error:
            self.stop()
            self._consumer.ring_broken(error)
        finally:
            self._in_batch = False
        self.flush()
        if entry is not None and not self._work_due and self._running:
            # The events are acknowledged, so the descriptor may stay silent about what is left.
            self._work_due = True
            self._reactor.callLater(0, self._work)
