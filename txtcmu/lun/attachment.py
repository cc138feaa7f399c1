"""What ties a device to the kernel: its UIO file, the ring in it, and who reads and completes its commands.

A ring can break, by what is found in it or because the kernel flags it.  Then it is given up, emptied by the kernel,
and begun anew in the same file: :meth:`Attachment.mend`.
"""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txtcmu.errors import KernelError
from txtcmu.kernel.ring import open_ring
from txtcmu.kernel.uio import UIO, RingConsumer, RingReader
from txtcmu.lun.target import Settings, Target
from txtcmu.lun.tasks import Task, TaskSet
from txtcmu.results import Promise, within
from txtcmu.threads import Threads

__all__ = ["Attachment"]

#: Seconds that a device waits for another process to leave it: a predecessor that drains, or dies.
BUSY_PATIENCE: Final = 30.0
_BUSY_RETRY: Final = 0.1
#: Seconds before a ring is mended, the first time and when it keeps breaking.
MEND_DELAYS: Final = (0.0, 1.0, 5.0, 30.0)
#: Seconds after which a ring that was mended counts as sound.
_SOUND: Final = 60.0
#: Part of the kernel's cmd_time_out that a command may take before it is aborted here.
DEADLINE_SHARE: Final = 0.8


class Attachment:
    """The kernel's side of one device, once it is ours.

    :param left: comes when the device is being closed: nobody is waited for then, and configfs is left alone.
    :param consumer: who is told what the ring holds, and ``failed``: who ends a command whose handler raised.
    :param log: whose source is the device.
    :ivar tasks: the outstanding commands of the ring; another set after :meth:`mend`.
    """

    tasks: TaskSet

    def __init__(
        self,
        reactor: Any,
        target: Target,
        threads: Threads,
        settings: Settings,
        left: Promise,
        consumer: RingConsumer,
        failed: Callable[[Task, BaseException], None],
        log: Logger,
    ) -> None:
        self._reactor = reactor
        self._target = target
        self._in_kernel = threads.run
        self._settings = settings
        self._left = left
        self._consumer = consumer
        self._failed = failed
        self._log = log
        self._reading = False
        self._freeing: set[Deferred[None]] = set()
        self._cancelled = False
        self._mends = 0
        self._mended = 0.0

    async def open(self) -> None:
        """Open the device, empty its ring of what a dead daemon left, make reader and tasks.

        :raise KernelError: it cannot be had; nothing of it is left open.
        """
        self._uio = await self._open_uio()
        try:
            if self._settings.enabled:
                # Only now that nobody else can have it open.  What is in the ring cannot be resumed.
                await self._in_kernel(self._target.reset_ring)
            else:
                # The kernel's own default is off; what an operator or an initiator switches off later is meant so.
                await self._in_kernel(self._target.keep_write_cache, True)
            await self._in_kernel(self._target.want_task_management)
            self._make_ring()
        except Exception:
            self._close_uio()
            raise

    async def _open_uio(self) -> UIO:
        deadline = self._reactor.seconds() + BUSY_PATIENCE
        while True:
            try:
                return self._target.open_uio()
            except KernelError as error:
                busy = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY
                if not busy or self._left.come or self._reactor.seconds() >= deadline:
                    raise
            await deferLater(self._reactor, _BUSY_RETRY)

    def _make_ring(self) -> None:
        # A view of the ring's own: closing the ring releases it, and leaves the file's.
        memory = memoryview(self._uio.memory)
        try:
            self._ring = ring = open_ring(memory, Task)
        except Exception:
            memory.release()
            raise
        self._reader = reader = RingReader(self._reactor, self._uio, ring, self._consumer)
        time_out = self._settings.cmd_time_out
        deadline = DEADLINE_SHARE * time_out if time_out else None
        self.tasks = TaskSet(self._reactor, ring, reader, self._failed, self._free_kept, deadline, self._log)

    def read(self, reading: bool) -> None:
        """Take commands out of the ring, or leave them there."""
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._reader.start()
            else:
                self._reader.stop()

    def flush(self) -> None:
        """Tell the kernel of what was completed."""
        self._reader.flush()

    def doorbell(self) -> None:
        """Have the kernel look at the ring, whether there is anything new or not; no error when it is gone."""
        try:
            self._uio.doorbell()
        except OSError:
            pass

    async def mend(self) -> None:
        """Begin a broken ring anew: its windows go to other commands then, so first every handler has to let go.

        One that breaks again and again is mended more and more seldom.  Ends without a new ring when the device is
        being closed.

        :raise OSError: the device is gone.
        """
        self.read(False)
        self._reader.flush()
        self.tasks.abandon()
        await self.tasks.idle()
        if self._reactor.seconds() - self._mended > _SOUND:
            self._mends = 0
        while not self._left.come:
            delay = MEND_DELAYS[min(self._mends, len(MEND_DELAYS) - 1)]
            self._mends += 1
            if delay and await within(self._reactor, delay, self._left.wait()):
                return
            self._uio.acknowledge()  # its reader, which would find it gone, does not read
            try:
                await self._renew()
            except KernelError as error:
                self._log.error("{log_source}: the ring cannot be mended: {error}", error=error)
            else:
                self._mended = self._reactor.seconds()
                return

    async def _renew(self) -> None:
        """Have the kernel empty the ring, whose commands end with BUSY, and read the mailbox again."""
        # A late one would free a buffer of the new ring, which has the same ids.
        await DeferredList(list(self._freeing))
        await self._in_kernel(self._target.reset_ring)
        self.tasks.stop()
        self._cancelled |= self.tasks.cancelled
        self._ring.close()
        self._make_ring()

    def _free_kept(self, cmd_id: int) -> None:
        if self._left.come:
            return  # closing the device frees it, and nobody may touch configfs while a removal waits for us
        freeing = self._in_kernel(self._target.free_kept_buf, cmd_id)
        freeing.addErrback(lambda failure: self._log.failure("{log_source}: freeing a kept buffer", failure))
        self._freeing.add(freeing)
        freeing.addBoth(lambda _: self._freeing.discard(freeing))

    def close(self) -> None:
        """Leave the ring, in which nothing of ours may be outstanding, and the file."""
        self.tasks.stop()
        self._reader.flush()
        self._ring.close()
        if self._cancelled or self.tasks.cancelled:
            gc.collect()  # the traceback of a cancelled coroutine is a cycle, and holds the windows of its arguments
        self._close_uio()

    def _close_uio(self) -> None:
        try:
            self._uio.close()
        except BufferError:
            self._log.critical(
                "{log_source}: somebody still holds a window of its ring, so the kernel keeps it busy until this"
                " daemon ends; it is a mistake of its handler"
            )
