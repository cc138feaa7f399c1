"""Checking a volume with nothing but its store: what is missing, what is damaged, what nobody needs any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from txtcmu.errors import ConfigError, MediumError
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.volume.errors import FormatTooNew
from txtcmu.volume.head import Head
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.loader import Loader
from txtcmu.volume.log import WINDOW
from txtcmu.volume.logobject import Kind
from txtcmu.volume.names import Names, log_place
from txtcmu.volume.persistent import ATTEMPTS, PersistentStore
from txtcmu.volume.replay import Gone, Replay
from txtcmu.volume.salvage import loss_from
from txtcmu.volume.slots import BLOCK, HOLE, SLOT, SlotSeal, seqs_of
from txtcmu.volume.state import State
from txtcmu.volume.surveys import Progress, in_order, listed

__all__ = ["Report", "check_volume", "load_map"]

#: Slots that are read at a time, and how many such reads, leaves of the map, or headers are under way.
_PIECE: Final = 1024
_READS: Final = 4
_LEAVES: Final = 16
_HEADERS: Final = 16


@define
class Report:
    """What a check has found.

    :ivar problems: one line for each thing that is wrong.
    :ivar objects: in the log, and :ivar bytes: of them; :ivar blocks: of the disk that have data.
    :ivar orphans: keys that cannot be reached: left behind by a writer that died, or that was too late.
    :ivar lost: the first object of the log that cannot be replayed, or ``None``; what is said of the rest is what the
        volume would be if that one and all behind it were given up.
    """

    head: Head
    problems: list[str] = field(factory=list)
    objects: int = 0
    bytes: int = 0
    blocks: int = 0
    orphans: list[str] = field(factory=list)
    lost: int | None = None


async def check_volume(store: Any, prefix: str, clock: Any, *, data: bool, progress: Progress) -> Report:
    """Check the volume at ``prefix``; nothing is changed.

    :param data: read every block as well.
    :raise txtcmu.errors.ConfigError: there is no volume, its head cannot be read, or it has changed meanwhile.
    """
    found = await read_head(store, prefix)
    if found is None:
        raise ConfigError(f"there is no volume at {prefix or '/'}")
    head, _ = found
    names, report = Names(prefix, head.uuid), Report(head)
    sizes: dict[str, int] = {}
    async for each in listed(store, names.root):
        sizes[each.key] = each.size
        if not len(sizes) % 1000:
            progress("listing", len(sizes), 0)
    replay = Replay(store, names, head, clock)
    if await _replay(store, replay, head, names, sizes, report):
        await _check_map(store, clock, replay.state, sizes, report, progress)
        if report.lost is None:
            await _find_orphans(names, replay, sizes, report)
        if data:
            await _check_data(store, clock, replay.state, sizes, report, progress)
    if report.problems:
        again = await read_head(store, prefix)
        if again is None or again[0].operation != head.operation:
            raise ConfigError("the volume has changed while it was checked: stop whoever uses it, and check again")
    return report


async def _replay(store: Any, replay: Replay, head: Head, names: Names, sizes: dict[str, int], report: Report) -> bool:
    """Replay the log as far as it goes.  :return: whether there is a state to be looked at."""
    try:
        await replay.load_checkpoint()
    except FormatTooNew:
        raise
    except (Gone, ConfigError) as error:
        report.problems.append(f"{_what(error)}: the disk is lost, unless its prefix can be restored from a backup")
        return False
    epoch = head.epoch.number
    try:
        await replay.replay_sealed()
        replay.next = max(replay.next, head.epoch.first)
        ended = await replay.replay(epoch, 1 << 40)
    except FormatTooNew:
        raise
    except (Gone, ConfigError) as error:
        loss = await loss_from(store, names, head, replay.next)
        report.lost = replay.next
        report.problems.append(
            f"{_what(error)}: `txtcmu volume fsck --drop-from {replay.next}` gives up"
            f" {loss.objects} objects of the log with {loss.bytes} bytes, and makes a disk of the rest"
        )
        return True
    behind = [] if ended else [key for key in sizes if _is_behind(key, epoch, replay.next)]
    stray = [sealed async for sealed in in_order(partial(_is_seal, replay, sizes), behind, _HEADERS)].count(False)
    if stray >= WINDOW:  # which is more than a writer that died can have had under way
        report.problems.append(
            f"object {names.log(epoch, replay.next)} is missing, and {stray} objects that were written after it count"
            " no more: what was flushed last is lost"
        )
    return True


def _what(error: Exception) -> str:
    return f"object {error} is missing" if isinstance(error, Gone) else str(error).partition("; ")[0]


def _is_behind(key: str, epoch: int, seq: int) -> bool:
    """Tell whether this is the key of an object of the log of an epoch, behind another."""
    place = log_place(key)
    return place is not None and place[0] == epoch and place[1] > seq


async def _is_seal(replay: Replay, sizes: dict[str, int], key: str) -> bool:
    place = log_place(key)
    if place is None or sizes[key] != SLOT:
        return False
    try:
        return (await replay.header(*place)).kind is Kind.SEAL
    except (Gone, ConfigError):
        return False


async def _check_map(
    store: Any, clock: Any, state: State, sizes: dict[str, int], report: Report, progress: Progress
) -> None:
    """Load the whole map, and compare what it refers to with what is there."""
    missing = {*state.blocks.missing(0, state.blocks.blocks), *state.blocks.overlaid()}
    async for problem in load_map(store, clock, state, sorted(missing), progress):
        report.problems.append(problem)
    live: dict[int, int] = {}
    for _, leaf_where in state.blocks.contents():
        seqs, counts = np.unique(seqs_of(leaf_where[leaf_where != HOLE]), return_counts=True)
        for seq, count in zip(seqs.tolist(), counts.tolist(), strict=True):
            live[seq] = live.get(seq, 0) + count
    report.blocks = sum(live.values())
    whole = not report.problems
    for seq, size in state.inventory.objects():
        counted = live.pop(seq, 0)
        there = sizes.get(state.key_of(seq))
        if there is None and counted:
            report.problems.append(f"object {state.key_of(seq)} is missing: {counted} blocks are lost")
        elif counted and there != size:  # an object without a live block may be gone, and an idle seal in its place
            report.problems.append(f"object {state.key_of(seq)} has {there} bytes instead of {size}")
        if whole and state.inventory.live(seq) != counted:
            report.problems.append(
                f"{counted} blocks live in object {state.key_of(seq)}, not {state.inventory.live(seq)}"
            )
        if there is not None:
            report.objects += 1
            report.bytes += there
    report.problems += [f"the map refers to object {seq}, which there never was" for seq in sorted(live)]


async def load_map(store: Any, clock: Any, state: State, leaves: list[int], progress: Progress) -> AsyncIterator[str]:
    """Load leaves of the map; yield a line for each that cannot be."""
    loader = Loader(PersistentStore(store, clock), state)

    async def load(leaf: int) -> str | None:
        try:
            await loader.load(leaf)
        except MediumError as error:
            return f"blocks from {leaf * state.blocks.leaf_blocks} on are lost: {error}"
        return None

    done = 0
    async for problem in in_order(load, leaves, _LEAVES):
        done += 1
        progress("reading the map", done, len(leaves))
        if problem is not None:
            yield problem


async def _find_orphans(names: Names, replay: Replay, sizes: dict[str, int], report: Report) -> None:
    state, checkpoint = replay.state, report.head.checkpoint
    reached = {state.key_of(seq) for seq, _ in state.inventory.objects()}
    reached |= {names.part(part.epoch, part.seq, part.part) for part in state.directory.parts()}
    if checkpoint is not None:
        reached.add(names.part(checkpoint.epoch, checkpoint.seq, 0))
    unreached = sorted(sizes.keys() - reached)
    seals = in_order(partial(_is_seal, replay, sizes), unreached, _HEADERS)
    # Seals are kept for ever: a writer that was deposed may come back.
    report.orphans = [key for key in unreached if not await anext(seals)]


@frozen
class _Piece:
    """Adjacent slots of one object that hold blocks of the disk.

    :ivar blocks: their addresses, and :ivar slots: where they are.
    """

    seq: int
    blocks: list[int]
    slots: list[int]


async def _check_data(
    store: Any, clock: Any, state: State, sizes: dict[str, int], report: Report, progress: Progress
) -> None:
    """Read every block that has data."""
    persistent = PersistentStore(store, clock)

    async def check(piece: _Piece) -> tuple[int, list[str]]:
        key = state.key_of(piece.seq)
        if key not in sizes:
            return len(piece.blocks), []  # which was said already
        first, last = piece.slots[0], piece.slots[-1]
        seal = SlotSeal(state.names.uuid, state.epoch_of(piece.seq), piece.seq)
        damaged = list(zip(piece.blocks, piece.slots, strict=True))
        for _ in range(ATTEMPTS):
            try:
                found = await persistent.get(key, first * SLOT, (last + 1 - first) * SLOT)
            except ObjectDamaged as error:
                return len(piece.blocks), [str(error)]
            view = memoryview(found.data if found is not None else b"")
            damaged = [
                (block, slot)
                for block, slot in damaged
                if not seal.intact(slot, block, view[(slot - first) * SLOT :][:SLOT])
            ]
            if not damaged:
                break
        return len(piece.blocks), [
            f"block {block} (byte {block * BLOCK}) is damaged in object {key}" for block, _ in damaged
        ]

    blocks, where = _mapped(state)
    done = 0
    async for count, problems in in_order(check, _pieces(blocks, where), _READS):
        done += count
        progress("reading blocks", done, len(where))
        report.problems += problems


def _pieces(blocks: NDArray[Any], where: NDArray[Any]) -> Iterator[_Piece]:
    """Return what is read by one request each."""
    order = np.argsort(where)
    blocks, where = blocks[order], where[order]
    done = 0
    while done < len(where):
        seq, slot = divmod(int(where[done]), 1 << 16)
        end = int(np.searchsorted(where, np.uint64(seq << 16 | min(0xFFFF, slot + _PIECE))))
        end = max(end, done + 1)
        yield _Piece(seq, blocks[done:end].tolist(), (where[done:end] & np.uint64(0xFFFF)).tolist())
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
