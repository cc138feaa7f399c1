"""Which process has a disk open, in a form that tells the next one whether it still runs.

Hosts are told apart by their names, which must therefore differ.  On one host a process is known by the boot it
belongs to, its number, and the time it started, since numbers come again.  Numbers mean something only in their own
PID namespace: of a process in another one, that is in another container, nobody can tell whether it runs, so it is
treated like one on another host, even when the containers share a host name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

__all__ = ["Owner"]

_HOST, _BOOT, _NAMESPACE, _PID, _STARTED = (f"txtcmu-{word}" for word in ("host", "boot", "pidns", "pid", "started"))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NUMBER = re.compile("[1-9][0-9]{0,8}")  # 0 is not a process, and more digits do not fit


@frozen
class Owner:
    """A process.

    :ivar host: this machine's name, as others see it.
    :ivar boot: another one each time that the machine starts; ``""`` when unknown.
    :ivar namespace: of the PID.
    :ivar started: when, in ticks since the boot; ``""`` when unknown.
    """

    host: str
    boot: str = ""
    namespace: str = ""
    pid: str = ""
    started: str = ""

    @classmethod
    def process(cls, host: str, pid: int) -> Owner:
        """Return a process of this machine, in our own PID namespace."""
        try:
            boot, namespace = _BOOT_ID.read_text().strip(), os.readlink("/proc/self/ns/pid")
        except OSError:
            boot, namespace = "", ""
        return cls(host, boot, "".join(filter(str.isdigit, namespace)), str(pid), _stat(pid)[1])

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Owner | None:
        """Return whom an object's metadata name, ``None`` when nobody."""
        if _HOST not in metadata:
            return None
        return cls(metadata[_HOST], *(metadata.get(key, "") for key in (_BOOT, _NAMESPACE, _PID, _STARTED)))

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that name it."""
        values = (self.host, self.boot, self.namespace, self.pid, self.started)
        return dict(zip((_HOST, _BOOT, _NAMESPACE, _PID, _STARTED), values, strict=True))

    def has_ended(self, seen_by: Owner) -> bool | None:
        """Tell whether it is over with this process, ``None`` if ``seen_by`` cannot know; over it is with itself.

        :param seen_by: the process that asks, which is the calling one.
        """
        if self.host != seen_by.host:
            return None
        if self == seen_by or self.boot != seen_by.boot or not _NUMBER.fullmatch(self.pid):
            return True
        if self.namespace != seen_by.namespace:
            return None
        try:
            os.kill(int(self.pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it is somebody else's
        state, started = _stat(int(self.pid))
        return state in ("Z", "X") or (started != "" and started != self.started)


def _stat(pid: int) -> tuple[str, str]:
    """Return the state of a process and when it started, empty when /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
