"""Checking a volume with nothing but its store: what is missing, what is damaged, what nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from txtcmu.errors import ConfigError, TCMUError
from txtcmu.volume.head import Head
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.loader import Loader
from txtcmu.volume.logobject import Kind
from txtcmu.volume.names import Names
from txtcmu.volume.persistent import PersistentStore
from txtcmu.volume.replay import Gone, Replay
from txtcmu.volume.slots import BLOCK, HOLE, SLOT, SlotSeal, seqs_of
from txtcmu.volume.state import State

__all__ = ["Report", "check_volume"]

#: Told how much is done of what, for people who wait.
Progress = Callable[[str, int, int], None]

_PIECE: Final = 1024  # slots that are read at a time


@define
class Report:
    """What a check has found.

    :ivar problems: one line for each thing that is wrong.
    :ivar objects: in the log, and :ivar bytes: of them; :ivar blocks: of the disk that have data.
    :ivar orphans: keys that cannot be reached: left behind by a writer that died, or that was too late.
    """

    head: Head
    problems: list[str] = field(factory=list)
    objects: int = 0
    bytes: int = 0
    blocks: int = 0
    orphans: list[str] = field(factory=list)


async def check_volume(store: Any, prefix: str, clock: Any, *, data: bool, progress: Progress) -> Report:
    """Check the volume at ``prefix``; nothing is changed.

    A volume that is being written changes meanwhile, and then what is found means nothing.

    :param data: read every block as well.
    :raise txtcmu.errors.ConfigError: there is no volume, or its head cannot be read.
    """
    found = await read_head(store, prefix)
    if found is None:
        raise ConfigError(f"there is no volume at {prefix or '/'}")
    head, _ = found
    names, report = Names(prefix, head.uuid), Report(head)
    sizes = await _list(store, names, progress)
    replay = Replay(store, names, head, clock)
    try:
        await replay.load_checkpoint()
        await replay.replay_sealed()
        replay.next = max(replay.next, head.epoch.first)
        await replay.replay(head.epoch.number, await replay.sizes(head.epoch.number), 1 << 40)
    except Gone as gone:
        report.problems.append(f"object {gone} is missing")
        return report
    except TCMUError as error:
        report.problems.append(str(error))
        return report
    await _check_map(store, clock, replay.state, sizes, report, progress)
    await _find_orphans(names, replay, sizes, report)
    if data:
        await _check_data(store, clock, replay.state, sizes, report, progress)
    return report


async def _list(store: Any, names: Names, progress: Progress) -> dict[str, int]:
    """Return the sizes of everything below the volume's UUID."""
    sizes: dict[str, int] = {}
    after = ""
    while page := await store.list(names.root, after):
        sizes.update((each.key, each.size) for each in page)
        after = page[-1].key
        progress("listing", len(sizes), 0)
    return sizes


async def _check_map(
    store: Any, clock: Any, state: State, sizes: dict[str, int], report: Report, progress: Progress
) -> None:
    """Load the whole map, and compare what it refers to with what is there."""
    loader = Loader(PersistentStore(store, clock), state)
    missing = sorted({*state.blocks.missing(0, state.blocks.blocks), *state.blocks.overlaid()})
    for number, leaf in enumerate(missing):
        progress("reading the map", number, len(missing))
        try:
            await loader.load(leaf)
        except TCMUError as error:
            report.problems.append(f"blocks from {leaf * state.blocks.leaf_blocks} on: {error}")
    live: dict[int, int] = {}
    for _, leaf_where in state.blocks.contents():
        seqs, counts = np.unique(seqs_of(leaf_where[leaf_where != HOLE]), return_counts=True)
        for seq, count in zip(seqs.tolist(), counts.tolist(), strict=True):
            live[seq] = live.get(seq, 0) + count
    report.blocks = sum(live.values())
    for seq, size in state.inventory.objects():
        counted = live.pop(seq, 0)
        there = sizes.get(state.key_of(seq))
        if there is None and counted:
            report.problems.append(f"object {state.key_of(seq)} is missing: {counted} blocks are lost")
        elif there is not None and there != size:
            report.problems.append(f"object {state.key_of(seq)} has {there} bytes instead of {size}")
        if state.inventory.live(seq) != counted:
            report.problems.append(
                f"{counted} blocks live in object {state.key_of(seq)}, not {state.inventory.live(seq)}"
            )
        if there is not None:
            report.objects += 1
            report.bytes += there
    report.problems += [f"the map refers to object {seq}, which there never was" for seq in sorted(live)]


async def _find_orphans(names: Names, replay: Replay, sizes: dict[str, int], report: Report) -> None:
    state, checkpoint = replay.state, report.head.checkpoint
    reached = {state.key_of(seq) for seq, _ in state.inventory.objects()}
    reached |= {names.part(part.epoch, part.seq, part.part) for part in state.directory.parts()}
    if checkpoint is not None:
        reached.add(names.part(checkpoint.epoch, checkpoint.seq, 0))
    for key in sorted(sizes.keys() - reached):
        if sizes[key] == SLOT and key.startswith(f"{names.root}d/"):
            epoch, seq = (int(part, 16) for part in key.split("/")[-2:])
            try:
                if (await replay.header(epoch, seq)).kind is Kind.SEAL:
                    continue  # kept for ever: a writer that was deposed may come back
            except (Gone, TCMUError):
                pass
        report.orphans.append(key)


async def _check_data(
    store: Any, clock: Any, state: State, sizes: dict[str, int], report: Report, progress: Progress
) -> None:
    """Read every block that has data."""
    persistent = PersistentStore(store, clock)
    blocks, where = _mapped(state)
    order = np.argsort(where)
    blocks, where = blocks[order], where[order]
    done = 0
    while done < len(where):
        progress("reading blocks", done, len(where))
        seq = int(where[done]) >> 16
        slot = int(where[done]) & 0xFFFF
        end = int(np.searchsorted(where, np.uint64(seq << 16 | min(0xFFFF, slot + _PIECE))))
        end = max(end, done + 1)
        last = int(where[end - 1]) & 0xFFFF
        key = state.key_of(seq)
        seal = SlotSeal(state.names.uuid, state.epoch_of(seq), seq)
        found = await persistent.get(key, slot * SLOT, (last + 1 - slot) * SLOT) if key in sizes else None
        view = memoryview(found.data if found is not None else b"")
        for block, place in zip(blocks[done:end].tolist(), where[done:end].tolist(), strict=True):
            at = ((place & 0xFFFF) - slot) * SLOT
            if found is not None and not seal.intact(place & 0xFFFF, block, view[at : at + SLOT]):
                report.problems.append(f"block {block} (byte {block * BLOCK}) is damaged in object {key}")
        done = end


def _mapped(state: State) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the addresses and the locations of all blocks that have data."""
    blocks, where = [], []
    for first, leaf in state.blocks.contents():
        at = np.flatnonzero(leaf != HOLE)
        blocks.append(at.astype(np.uint64) + np.uint64(first))
        where.append(leaf[at])
    if not blocks:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    return np.concatenate(blocks), np.concatenate(where)
