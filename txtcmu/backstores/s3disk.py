"""Making and opening disks of the layout ``blocks``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any

from twisted.logger import Logger

from txtcmu.backstores.blockformat import ABSENT, BlockFormat, block_size_of
from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.blocksession import Session
from txtcmu.backstores.blockstates import BlockStates
from txtcmu.backstores.blockwriter import BlockWriter
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.errors import ConfigError, PreconditionFailed

__all__ = ["block_zero", "create_disk", "find_block", "open_disk"]

_MAX_BLOCKS = 1 << 32


def block_zero(prefix: str) -> str:
    """Return the key of the object that each disk of this layout has, and no other."""
    return f"{prefix}{0:08x}"


async def create_disk(store: Any, prefix: str, size: int | None, block_size: int) -> None:
    """Make a disk of zeroes: its block 0.

    :raise ConfigError: there is something already, or the size will not do.
    """
    if not size:
        raise ConfigError("s3: a new disk needs a size; give --size")
    if size % block_size or size // block_size > _MAX_BLOCKS:
        raise ConfigError(
            f"s3: size {size} must be a multiple of object_size {block_size}, and at most {_MAX_BLOCKS} times that"
        )
    layout = BlockFormat(prefix, size, block_size)
    key = await find_block(store, prefix)
    if key is not None:
        raise ConfigError(f"s3: object {key} exists, so there is a disk already; choose another prefix")
    metadata = layout.metadata(0, ABSENT, (), token_hex(8))
    try:
        await store.put(layout.key(0), bytes(block_size), metadata=metadata, absent=True)
    except PreconditionFailed:
        # Nobody else has such metadata: an earlier attempt landed, or a proxy sent the request twice.
        found = await store.head(layout.key(0))
        if found is None or found.metadata != metadata:
            raise ConfigError(f"s3: object {layout.key(0)} exists already; choose another prefix") from None


async def find_block(store: Any, prefix: str) -> str | None:
    """Return the key of a block of a disk, if there is one."""
    layout = BlockFormat(prefix, 0, 0)
    # A page is enough: below a prefix of its own, names other than blocks are few.
    for found in await store.list(prefix):
        if layout.block(found.key) is not None or layout.is_hashed(found.key):
            return str(found.key)
    return None


async def open_disk(
    store: Any,
    prefix: str,
    *,
    owner: Owner,
    takeover: bool,
    now: Callable[[], float],
    log: Logger,
    make: str,
    honours_delete: Callable[[], Awaitable[bool]],
    closed: Callable[[], None],
    read_only: bool = False,
) -> S3Blocks:
    """Open a disk that exists.

    :param owner: this process.
    :param takeover: whether to open it though it may be open elsewhere.
    :param make: the command that makes it, for whoever forgot.
    :param honours_delete: tells whether the store honours conditions on DELETE; fails when not even on PUT.
    :param read_only: leave no trace in the bucket, and look for none: it may be open elsewhere.
    """
    key = block_zero(prefix)
    found = await store.head(key)
    if found is None:
        raise ConfigError(f"s3: there is no object {key}, {await _why_missing(store, prefix, make)}")
    size, block_size = block_size_of(found)
    layout = BlockFormat(prefix, size, block_size)
    session = Session(store, prefix, owner, now)
    deletes = False
    if not read_only:
        deletes = await honours_delete()
        await session.begin(takeover)
    if session.unclean:
        log.info("the disk was not closed properly; late requests of that time are kept out")
    states = BlockStates(session.name, session.unclean)
    writer = BlockWriter(store, layout, states, deletes, log)
    return S3Blocks(store, layout, states, writer, session, log, closed, read_only)


async def _why_missing(store: Any, prefix: str, make: str) -> str:
    """Return what it means that there is no block 0."""
    layout = BlockFormat(prefix, 0, 0)
    for found in await store.list(prefix):
        if layout.is_hashed(found.key):
            return f"but {found.key}: a disk of s3backer with --blockHashPrefix, which txtcmu does not read; copy it"
        if layout.block(found.key) is not None:
            return (
                f"which tells a disk's size, but {found.key}; mount the disk with s3backer and write to its first block"
            )
    return f"so there is no disk; make it: {make}"
