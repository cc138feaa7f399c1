"""What writers leave behind that died or were too late: objects that can never be reached are found and deleted.

The authority is that of every delete (docs/volume-format.md, "Deleting"): what cannot be reached from the head that
this writer was the last to replace.  That is an object which the head's checkpoint does not know

- in an epoch before this writer's: its log has ended, and its writer can replace no head any more; or
- in this writer's own, below the checkpoint; or the object of the log at it, which a late repetition has brought back.

Seals are kept: they are what a writer that was deposed runs into, however late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from txtcmu.objectstore.objects import StoredObject
from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.head import Head
from txtcmu.volume.headkeeper import HeadKeeper
from txtcmu.volume.logobject import Kind, decode_header
from txtcmu.volume.names import Names
from txtcmu.volume.slots import SLOT
from txtcmu.volume.state import State

__all__ = ["sweep"]


async def sweep(store: Any, state: State, keeper: HeadKeeper) -> int:
    """Delete what cannot be reached.

    :return: how many objects that was.
    :raise txtcmu.errors.ObjectStoreError: the store fails; what is left will be found the next time.
    """
    after, deleted = "", 0
    while page := await store.list(state.names.root, after):
        after = page[-1].key
        # What is needless now is so for ever, whatever happens while the rest is looked at.
        for each in _needless(page, state, keeper.head):
            if not await _may_be_seal(store, state, each):
                await store.delete(each.key)
                deleted += 1
    return deleted


def _needless(page: Iterable[StoredObject], state: State, head: Head) -> list[StoredObject]:
    names, checkpoint = state.names, head.checkpoint
    needed = {names.part(part.epoch, part.seq, part.part) for part in state.directory.parts()}
    end = (head.epoch.number, 0)
    if checkpoint is not None:
        needed.add(names.part(checkpoint.epoch, checkpoint.seq, 0))
        end = max(end, (checkpoint.epoch, checkpoint.seq))
    return [
        each
        for each in page
        if (_place(each.key, names) < end or each.key == names.log(*end))
        and each.key not in needed
        and not _is_listed(each.key, state)
    ]


def _is_listed(key: str, state: State) -> bool:
    """Tell whether an object of the log is one that the inventory knows."""
    epoch, seq = _place(key, state.names)
    return key == state.names.log(epoch, seq) and bool(state.inventory.size(seq)) and state.epoch_of(seq) == epoch


def _place(key: str, names: Names) -> tuple[int, int]:
    """Return epoch and sequence number of an object."""
    _, epoch, seq, *_ = key.removeprefix(names.root).split("/")
    return int(epoch, 16), int(seq, 16)


async def _may_be_seal(store: Any, state: State, listed: StoredObject) -> bool:
    """Tell whether an object is a seal, or might be one that is damaged."""
    epoch, seq = _place(listed.key, state.names)
    if listed.size != SLOT or listed.key != state.names.log(epoch, seq):
        return False
    found = await store.get(listed.key, checked=False)
    if found is None:
        return False
    try:
        return decode_header(found.data, state.names.uuid, epoch, seq, found.size).kind is Kind.SEAL
    except (Damaged, FormatTooNew):
        return True
