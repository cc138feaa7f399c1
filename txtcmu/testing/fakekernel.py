"""A TCMU device without a kernel: submit SCSI commands to your code and see what the initiator would see.

:class:`FakeKernel` is one device of ``target_core_user.c``, and its fabric: :meth:`~FakeKernel.submit` is the
initiator, :meth:`~FakeKernel.open` is ``/dev/uioN``, and the methods named after configfs files act as those do.
It believes nothing: whatever the user side may not do raises :class:`RuleBroken` in the call that finds it, and is
remembered for :meth:`~FakeKernel.verify`, which belongs into every ``tearDown``::

    kernel = FakeKernel()
    uio = kernel.open()
    ...                                        # start a device on uio
    command = kernel.submit(bytes([0x12, 0, 0, 0, 36, 0]), data_in_length=36)
    ...                                        # let the device run
    command.status, command.data               # 0, the INQUIRY data
    kernel.verify()
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from txtcmu.kernel import abi
from txtcmu.testing.fakecommand import FakeCommand
from txtcmu.testing.fakedevice import BUSY, COMMUNICATION_FAILURE, TASK_ABORTED, FakeDevice
from txtcmu.testing.fakeuio import FakeUIO

__all__ = ["FakeCommand", "FakeKernel", "FakeUIO", "RuleBroken"]

ABORT_TASK = 1
LUN_RESET = 5


class RuleBroken(AssertionError):  # noqa: N818 - it says what happened
    """The user side did what a TCMU user may not do; on a real kernel: corrupted data or a dead device."""


class FakeKernel(FakeDevice):
    """One TCMU device as the kernel sees it.

    :param cmdr_size: bytes of the command ring, a multiple of 8; tiny rings wrap often.
    :param data_size: bytes of the data area, a multiple of 4096; by default 1 MiB, or what version 1 has.
    :param flags: capabilities in the mailbox; by default all that the version has.
    :param cmd_time_out: seconds after which the kernel gives up a command, ``None`` for never; needs ``clock``.
    :param clock: the time for it, an :class:`~twisted.internet.interfaces.IReactorTime`
        (:class:`twisted.internet.task.Clock`).
    :param fragment: scatter buffers over the data area: an iovec for nearly every page.  Not in version 1.
    :param suspicious: look for writes to the kernel's memory on every occasion; benchmarks turn it off.
    :param version: of the ABI, 1 or 2.  Version 1 (Linux 3.18) takes completions in the ring's order alone, and has
        nothing of what is said here to be of version 2.
    :ivar violations: one line for each rule broken so far.
    :ivar tmr_notification: the attribute of that name: whether aborts are told to the user side.
    :ivar qfull_time_out: as in the kernel: ``None`` waits as long as ``cmd_time_out``, 0 fails at once.
    """

    def __init__(
        self,
        cmdr_size: int = 65536 - abi.MAILBOX_SIZE,
        data_size: int | None = None,
        flags: int | None = None,
        cmd_time_out: float | None = None,
        *,
        clock: Any = None,
        fragment: bool = False,
        suspicious: bool = True,
        version: int = abi.MAILBOX_VERSION,
    ) -> None:
        super().__init__(cmdr_size, data_size, flags, cmd_time_out, clock, fragment, suspicious, version)

    # The initiator.

    def submit(self, cdb: bytes, data_out: bytes = b"", data_in_length: int = 0) -> FakeCommand:
        """Send a command; both ``data_out`` and ``data_in_length`` make it bidirectional.

        The CDB is copied as the kernel does: as many bytes as its group code says, missing ones zero.
        """
        if data_out and data_in_length and self._version == 1:
            raise ValueError("version 1 has no bidirectional commands")
        if not cdb:
            raise ValueError("a CDB has at least its operation code")
        padded = bytes(cdb).ljust(8, b"\0")
        length = abi.cdb_length(padded[0], padded[7])
        command = FakeCommand(padded[:length].ljust(length, b"\0"), bytes(data_out), data_in_length)
        before = len(self.violations)
        if self.removed:
            raise OSError(errno.ENODEV, "the device was removed")
        # Nobody overtakes a command that waits for room, unless by failing.
        behind = self._qfull and not self.blocked and not self.broken
        if behind or not self._queue(command):
            self._wait(command)
        self._raise_since(before)
        return command

    @contextmanager
    def plugged(self) -> Iterator[None]:
        """Queue what is submitted inside, and raise one event for all of it at the end."""
        self._plugged = True
        try:
            yield
        finally:
            self._plugged = False
            if self._event_due:
                self._event_due = False
                self._event()

    def abort(self, command: FakeCommand) -> None:
        """ABORT TASK: its end is still the user side's to give."""
        self.task_management(ABORT_TASK, [command])

    def lun_reset(self) -> None:
        """LOGICAL UNIT RESET: abort everything."""
        self.task_management(LUN_RESET, [*self._commands.values(), *self._qfull])

    def task_management(self, kind: int, commands: Sequence[FakeCommand]) -> None:
        """Abort ``commands``; the ones waiting for room end at once, the user side is told of the others."""
        before = len(self.violations)
        ids = []
        for command in commands:
            if command in self._qfull:
                self._qfull.remove(command)
                command.finish(TASK_ABORTED)
            elif not command.done:
                ids.append(command.cmd_id)
            else:
                continue
            command.aborted = True
        if self.tmr_notification and self._flags & abi.FLAG_TMR and not self.broken:
            self._tmrs.append((kind, ids))
            self._run_tmrs()
        self._raise_since(before)

    # The administrator.

    def block_dev(self, blocked: bool) -> None:
        """Write ``action/block_dev`` (version 2): new and waiting commands get BUSY while blocked."""
        self._only_since_v2("block_dev")
        before = len(self.violations)
        self.blocked = blocked
        if blocked:
            self._handle_completions()
            while self._qfull:
                self._qfull.popleft().finish(BUSY)
        self._raise_since(before)

    def reset_ring(self, kind: int) -> None:
        """Write ``action/reset_ring`` (version 2): all commands end, BUSY (1) or with a hard failure (2)."""
        self._only_since_v2("reset_ring")
        if kind not in (1, 2):
            raise OSError(errno.EINVAL, "reset_ring is 1 or 2")
        before = len(self.violations)
        self._look()
        for command in list(self._commands.values()):
            self._forget(command)
            if command.done:
                continue
            if kind == 1:
                command.finish(BUSY)
            else:
                command.fail(*COMMUNICATION_FAILURE)
        self._ring.reset()
        self.broken = False
        self._tmrs.clear()
        self._run_qfull()
        self._raise_since(before)

    def free_kept_buf(self, cmd_id: int) -> None:
        """Write ``action/free_kept_buf`` (version 2)."""
        self._only_since_v2("free_kept_buf")
        command = self._commands.get(cmd_id)
        if command is None or not command.kept:
            raise OSError(errno.EINVAL, f"cmd_id {cmd_id} is not kept")
        before = len(self.violations)
        self._look()
        self._forget(command)
        if not self._tmrs:
            self._run_qfull()
        self._raise_since(before)

    def remove(self) -> None:
        """Unregister the device; the real one waits for its commands before, so end them first."""
        self.removed = True
        self._event()

    def unknown_entry(self, op: int = 5, size: int = 64) -> None:
        """Queue an entry of an operation that only a later kernel knows."""
        if not self._ring.has_room(size):
            raise ValueError("the ring is full")
        self._ring.push_unknown(op, size)
        self._event()

    # The user side.

    def open(self) -> FakeUIO:
        """Open the UIO device.

        :raise OSError: EBUSY if it is open, ENODEV if it was removed.
        """
        if self.removed:
            raise OSError(errno.ENODEV, "the device was removed")
        if self._user is not None:
            raise OSError(errno.EBUSY, "the device is open")
        self._user = FakeUIO(self, mmap.mmap(self._fd, self.map_size))
        return self._user

    def written(self) -> None:
        """Four bytes were written to the UIO device."""
        if self.removed:
            raise OSError(errno.EINVAL, "the device was removed")
        before = len(self.violations)
        if self._handle_completions():
            self._run_qfull()
        self._raise_since(before)

    def closed(self, leaked: bool) -> None:
        """The UIO device was closed; what it kept is freed, what is in flight stays."""
        self._user = None
        if leaked:  # the file itself raises
            self.violations.append("windows of the map outlive its close: the device stays busy")
        before = len(self.violations)
        self._look()
        kept = [command for command in self._commands.values() if command.kept]
        for command in kept:
            self._forget(command)
        if kept and not self._tmrs:
            self._run_qfull()
        self._raise_since(before)

    # Judgement.

    def poison_free_pages(self) -> None:
        """Overwrite free data pages with a pattern from now on: an initiator that receives it got stale bytes."""
        before = len(self.violations)
        self._data.poison_free_pages()
        self._raise_since(before)

    def verify(self, *, drained: bool = True) -> None:
        """Raise :class:`RuleBroken` if any rule was broken so far.

        :param drained: also if a command is not completed, a buffer still kept, or the ring not empty.
        """
        self._ring.check()
        self._data.check(everything=True)
        wrong = list(self.violations)
        if drained:
            wrong += [f"never completed: {command}" for command in (*self._commands.values(), *self._qfull)]
            if self._tmrs:
                wrong.append(f"{len(self._tmrs)} task management entries found no room")
            if not self._ring.empty:
                ring = self._ring
                wrong.append(f"cmd_head {ring.head}, cmd_tail {ring.tail}, cleaned up to {ring.cleaned}")
        if wrong:
            raise RuleBroken("\n".join(wrong))

    @property
    def cmd_head(self) -> int:
        """Where the next entry goes."""
        return self._ring.head

    @property
    def cmd_tail(self) -> int:
        """What the user side stored."""
        return self._ring.tail

    @property
    def waiting(self) -> int:
        """How many commands wait for room (the qfull queue)."""
        return len(self._qfull)

    @property
    def in_flight(self) -> list[FakeCommand]:
        """The commands on the ring whose end the user side owes, expired ones included."""
        return [command for command in self._commands.values() if not command.kept]

    @property
    def pages_in_use(self) -> int:
        """How many pages of the data area belong to commands."""
        return self._data.in_use

    def _raise_since(self, before: int) -> None:
        if len(self.violations) > before:
            raise RuleBroken("\n".join(self.violations[before:]))
