"""Which unit of the disk each operation of a load is for: the same for every engine, whatever it is told of.

A sequence is a function of the number of the operation, so that who verifies can make it once more.
"""

from __future__ import annotations

from array import array
from random import Random
from typing import Protocol

__all__ = ["AtRandom", "Chosen", "InOrder", "Sequence"]


class Sequence(Protocol):
    """The units that operations 0, 1, 2 ... are for."""

    def __getitem__(self, operation: int, /) -> int:
        """Return the unit."""


class InOrder:
    """Every unit of an area, and from its start again.

    :param units: of the area.
    """

    def __init__(self, units: int) -> None:
        self._units = units

    def __getitem__(self, operation: int) -> int:
        return operation % self._units


class AtRandom:
    """Passes over an area: in each of them every unit once, in an order of its own.

    :param passes: that are made beforehand; making one takes a tenth of a second for 100,000 units.
    """

    def __init__(self, units: int, seed: int, passes: int = 1) -> None:
        self._units = units
        self._seed = seed
        self._passes = [self._pass(number) for number in range(passes)]

    def _pass(self, number: int) -> array[int]:
        order = list(range(self._units))
        Random(f"{self._seed}/{number}").shuffle(order)
        return array("L", order)

    def __getitem__(self, operation: int) -> int:
        number, place = divmod(operation, self._units)
        while len(self._passes) <= number:
            self._passes.append(self._pass(len(self._passes)))
        return self._passes[number][place]


class Chosen:
    """Some units of another sequence, those of the operations that ``which`` names.

    For reading: what was written is the units of the first operations, and is read in another order.
    """

    def __init__(self, units: Sequence, which: Sequence) -> None:
        self._units = units
        self._which = which

    def __getitem__(self, operation: int) -> int:
        return self._units[self._which[operation]]
