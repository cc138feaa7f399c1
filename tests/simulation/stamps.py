"""What the simulation writes: every sector says which operation wrote it, and which sector it is."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOST", "SECTOR", "TORN", "Stamps", "damage", "expand", "read_stamps", "runs", "stamped"]

SECTOR: Final = 512
#: Sectors by the number of the operation that wrote them; 0 is zeroes.
Stamps = NDArray[np.int64]
#: A sector that is not what anybody wrote there, and one that cannot be read: MEDIUM ERROR.
TORN: Final = -1
LOST: Final = -2

_WORDS: Final = SECTOR // 8
_MARK: Final = 0x57


def stamped(operation: int, sector: int, count: int) -> bytearray:
    """Return what ``operation`` writes to ``count`` sectors from ``sector`` on."""
    values = np.arange(sector, sector + count, dtype=np.uint64) | np.uint64(_MARK << 56 | operation << 24)
    return bytearray(np.repeat(values, _WORDS).tobytes())


def read_stamps(data: Any, sector: int) -> Stamps:
    """Return who wrote the sectors ``data``, which were read from ``sector`` on."""
    words = np.frombuffer(data, "<u8").reshape(-1, _WORDS)
    first = words[:, 0]
    sectors = np.arange(sector, sector + len(words), dtype=np.uint64)
    place = first & np.uint64(0xFFFFFF)
    mark = first >> np.uint64(56)
    whole: NDArray[np.bool_] = (words == first[:, None]).all(axis=1)
    stamps: Stamps = (first >> np.uint64(24) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    stamps[~(whole & (place == sectors) & (mark == _MARK))] = TORN
    stamps[whole & (first == 0)] = 0
    return stamps


def runs(stamps: Stamps) -> list[list[int]]:
    """Return stamps as pairs of stamp and number of sectors."""
    ends = [*(np.flatnonzero(np.diff(stamps)) + 1).tolist(), len(stamps)] if len(stamps) else []
    pairs, start = [], 0
    for end in ends:
        pairs.append([int(stamps[start]), end - start])
        start = end
    return pairs


def expand(pairs: list[list[int]]) -> Stamps:
    """Return what :func:`runs` was given."""
    return np.repeat(np.array([stamp for stamp, _ in pairs], np.int64), [count for _, count in pairs])


def damage(data: bytes, choice: float) -> tuple[bytes, int, int] | None:
    """Flip a bit of one stamped sector in an object, wherever it lies there.

    :param choice: which one, from 0 to 1.
    :return: the object now, which byte it was, and the number of the sector; ``None`` when it holds none.
    """
    words = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    there = np.flatnonzero((words[1:] == words[:-1]) & (words[1:] >> np.uint64(56) == _MARK))
    if not len(there):
        return None
    at = int(there[int(choice * len(there))])
    changed = bytearray(data)
    changed[at * 8] ^= 1
    return bytes(changed), at * 8, int(words[at] & np.uint64(0xFFFFFF))
