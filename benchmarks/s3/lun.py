"""A LUN of handler ``s3`` on a ring that another process fills: the engine of a measurement, a process of its own.

Everything between the ring and the bucket is what ``twist tcmu --handler s3`` runs, with the handler's defaults.
``python -m benchmarks.s3.lun JSON`` serves until it is killed; it says ``serving`` when it does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner, textFileLogObserver

from benchmarks.s3.ringfront import SECTOR, SharedRing
from txtcmu.backstores.s3 import S3Factory
from txtcmu.devconfig import DeviceConfig
from txtcmu.lun.device import Device, State
from txtcmu.lun.target import Settings
from txtcmu.scsi.unit import Identity
from txtcmu.threads import Threads

_CMD_TIME_OUT = 30  # the kernel's default


class SharedUIO:
    """The UIO device of a :class:`SharedRing`, for :class:`txtcmu.kernel.uio.RingReader`."""

    def __init__(self, ring: SharedRing) -> None:
        self._ring = ring
        self.memory = ring.map()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._ring.event

    def acknowledge(self) -> None:
        """Clear the event."""
        try:
            os.eventfd_read(self._ring.event)
        except BlockingIOError:
            pass

    def doorbell(self) -> None:
        """Tell the other process."""
        os.eventfd_write(self._ring.doorbell, 1)

    def close(self) -> None:
        """Nothing: the ring ends with the process."""


class SharedTarget:
    """The kernel's side of the device; see :class:`txtcmu.lun.target.Target`."""

    name = "bench"

    def __init__(self, ring: SharedRing, settings: Settings) -> None:
        self._ring = ring
        self._settings = settings

    def open_uio(self) -> SharedUIO:
        """Open the ring."""
        return SharedUIO(self._ring)

    def settings(self) -> Settings:
        """Return what the LUN is."""
        return self._settings

    def identity(self) -> Identity:
        """Return any name."""
        return Identity("0" * 32)

    def pending(self) -> None:
        """Nobody waits in ``enable``."""

    def want_task_management(self) -> None:
        """Nobody aborts."""

    def keep_write_cache(self, on: bool) -> None:
        """Nobody asks for it again."""

    def reset_ring(self) -> None:
        """The ring is new."""

    def free_kept_buf(self, cmd_id: int) -> None:
        """The ring does not offer KEEP_BUF."""


async def _serve(reactor: Any, options: dict[str, Any]) -> None:
    settings = Settings(options["size"], SECTOR, options["longest"] // SECTOR, _CMD_TIME_OUT, enabled=False)
    target = SharedTarget(SharedRing(**options["ring"]), settings)
    config = DeviceConfig("s3", options["path"]).with_defaults(options["store"])
    device = Device(reactor, target, Threads(reactor, reactor.getThreadPool()), S3Factory(), config)
    await device.open()
    while device.state is not State.SERVING:
        await deferLater(reactor, 0.02)
    print("serving", flush=True)


def main() -> None:
    """Serve the LUN that the first argument describes."""
    from twisted.internet import reactor

    twisted: Any = reactor
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)

    def refused(failure: Any) -> None:
        failure.printTraceback()
        os._exit(1)

    Deferred.fromCoroutine(_serve(twisted, json.loads(sys.argv[1]))).addErrback(refused)
    twisted.run()


if __name__ == "__main__":
    main()
