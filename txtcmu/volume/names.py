"""The keys of a volume, below its prefix.

``head`` is the only object that is ever replaced.  All others are created once, and carry the volume's UUID: what a
late request of a volume that was removed leaves behind can never be taken for an object of its successor.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from attrs import frozen

__all__ = ["Names"]

_HEAD: Final = "head"
_PART: Final = re.compile(r"/c/([0-9a-f]{8})/([0-9a-f]{16})/([0-9a-f]{4})\Z")
_LOG: Final = re.compile(r"/d/([0-9a-f]{8})/([0-9a-f]{16})\Z")


@frozen
class Names:
    """The keys of one volume.

    :ivar prefix: where the volume lives: empty, or ending in a slash.
    """

    prefix: str
    uuid: UUID

    @property
    def root(self) -> str:
        """What every key but the head's begins with."""
        return f"{self.prefix}{self.uuid}/"

    @property
    def logs(self) -> str:
        """What the keys of all log objects begin with."""
        return f"{self.root}d/"

    def epoch(self, epoch: int) -> str:
        """What the keys of an epoch's log objects begin with."""
        return f"{self.logs}{epoch:08x}/"

    def log(self, epoch: int, seq: int) -> str:
        """Return the key of a log object, or of the seal in its place."""
        return f"{self.epoch(epoch)}{seq:016x}"

    @property
    def checkpoints(self) -> str:
        """What the keys of all parts of checkpoints begin with."""
        return f"{self.root}c/"

    def part(self, epoch: int, seq: int, part: int) -> str:
        """Return the key of a part of the checkpoint at ``seq``, which a writer of ``epoch`` wrote; 0 is its root."""
        return f"{self.checkpoints}{epoch:08x}/{seq:016x}/{part:04x}"


def head_key(prefix: str) -> str:
    """Return the key of the head of the volume at ``prefix``."""
    return prefix + _HEAD


def log_place(key: str) -> tuple[int, int] | None:
    """Return epoch and sequence number of the log object that has this key, ``None`` when it is another's."""
    match = _LOG.search(key)
    return None if match is None else (int(match[1], 16), int(match[2], 16))


def part_place(key: str) -> tuple[int, int, int] | None:
    """Return epoch, sequence number and part of the part of a checkpoint that has this key, else ``None``."""
    match = _PART.search(key)
    return None if match is None else (int(match[1], 16), int(match[2], 16), int(match[3], 16))
