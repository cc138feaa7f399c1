"""What is written: every sector says which block it is of, and which operation wrote it.

The rest of a sector is noise, so that nothing can be compressed, and the same everywhere, so that all of it can be
compared.
"""

from __future__ import annotations

from random import Random
from struct import Struct
from typing import Any, Final

__all__ = ["BLOCK", "Stamps"]

BLOCK: Final = 4096
_SECTOR: Final = 512
_STAMP: Final = Struct("<QQ")
_NOISE: Final = _SECTOR - _STAMP.size
_ZEROES: Final = bytes(BLOCK)
_BLOCK: Final = Struct("<" + f"QQ{_NOISE}s" * (BLOCK // _SECTOR))


class Stamps:
    """The stamps of one load.

    :param seed: of the noise; loads of different seeds never take each other's blocks for their own.
    """

    def __init__(self, seed: int) -> None:
        self._noise = Random(seed).randbytes(_NOISE)

    def put(self, buffer: Any, offset: int, block: int, operation: int) -> None:
        """Stamp a block of ``buffer``.

        :param block: which one of the disk it is for.
        """
        _BLOCK.pack_into(buffer, offset, *(block, operation, self._noise) * (BLOCK // _SECTOR))

    def operation(self, buffer: Any, offset: int, block: int) -> int | None:
        """Return which operation wrote the block, ``None`` if it is not whole, not ours, or not of this place."""
        found, operation = _STAMP.unpack_from(buffer, offset)
        if found != block:
            return None
        whole = _BLOCK.pack(*(block, operation, self._noise) * (BLOCK // _SECTOR))
        return int(operation) if buffer[offset : offset + BLOCK] == whole else None

    @staticmethod
    def is_empty(buffer: Any, offset: int) -> bool:
        """Tell whether nobody has written the block."""
        return bool(buffer[offset : offset + BLOCK] == _ZEROES)
