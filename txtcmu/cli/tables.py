"""Tables and sizes for people; what is in them is never taken for markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

__all__ = ["human", "print_table"]

_PIPE_WIDTH = 1000  # a table that nobody sees on a terminal is not cut


def human(size: int) -> str:
    """Return a size as ``--size`` takes it, rounded down to three digits or so."""
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >> shift:
            return f"{size / (1 << shift):.4g}{unit}"
    return str(size)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[str] = ()) -> None:
    """Print a table.

    :param numbers: the titles of the columns that hold numbers.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    right = frozenset(numbers)
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.encode(errors="surrogateescape").decode(errors="replace")) for cell in row))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)
