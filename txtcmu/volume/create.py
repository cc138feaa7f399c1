"""Making a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from attrs import evolve

from txtcmu.errors import ConfigError, PreconditionFailed
from txtcmu.volume.head import Epoch, Geometry, Head, Writer
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.names import head_key
from txtcmu.volume.slots import BLOCK

__all__ = ["create_volume"]


async def create_volume(
    store: Any, prefix: str, size: int, writer: Writer, random: Callable[[int], bytes], geometry: Geometry
) -> Head:
    """Make an empty volume at ``prefix``.

    :param size: bytes of the disk.
    :param writer: who makes it.
    :return: its head.
    :raise txtcmu.errors.ConfigError: there is something already, or ``size`` is no whole number of blocks.
    """
    if size < BLOCK or size % BLOCK:
        raise ConfigError(
            f"a volume is a multiple of {BLOCK} bytes long, not {size}: give {max(1, size // BLOCK) * BLOCK}"
        )
    uuid = UUID(bytes=random(16), version=4)
    # An epoch that nobody ever wrote in: whoever opens the volume seals it like any other.
    head = Head(uuid, size, geometry, 1, random(8).hex(), (Epoch(1, 1),), evolve(writer, closed=True))
    try:
        await store.put(head_key(prefix), head.encode(), absent=True, checked=False)
    except PreconditionFailed:
        found = await read_head(store, prefix)
        if found is None or found[0].operation != head.operation:
            raise ConfigError(f"there is something at {prefix or '/'} already: give another prefix") from None
    return head
