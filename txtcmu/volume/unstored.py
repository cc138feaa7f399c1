"""Whether a daemon that is dead had acknowledged writes that it had not stored: its successor on this host can tell.

What is acknowledged from memory dies with the daemon, but not for the initiator: its disk is still there, and it goes
on as if nothing had happened.  A small file that is in memory too, but the kernel's, outlives a daemon that is killed,
and ends with the host: byte 0 is 1 while something acknowledged is not durable.  It is mapped, so that to say so costs
the store of a byte.  Behind it are the boot that it belongs to, and the nonces of those openings of the volume that
byte 0 speaks for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from mmap import mmap
from pathlib import Path
from typing import Final
from uuid import UUID

from attrs import frozen

__all__ = ["Left", "Mark"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES: Final = 36
_NONCE: Final = 16
#: Openings that one file speaks for: the last that was open, and those since that nobody knows to have failed.
_MOST: Final = 8


@frozen
class Left:
    """What a dead daemon has left.

    :ivar dirty: acknowledged writes are lost, and :ivar nonces: of the openings of which ``dirty`` knows.
    """

    dirty: bool
    nonces: tuple[bytes, ...]


class Mark:
    """The file of one volume as one LUN.

    :param folder: in memory (tmpfs), the same for all daemons of the host.
    :param lun: the device's name in the kernel.
    """

    def __init__(self, folder: Path, uuid: UUID, lun: str) -> None:
        self._path = folder / f"{uuid}-{sha256(os.fsencode(lun)).hexdigest()[:16]}"

    def read(self) -> Left | None:
        """Return what is there; ``None`` if it is nothing of this boot."""
        try:
            boot, data = _boot(), self._path.read_bytes()
        except OSError:
            return None
        nonces = data[1 + _BOOT_BYTES :]
        if data[1 : 1 + _BOOT_BYTES] != boot or len(nonces) % _NONCE:
            return None
        return Left(data[0] != 0, tuple(nonces[at : at + _NONCE] for at in range(0, len(nonces), _NONCE)))

    def begin(self, nonces: Iterable[bytes]) -> mmap:
        """Put a new file there, by which nothing is lost.

        :param nonces: of the openings that it speaks for, the newest last.
        :return: the file; index 0 is the byte.
        :raise OSError: it cannot be made.
        """
        content = b"\0" + _boot() + b"".join([*dict.fromkeys(nonces)][-_MOST:])
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with made.open("w+b") as file:
                file.write(content)
                file.flush()
                memory = mmap(file.fileno(), len(content))
            made.replace(self._path)
        except OSError:
            made.unlink(missing_ok=True)
            raise
        return memory

    def remove(self) -> None:
        """Take the file away; no error when it is gone, or cannot be removed."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            pass  # it says that nothing is lost


def _boot() -> bytes:
    """Return the id of this boot.  :raise OSError: there is no /proc."""
    return _BOOT_ID.read_bytes().strip()
