"""What is measured: rows of a table, one load each."""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

__all__ = ["DISK", "ROWS", "WINDOW", "Row", "Scale"]

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20

#: Bytes of every disk, and of the part of it that is written in order.
DISK: Final = 8 << 30
_LONG: Final = 4 << 30
#: Bytes that are read at a time when a disk is verified.
WINDOW: Final = 64 * _MIB


@frozen
class Scale:
    """How much of it is measured: the default is the measurement, anything less is a trial.

    :ivar seconds: that a row lasts at least.
    :ivar area: bytes of the disk that are written at random.
    :ivar whole: every engine overwrites it :attr:`Row.passes` times, and not the volume only.
    :ivar seed: of the order in which it is.
    """

    seconds: float = 20.0
    area: int = 512 * _MIB
    whole: bool = False
    seed: int = 1


@frozen
class Row:
    """A load.

    :ivar unit: bytes of an operation, and ``depth``: how many are outstanding.
    :ivar flushes: each write is followed by a flush.
    :ivar passes: how often the volume's area is overwritten, however long that takes.
    :ivar reads: the row that wrote what this one reads, on an engine that has just been started: nothing is cached.
    """

    name: str
    unit: int
    depth: int
    random: bool = True
    flushes: bool = False
    passes: int = 0
    reads: str = ""

    @property
    def disk(self) -> str:
        """The name of the disk; a row that reads has that of the one that wrote it."""
        return self.reads or self.name

    def load(self, scale: Scale, whole: bool) -> dict[str, Any]:
        """Return what :mod:`benchmarks.s3.load` is told.

        :param whole: the area is overwritten :attr:`passes` times.
        """
        area = scale.area if self.random else _LONG
        return {
            "unit": self.unit,
            "depth": self.depth,
            "random": self.random,
            "flushes": self.flushes,
            "writes": not self.reads,
            "area": area,
            "operations": self.passes * area // self.unit if whole else 0,
            "seconds": scale.seconds,
            "seed": scale.seed,
        }


ROWS: Final = {
    row.name: row
    for row in (
        Row("rw", 4 * _KIB, 16, passes=3),
        Row("rr", 4 * _KIB, 16, reads="rw"),
        Row("rr1", 4 * _KIB, 1, reads="rw"),
        Row("flushw", 4 * _KIB, 1, flushes=True),
        Row("flush16", 4 * _KIB, 16, flushes=True),
        Row("sw", _MIB, 16, random=False),
        Row("sr", _MIB, 16, random=False, reads="sw"),
    )
}
