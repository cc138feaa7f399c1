"""Changing a volume that nobody serves: giving up the end of its log, and removing it altogether.

Both are takeovers that do not need the volume to be whole: its present writer, should it live after all, finds a seal
where its next object would go, and can acknowledge nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from txtcmu.errors import ConfigError
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.volume.errors import Damaged
from txtcmu.volume.head import Head, Writer
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.logobject import Kind, decode_header
from txtcmu.volume.names import Names, head_key, log_place
from txtcmu.volume.replay import Gone, Replay
from txtcmu.volume.slots import SLOT
from txtcmu.volume.surveys import Progress, in_order, listed
from txtcmu.volume.takeover import replace_head, seal_end
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

__all__ = ["Loss", "drop_from", "loss_from", "refuse_used", "remove_head", "remove_trees"]

#: Deletes that are under way at a time.
_DELETES = 16


@frozen
class Loss:
    """What is given up: so many objects of the log, and bytes in them."""

    objects: int
    bytes: int


async def drop_from(
    store: Any,
    prefix: str,
    seq: int,
    writer: Writer,
    random: Callable[[int], bytes],
    clock: Any,
    *,
    forced: bool,
    agree: Callable[[Loss], object],
) -> Loss:
    """Give up object ``seq`` of the log and all that were written after it; the volume is closed then.

    The checkpoint that is made lies behind all objects that there are, so that no opening looks at those given up.
    They remain in the store, where nothing refers to them, until the volume is swept.

    :param writer: whoever does this; with a nonce of its own.
    :param forced: even if the volume is in use.
    :param agree: called before anything is changed; raises if that shall not be.
    :raise txtcmu.errors.ConfigError: the checkpoint holds the object already, or there is no such object.
    :raise FencedError: somebody else has opened the volume meanwhile.
    """
    head, etag = await _head(store, prefix)
    _refuse_used(head, forced)
    if head.checkpoint is not None and seq <= head.checkpoint.seq:
        raise ConfigError(
            f"the checkpoint holds object {seq} already: only objects from {head.checkpoint.seq + 1} on can be given up"
        )
    names = Names(prefix, head.uuid)
    loss = await loss_from(store, names, head, seq)
    if not loss.objects and seq >= head.epoch.first:
        raise ConfigError(f"the log ends before object {seq}: there is nothing to give up")
    agree(loss)
    replay = await _replay_until(store, names, head, clock, seq)
    end = await _seal(store, names, head.epoch.number, writer.nonce, max(seq, head.epoch.first))
    keeper = await replace_head(store, prefix, head, etag, writer, end + 1, random)
    if keeper is None:
        raise ConfigError(f"the volume at {prefix or '/'} has changed meanwhile: stop whoever uses it, and try again")
    replay.next = end + 1
    replay.state.epochs.append(keeper.head.epoch)
    # What is given up is still looked at by openings, until the checkpoint at the seal, of the state before object seq.
    replay.replayed += end + 1 - seq
    await Volume(store, keeper, replay, clock, Tuning()).close()
    return loss


async def remove_head(store: Any, prefix: str, random: Callable[[int], bytes], *, forced: bool) -> None:
    """Remove the head of a volume, which ends its life; the rest is what :func:`remove_trees` is for.

    :param forced: even if it is in use, or damaged so that nobody can tell.
    :raise txtcmu.errors.ConfigError: it is in use, or there is none.
    :raise txtcmu.errors.PreconditionFailed: somebody has opened it meanwhile.
    """
    found = await refuse_used(store, prefix, forced=forced)
    if found is None:
        await store.delete(head_key(prefix))
        return
    head, etag = found
    if not head.writer.closed:
        # Dead objects up to the checkpoint may be missing.
        first = max(head.epoch.first, head.checkpoint.seq + 1 if head.checkpoint else 0)
        await _seal(store, Names(prefix, head.uuid), head.epoch.number, random(16), first)
    await store.delete(head_key(prefix), if_match=etag)


async def refuse_used(store: Any, prefix: str, *, forced: bool) -> tuple[Head, str] | None:
    """Return the head of the volume at ``prefix`` and its etag, ``None`` when it is damaged and that is ``forced``.

    :raise txtcmu.errors.ConfigError: there is no volume, or it is or may be in use and that is not ``forced``.
    """
    try:
        head, etag = await _head(store, prefix)
    except (ConfigError, ObjectDamaged) as error:
        if not isinstance(error, ObjectDamaged) and not isinstance(error.__cause__, Damaged):
            raise
        if not forced:
            raise ConfigError(f"{error}; --take-over goes on, if the volume is not in use") from None
        return None
    _refuse_used(head, forced)
    return head, etag


async def remove_trees(store: Any, prefix: str, trees: list[Names], progress: Progress) -> int:
    """Remove all objects of volumes that were removed; return how many there were.

    :param trees: as :func:`~txtcmu.volume.surveys.trees_at` has found them.  That of a volume with a head stays.
    """
    # Looked at after the trees were: a volume has a head before it has anything else.
    present = await read_head(store, prefix)
    done = 0
    for tree in trees:
        if present is not None and tree.uuid == present[0].uuid:
            continue
        after = ""
        while page := await store.list(tree.root, after):
            async for _ in in_order(store.delete, [each.key for each in page], _DELETES):
                done += 1
            after = page[-1].key
            progress("removing", done, 0)
    return done


async def _head(store: Any, prefix: str) -> tuple[Head, str]:
    found = await read_head(store, prefix)
    if found is None:
        raise ConfigError(f"there is no volume at {prefix or '/'}")
    return found


def _refuse_used(head: Head, forced: bool) -> None:
    if not (forced or head.writer.closed):
        raise ConfigError(
            f"the volume is in use by {head.writer}: stop it there, or give --take-over if it is dead already"
        )


async def _replay_until(store: Any, names: Names, head: Head, clock: Any, seq: int) -> Replay:
    """Return the state before object ``seq``."""
    replay = Replay(store, names, head, clock)
    try:
        await replay.load_checkpoint()
        for epoch, successor in zip(head.epochs, (*head.epochs[1:], None), strict=True):
            replay.next = max(replay.next, epoch.first)
            end = seq if successor is None else min(seq, successor.first - 1)
            if replay.next < end:
                await replay.replay(epoch.number, end)
                if replay.next < end:
                    raise Gone(names.log(epoch.number, replay.next))
    except Gone as gone:
        raise ConfigError(
            f"object {gone} is missing: only --drop-from {replay.next} makes a disk of the rest"
        ) from None
    return replay


async def loss_from(store: Any, names: Names, head: Head, seq: int) -> Loss:
    """Return what would be given up from object ``seq`` on."""
    loss = Loss(0, 0)
    for epoch, successor in zip(head.epochs, (*head.epochs[1:], None), strict=True):
        first = max(seq, epoch.first)
        end, _, sizes = await _end(store, names, epoch.number, first)
        if successor is not None:
            end = successor.first - 1
        lost = [size for number, size in sizes.items() if number < end]
        loss = Loss(loss.objects + len(lost), loss.bytes + sum(lost))
    return loss


async def _seal(store: Any, names: Names, epoch: int, nonce: bytes, first: int) -> int:
    """See that the epoch has an end, and return where: behind ``first`` and all objects that follow it."""

    async def walk(met: int | None) -> tuple[int, bool]:
        if met is not None and await _is_seal(store, names, epoch, met):
            return met, True
        end, sealed, _ = await _end(store, names, epoch, first if met is None else met + 1)
        return end, sealed

    return await seal_end(store, names, epoch, nonce, walk)


async def _end(store: Any, names: Names, epoch: int, first: int) -> tuple[int, bool, dict[int, int]]:
    """Return the first number from ``first`` on that no object has, whether a seal has it, and the sizes of all."""
    sizes: dict[int, int] = {}
    async for each in listed(store, names.epoch(epoch), names.log(epoch, first - 1)):
        place = log_place(each.key)
        if place is not None:
            sizes[place[1]] = each.size
    end = first
    while end in sizes:
        if sizes[end] == SLOT and await _is_seal(store, names, epoch, end):
            return end, True, sizes
        end += 1
    return end, False, sizes


async def _is_seal(store: Any, names: Names, epoch: int, seq: int) -> bool:
    try:
        found = await store.get(names.log(epoch, seq), 0, SLOT, checked=False)
        return found is not None and decode_header(found.data, names.uuid, epoch, seq, found.size).kind is Kind.SEAL
    except (Damaged, ObjectDamaged):
        return False  # if it was one, whoever wrote to this epoch will not take it for his own
