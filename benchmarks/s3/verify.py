"""Looking at a disk whose engine was killed: what was acknowledged as flushed must be there, or something newer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.s3.generator import Front
from benchmarks.s3.stamps import BLOCK, Stamps

__all__ = ["verify"]


def verify(front: Front, expected: Sequence[int], stamps: Stamps, per_unit: int, window: int) -> dict[str, int]:
    """Read every block that was written; count those that are not what they have to be.

    :param front: of one slot, whose buffer is as long as ``window``.
    :param expected: for each unit one more than the operation that wrote it last before a flush was acknowledged; a
        later one may have been there, too.
    :param per_unit: blocks of a unit.
    :param window: bytes that are read at a time; much, for neighbours on the disk were written far apart, and what lies
        together in an object is to be read together.
    :return: ``lost`` and ``blocks``, those that were looked at.
    """
    lost = looked = 0
    blocks_at_a_time = window // BLOCK
    for first in range(0, len(expected) * per_unit, blocks_at_a_time):
        wanted = list(_wanted(expected, per_unit, first, blocks_at_a_time))
        if not wanted:
            continue
        front.read(0, first * BLOCK)
        front.wait()
        looked += len(wanted)
        for block, least in wanted:
            found = stamps.operation(front.buffers[0], (block - first) * BLOCK, block)
            lost += found is None or found + 1 < least
    return {"lost": lost, "blocks": looked}


def _wanted(expected: Sequence[int], per_unit: int, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Return the blocks of a window that must be there, each with what is expected of it."""
    for block in range(first, min(first + count, len(expected) * per_unit)):
        least = expected[block // per_unit]
        if least:
            yield block, least
