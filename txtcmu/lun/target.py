"""What a device needs of the kernel beside its ring: the seam, and the kernel behind it."""

from __future__ import annotations

import hashlib
from typing import Protocol

from attrs import frozen

from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import Backstore
from txtcmu.kernel.sysfs import UIODevice
from txtcmu.kernel.uio import UIO, UIOFile
from txtcmu.scsi.unit import Identity

__all__ = ["KernelTarget", "Settings", "Target"]


@frozen
class Settings:
    """What the kernel knows of a device, read once when it is opened.

    :ivar size: bytes, and ``block_size``: bytes of a logical block.
    :ivar max_blocks: longest transfer to advertise, in blocks.
    :ivar cmd_time_out: seconds after which the kernel gives a command up, 0 for never.
    :ivar enabled: the device is usable already, so an earlier daemon may have left commands in its ring.
    :ivar write_cache: what :meth:`Target.keep_write_cache` has kept; says nothing of a device that is not enabled.
    """

    size: int
    block_size: int
    max_blocks: int
    cmd_time_out: int
    enabled: bool
    write_cache: bool = True


class Target(Protocol):
    """The kernel's side of one device.  Every method but :meth:`open_uio` may block, and runs in a thread."""

    name: str

    def open_uio(self) -> UIO:
        """Open and map the UIO device; only one process can.  :raise KernelError: it cannot be had."""

    def settings(self) -> Settings:
        """Read the device's attributes."""

    def identity(self) -> Identity:
        """Read the names that INQUIRY tells; final only once a LUN exports the device."""

    def pending(self) -> int | None:
        """Return the id by which to answer whoever still waits in ``enable``, or ``None`` when nobody can be."""

    def want_task_management(self) -> None:
        """Have the kernel put aborts into the ring (tmr_notification); no error where it cannot."""

    def keep_write_cache(self, on: bool) -> None:
        """Keep for the next daemon whether the write cache is on (emulate_write_cache); no error where it cannot.

        On an enabled device this is a RECONFIG, which the daemon has to answer meanwhile.
        """

    def reset_ring(self) -> None:
        """Empty the ring; its commands end with BUSY."""

    def free_kept_buf(self, cmd_id: int) -> None:
        """Free what was kept with KEEP_BUF; no error when the kernel has freed it meanwhile."""


class KernelTarget:
    """The real one, through sysfs and configfs."""

    def __init__(self, uio: UIODevice, backstore: Backstore | None = None) -> None:
        self.name = uio.name
        self._uio = uio
        self._backstore = backstore or Backstore(uio.hba, uio.name)

    def open_uio(self) -> UIO:
        """See :class:`Target`."""
        return UIOFile(self._uio.node, self._uio.map_size)

    def settings(self) -> Settings:
        """See :class:`Target`."""
        backstore = self._backstore
        return Settings(
            size=backstore.size,
            block_size=int(backstore.attribute("hw_block_size")),
            max_blocks=int(backstore.attribute("hw_max_sectors")),
            cmd_time_out=int(backstore.attribute("cmd_time_out")),
            enabled=backstore.enabled,
            write_cache=not self._has("emulate_write_cache") or backstore.attribute("emulate_write_cache") != "0",
        )

    def identity(self) -> Identity:
        """See :class:`Target`.

        Without a serial number of its own a device is known by a hash of its name and its storage's: as stable as
        these, and telling nothing of them.  Options do not count, since they may change while it lives.
        """
        serial = self._backstore.serial
        storage = self._uio.dev_config.partition(";")[0]
        return Identity(serial or hashlib.sha256(f"{self.name}/{storage}".encode()).hexdigest()[:32])

    def pending(self) -> int | None:
        """See :class:`Target`."""
        return None if self._backstore.enabled else self._backstore.device_id

    def want_task_management(self) -> None:
        """See :class:`Target`; Linux before 5.10 has no such attribute."""
        if self._has("tmr_notification"):
            self._backstore.set_attribute("tmr_notification", 1)

    def keep_write_cache(self, on: bool) -> None:
        """See :class:`Target`; Linux before 4.15 has no such attribute."""
        if self._has("emulate_write_cache"):
            self._backstore.set_attribute("emulate_write_cache", int(on))

    def _has(self, attribute: str) -> bool:
        return (self._backstore.path / "attrib" / attribute).exists()

    def reset_ring(self) -> None:
        """See :class:`Target`."""
        self._backstore.reset_ring()

    def free_kept_buf(self, cmd_id: int) -> None:
        """See :class:`Target`."""
        try:
            self._backstore.free_kept_buf(cmd_id)
        except KernelError:
            # A reset of the ring, or the removal of the device, has freed it.
            pass
