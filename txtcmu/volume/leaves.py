"""Where the leaves of the map are stored: the directory that a checkpoint's root is made from, and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from txtcmu.volume.errors import Damaged
from txtcmu.volume.root import LEAF, PART, Root
from txtcmu.volume.slots import TRAILER, Locations, SlotSeal

__all__ = ["Directory", "Part", "Place", "decode_leaf", "encode_leaf"]


@frozen
class Part:
    """A part of a checkpoint: the ``part``-th object that a writer of ``epoch`` wrote for its checkpoint at ``seq``."""

    epoch: int
    seq: int
    part: int
    size: int


@frozen
class Place:
    """Where a leaf is stored."""

    part: Part
    offset: int


class Directory:
    """The places of all leaves that are not empty."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}

    def __contains__(self, leaf: int) -> bool:
        return leaf in self._places

    def __getitem__(self, leaf: int) -> Place:
        return self._places[leaf]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def put(self, leaf: int, place: Place) -> None:
        """A leaf was stored."""
        self._places[leaf] = place

    def drop(self, leaf: int) -> None:
        """A leaf has become empty."""
        self._places.pop(leaf, None)

    def copy(self) -> Directory:
        """Return a directory that can be changed without changing this one."""
        copy = Directory()
        copy._places = dict(self._places)
        return copy

    def parts(self) -> Counter[Part]:
        """Return the parts that are referred to, and how many leaves each holds."""
        return Counter(place.part for place in self._places.values())

    def in_part(self, part: Part) -> list[int]:
        """Return the leaves that are stored in a part."""
        return [leaf for leaf, place in self._places.items() if place.part == part]

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what a root has of it: its leaves and its parts."""
        parts = {part: number for number, part in enumerate(self.parts())}
        leaves = [(leaf, parts[place.part], place.offset) for leaf, place in sorted(self._places.items())]
        return (
            np.array(leaves, LEAF),
            np.array([(part.seq, part.epoch, part.part, part.size) for part in parts], PART),
        )

    @classmethod
    def of(cls, root: Root) -> Directory:
        """Return the directory that a root holds."""
        directory = cls()
        parts = [Part(epoch, seq, part, size) for seq, epoch, part, size in root.parts.tolist()]
        for leaf, part, offset in root.leaves.tolist():
            directory._places[leaf] = Place(parts[part], offset)
        return directory


def encode_leaf(uuid: UUID, epoch: int, seq: int, part: int, leaf: int, where: Locations) -> bytes:
    """Return what is stored of a leaf: its locations, and a trailer as slots have."""
    data = where.astype("<u8", copy=False).tobytes()
    return data + SlotSeal(uuid, epoch, seq).trailer(part, leaf, data)


def decode_leaf(uuid: UUID, place: Place, leaf: int, leaf_blocks: int, data: bytes) -> Locations:
    """Return the leaf that is stored at ``place``.  :raise Damaged: this is not it."""
    part = place.part
    body = data[: leaf_blocks * 8]
    if data[len(body) :] != SlotSeal(uuid, part.epoch, part.seq).trailer(part.part, leaf, body):
        raise Damaged(f"leaf {leaf} of the map has a wrong checksum")
    return np.frombuffer(body, "<u8").astype(np.uint64)


def leaf_bytes(leaf_blocks: int) -> int:
    """Return how many bytes a leaf takes where it is stored."""
    return leaf_blocks * 8 + TRAILER
