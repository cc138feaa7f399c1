"""Volumes for handlers: made, found and opened, on whatever store the handler brings."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from mmap import mmap
from pathlib import Path
from typing import Any
from uuid import UUID

from attrs import frozen

from txtcmu.backstores.volumedisk import VolumeDisk
from txtcmu.backstores.volumeoptions import VolumeOptions
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, FencedError
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Head, Writer
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.slots import BLOCK
from txtcmu.volume.surveys import trees_at
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.unstored import Left, Mark
from txtcmu.volume.volume import Volume

__all__ = ["Size", "create_disk", "new_writer", "open_disk", "refuse_volume"]

#: Where each open volume has its mark; in memory, so that it ends with the host and not with the daemon.
MARKS = Path("/run/txtcmu")
#: What this process has open: a volume can be one LUN only.
_open: set[UUID] = set()


@frozen
class Size:
    """The answer to somebody who only asks for the size: a backstore that nobody reads.

    :ivar closed: called when it is closed.
    """

    size: int
    closed: Callable[[], Any]
    read_only = True
    physical_block_size = BLOCK

    def close(self) -> Any:
        """Let go of the store."""
        return self.closed()


async def create_disk(store: Any, prefix: str, parameters: DeviceParameters, prove: Callable[[], Any]) -> Head:
    """Make a new, empty volume.

    :param prove: called before anything is written: fails unless the store honours conditions.
    :raise txtcmu.errors.ConfigError: something is there, or the size is impossible.
    """
    if parameters.size is None:
        raise ConfigError("a new volume needs a size; give --size")
    await refuse_volume(store, prefix, parameters.config)
    await prove()
    geometry = Geometry(batch_blocks=VolumeOptions.of(parameters.config).batch_blocks)
    return await create_volume(store, prefix, parameters.size, new_writer(), os.urandom, geometry)


async def refuse_volume(store: Any, prefix: str, config: DeviceConfig) -> None:
    """Raise :class:`~txtcmu.errors.ConfigError` if there is a volume, or what is left of one."""
    if await read_head(store, prefix) is not None:
        raise ConfigError(f"there is a volume at {config} already: choose another path")
    for tree in await trees_at(store, prefix, lambda *_: None):
        # A head that was lost by mistake must not be followed by an empty disk.
        raise ConfigError(
            f"there are objects of a volume without a head at {config}, {tree.uuid}: see `txtcmu volume dump`;"
            " `txtcmu volume rm` removes them"
        )


async def open_disk(
    store: Any,
    prefix: str,
    parameters: DeviceParameters,
    prove: Callable[[], Any],
    closed: Callable[[], Any],
) -> VolumeDisk | Size:
    """Open the volume at ``prefix``; make it first, at the size of the device, when there is none.

    :param prove: as for :func:`create_disk`.
    :param closed: called when the disk is closed.
    :raise FencedError: initiators go on, and what was acknowledged to them is lost, or nobody knows that it is not.
    """
    options = VolumeOptions.of(parameters.config)
    found = await read_head(store, prefix)
    if parameters.size is None:
        if found is None:
            raise ConfigError(f"there is no volume at {parameters.config}: make it with --new --size SIZE")
        return Size(found[0].size, closed)
    if found is None:
        if not options.create:
            raise ConfigError(f"there is no volume at {parameters.config}: make it with `txtcmu volume create`")
        head = await create_disk(store, prefix, parameters, prove)
    else:
        head = found[0]
        await prove()
    if head.size != parameters.size:
        raise ConfigError(
            f"the volume at {parameters.config} has {head.size} bytes but the LUN has {parameters.size}: make the LUN"
            f" again with --size {head.size}"
        )
    if head.uuid in _open:
        raise ConfigError(f"{parameters.config} is open already in this daemon: a volume can be one LUN only")
    writer = new_writer()
    mark = Mark(MARKS, head.uuid, parameters.name)
    nonces = _unharmed(parameters, options, head, mark.read(), writer.machine)
    _open.add(head.uuid)
    try:
        # Before the head names this opening: it may do so although nobody is told, and the next one must not wonder.
        memory = _begin(mark, (*nonces, writer.nonce), parameters)
        keeper, replay = await take_over(store, prefix, writer, os.urandom, parameters.reactor, forced=options.takeover)
        tuning = Tuning(cache_blocks=options.cache_blocks, pending=options.pending)
        volume = Volume(store, keeper, replay, parameters.reactor, tuning, memory)
    except BaseException:
        _open.discard(head.uuid)
        raise

    def let_go() -> Any:
        _open.discard(head.uuid)
        if keeper.head.writer.closed:
            mark.remove()
        return closed()

    return VolumeDisk(volume, let_go, write_cache=options.write_cache)


def _unharmed(
    parameters: DeviceParameters, options: VolumeOptions, head: Head, left: Left | None, machine: str
) -> tuple[bytes, ...]:
    """Return the nonces of the openings that have lost nothing which this device's initiators count on.

    :param left: what the device's last daemon has left, and ``machine``: where this one runs.
    :raise FencedError: something is lost, or may be.
    """
    last = head.writer
    if not parameters.served_before:
        return (last.nonce,)
    if left is not None and left.dirty:
        raise _lost(f"the daemon before ({last}) died with writes that it had acknowledged and not yet stored")
    nonces = () if left is None else left.nonces
    cached = parameters.write_cache and options.write_cache
    if last.closed or last.nonce in nonces or not cached:
        return (*nonces, last.nonce)
    if last.machine != machine and not options.takeover:
        return nonces  # another host has it, and keeps it unless it has closed it by now
    raise _lost(f"the daemon before ({last}) did not close it, and may have died with writes that it had acknowledged")


def _lost(what: str) -> FencedError:
    return FencedError(
        f"{what}: who uses the disk must not go on as if they were there; unmount it, or stop its initiators, and make"
        " the LUN again (`txtcmu rm`, `txtcmu create`): every write that was flushed is there; with wce=off none is"
        " acknowledged before it is stored"
    )


def _begin(mark: Mark, nonces: tuple[bytes, ...], parameters: DeviceParameters) -> mmap | None:
    """Return the memory of a new mark, or ``None`` when there can be none."""
    try:
        return mark.begin(nonces)
    except OSError as error:
        parameters.log.warn(
            "{config}: cannot make a file in {folder}: {error}; if this daemon is killed, the next one cannot know"
            " whether writes are lost, and will not serve the disk",
            config=parameters.config,
            folder=MARKS,
            error=error,
        )
        return None


def new_writer() -> Writer:
    """Return this process as the writer of a volume, with a nonce for one opening."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Writer(os.urandom(16), machine or f"host {socket.gethostname()}", socket.gethostname(), os.getpid(), now)
