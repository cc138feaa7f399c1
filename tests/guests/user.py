"""The user of a disk, in a guest, who does what the host says: ``python -m tests.guests.user NAME``.

An order is a file ``order-N`` of the share, a JSON list of a method of :class:`User` and its arguments; its reply is
a line on port ``reply``: what the method has returned, or what became of it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.kernel.daemon import Daemon, disk, wait_until
from tests.kernel.sgio import sg_io
from tools.guest import SHARE
from txtcmu.errors import KernelError

SIZE = 16 << 20
BLOCK = 4096
#: Of the disk's: those that are written, at random.
BLOCKS = 64
#: Writes before a flush.
WRITES = 32
TEST_UNIT_READY = bytes(6)


class Writer:
    """Writes stamped blocks at random, flushes now and then, and keeps book, until it is stopped or something fails.

    :ivar written: the block that each version went to; the first version is 1.
    :ivar flushed: the last version that a flush was acknowledged for.
    """

    def __init__(self, path: str, author: str) -> None:
        self._author = author
        self.written: list[int] = []
        self.flushed = 0
        self.error = ""
        self._stop = threading.Event()
        self._disk = os.open(path, os.O_WRONLY | os.O_DIRECT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        dice = random.Random(self._author)
        buffer = mmap.mmap(-1, BLOCK)  # O_DIRECT wants pages
        try:
            while not self._stop.is_set():
                for _ in range(WRITES):
                    block = dice.randrange(BLOCKS)
                    self.written.append(block)
                    stamp = f"{self._author} {len(self.written)} {block}".ljust(63) + "\n"
                    buffer[:] = stamp.encode() * (BLOCK // len(stamp))
                    os.pwrite(self._disk, buffer, block * BLOCK)
                os.fdatasync(self._disk)
                self.flushed = len(self.written)
        except OSError as error:
            self.error = str(error)
        finally:
            os.close(self._disk)

    def end(self, stop: bool) -> None:
        """Wait for its end; have it end if ``stop``."""
        if stop:
            self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "it writes on"


class User:
    """What the host can have done here."""

    def __init__(self, name: str) -> None:
        # All guests are made of one host's files: these tell them apart.
        Path("/etc/machine-id").write_text(f"{name * 32}"[:32] + "\n")
        socket.sethostname(f"guest-{name}")
        self._name = name
        self._daemon = Daemon(Path(SHARE) / "logs", "s3")
        self._daemon.start()
        self._daemon.wait_ready()  # nobody waits for the first daemon of a boot
        self._lun = ExitStack()
        self._path = ""
        self._writer: Writer | None = None

    def open(self, dev_config: str) -> None:
        """Make the disk."""
        self._path = self._lun.enter_context(disk(f"of-{self._name}", dev_config, SIZE))

    def close(self) -> None:
        """Remove the disk."""
        self._lun.close()

    def image(self) -> list[list[str]]:
        """Return author, version and block that the stamp of each block names; nothing of one never written."""
        with open(os.open(self._path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file:
            buffer = mmap.mmap(-1, BLOCKS * BLOCK)
            assert file.readinto(buffer) == len(buffer)
        stamps = []
        for start in range(0, len(buffer), BLOCK):
            block = buffer[start : start + BLOCK]
            assert block == block[:64] * (BLOCK // 64), f"a torn block at {start}"
            stamps.append(block[:64].strip(b"\0\n ").decode().split())
        return stamps

    def write(self, author: str) -> None:
        """Begin to write."""
        self._writer = Writer(self._path, author)

    def wait(self, flushes: int) -> None:
        """Wait until so many more flushes are acknowledged."""
        writer = self._writer
        assert writer is not None
        goal = writer.flushed + flushes * WRITES

        def reached() -> bool:
            assert not writer.error, writer.error
            return writer.flushed >= goal

        wait_until(reached, f"{flushes} flushes")

    def end(self, stop: bool) -> tuple[list[int], int, str]:
        """Wait for the end of writing; return what was written, the last version flushed, and what went wrong."""
        writer, self._writer = self._writer, None
        assert writer is not None
        writer.end(stop)
        return writer.written, writer.flushed, writer.error

    def signal(self, name: str) -> None:
        """Send the daemon a signal."""
        self._daemon.send(signal.Signals[name])

    def sense(self) -> list[int]:
        """Return sense key and code of TEST UNIT READY."""
        sense = sg_io(self._path, TEST_UNIT_READY).sense
        return [sense[2] & 0xF, sense[12], sense[13]]

    def log(self) -> str:
        """Return the daemon's log."""
        return self._daemon.log.read_text()

    def stop(self) -> None:
        """Stop the daemon."""
        self._daemon.stop()


def main() -> None:
    """Carry out orders until one is to stop."""
    user = User(sys.argv[1])
    number = 0
    with open("/dev/virtio-ports/reply", "wb", buffering=0) as port:
        verb = ""
        while verb != "stop":
            number += 1
            order = Path(SHARE) / f"order-{number}"
            wait_until(order.exists, "an order", seconds=600)
            verb, *arguments = json.loads(order.read_text())
            try:
                reply = {"value": getattr(user, verb)(*arguments)}
            except (AssertionError, KernelError, OSError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            port.write(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
