"""From the figures of all rotations to one line of ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["line"]

_GIB = 1 << 30


class _Figures:
    """What was measured, by engine and row; a figure is the median of all rotations.

    A row that was not measured raises :class:`KeyError`.
    """

    def __init__(self, rotations: list[dict[str, Any]]) -> None:
        self._rotations = rotations

    def median(self, engine: str, row: str, figure: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(figure(each["engines"][engine][row]) for each in self._rotations)

    def rate(self, engine: str, row: str) -> float:
        """Operations a second."""
        return self.median(engine, row, lambda each: each["operations"] / each["seconds"])

    def ratio(self, row: str, peer: str, peers_row: str = "") -> float:
        """How many times as fast txtcmu is."""
        return self.rate("txtcmu", row) / self.rate(peer, peers_row or row)

    def requests(self, engine: str, row: str) -> float:
        """Requests of all kinds for each GiB written."""
        return self.median(engine, row, lambda each: sum(each["requests"].values()) / (each["bytes_written"] / _GIB))


def _values(rotations: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[], str]]]:
    of = _Figures(rotations)
    lost = [row["lost"] for each in rotations for row in each["engines"].get("txtcmu", {}).values() if "lost" in row]
    yield "lost", lambda: str(sum(lost))
    yield "rtt_ms", lambda: f"{statistics.median(each['rtt'] for each in rotations) * 1000:.1f}"
    yield "s3backer_rw_iops", lambda: f"{of.rate('s3backer', 'rw'):.0f}"
    yield "nbdkit_rw_iops", lambda: f"{of.rate('nbdkit', 'rw'):.0f}"
    yield "rw_s3backer", lambda: f"{of.ratio('rw', 's3backer'):.1f}"
    yield "rw_nbdkit", lambda: f"{of.ratio('rw', 'nbdkit'):.1f}"
    yield "flushw_s3backer", lambda: f"{of.ratio('flushw', 's3backer'):.2f}"
    # What nbdkit acknowledges is durable: its random writes are the flushed ones.
    yield "flush16_nbdkit", lambda: f"{of.ratio('flush16', 'nbdkit', 'rw'):.2f}"
    yield "sw_s3backer", lambda: f"{of.ratio('sw', 's3backer'):.2f}"
    yield "sw_nbdkit", lambda: f"{of.ratio('sw', 'nbdkit'):.2f}"
    yield "sr_s3backer", lambda: f"{of.ratio('sr', 's3backer'):.2f}"
    yield "sr_nbdkit", lambda: f"{of.ratio('sr', 'nbdkit'):.2f}"
    # 16 at a time are as fast as one at a time, each: 1.
    yield (
        "rr_eff",
        lambda: f"{of.rate('txtcmu', 'rr') * of.median('txtcmu', 'rr1', lambda each: each['latency']) / 16:.2f}",
    )
    yield "rr_nbdkit", lambda: f"{of.ratio('rr', 'nbdkit'):.2f}"
    yield "puts_s3backer", lambda: f"{of.requests('s3backer', 'rw') / of.requests('txtcmu', 'rw'):.0f}"
    yield "wa", lambda: f"{of.median('txtcmu', 'rw', lambda each: each['bytes'] / each['bytes_written']):.3f}"


def line(rotations: list[dict[str, Any]]) -> str:
    """Return the last line of the output; what was not measured is not in it.

    :param rotations: of each ``rtt`` in seconds, and ``engines``: by name, the figures of each row by name.
    """
    words = ["bench-s3:"]
    for name, value in _values(rotations):
        try:
            words.append(f"{name}={value()}")
        except KeyError:
            pass
    return " ".join(words)
