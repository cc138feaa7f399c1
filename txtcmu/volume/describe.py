"""What a volume is, for people: its figures, and all that can be read of it, damaged or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

from attrs import frozen

from txtcmu.errors import ConfigError, MediumError
from txtcmu.objectstore.objects import ObjectDamaged, StoredObject
from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.fsck import load_map
from txtcmu.volume.head import MAX_BYTES, Head
from txtcmu.volume.headkeeper import read_head
from txtcmu.volume.logobject import Header, Kind
from txtcmu.volume.names import Names, head_key, log_place, part_place
from txtcmu.volume.persistent import read_again
from txtcmu.volume.replay import Gone, Replay, read_header
from txtcmu.volume.root import Root
from txtcmu.volume.surveys import Progress, in_order, listed, survey, trees_at

__all__ = ["Figures", "Found", "dump", "find_volumes", "measure"]

#: Objects that are read at a time.
_READS: Final = 16


@frozen
class Figures:
    """How much there is of a volume.

    :ivar objects: of the log, and :ivar bytes: of them.
    :ivar blocks: of the disk that have data.
    :ivar replayable: objects that an opening has to replay.
    """

    objects: int
    bytes: int
    blocks: int
    replayable: int


@frozen
class Found:
    """A volume that was found.

    :ivar prefix: where, below what was searched.
    :ivar head: its head, or :ivar problem: why that cannot be read.
    """

    prefix: str
    head: Head | None
    problem: str = ""


async def measure(store: Any, prefix: str, head: Head, clock: Any, progress: Progress) -> Figures:
    """Replay a volume, and count.

    :raise txtcmu.errors.ConfigError: it is damaged.
    """
    names = Names(prefix, head.uuid)
    stored: dict[str, int] = {}
    async for each in listed(store, names.logs):
        stored[each.key] = each.size
        if not len(stored) % 1000:
            progress("listing", len(stored), 0)
    replay = Replay(store, names, head, clock)
    try:
        await replay.load_checkpoint()
        await replay.replay_sealed()
        replay.next = max(replay.next, head.epoch.first)
        await replay.replay(head.epoch.number, 1 << 40)
    except Gone as gone:
        raise ConfigError(f"object {gone} is missing: see `txtcmu volume fsck`") from None
    state, reached = replay.state, head.checkpoint.seq if head.checkpoint else 0
    async for problem in load_map(store, clock, state, state.blocks.overlaid(), progress):
        raise MediumError(problem)
    seqs = [seq for seq, _ in state.inventory.objects()]
    sizes = [stored[key] for seq in seqs if (key := state.key_of(seq)) in stored]
    return Figures(len(sizes), sum(sizes), state.inventory.blocks, sum(seq > reached for seq in seqs))


async def find_volumes(store: Any, prefix: str, progress: Progress) -> list[Found]:
    """Return the volumes at ``prefix`` and everywhere below."""
    there = await survey(store, prefix, progress)
    with_trees = {tree.prefix for tree in there.trees}

    async def look(where: str) -> Found | None:
        try:
            found = await read_head(store, where)
        except (ConfigError, ObjectDamaged) as error:
            # Anything may be called head; it was one if there is the rest of a volume.
            return Found(where, None, str(error)) if where in with_trees or isinstance(error, FormatTooNew) else None
        return None if found is None else Found(where, found[0])

    return [found async for found in in_order(look, there.heads, _READS) if found is not None]


async def dump(store: Any, prefix: str, progress: Progress) -> AsyncIterator[str]:
    """Yield all that can be read of a volume, line by line: its head, the roots of checkpoints, each object of the log.

    What is damaged is said to be; without a head whatever there is of volumes at ``prefix`` is read.

    :raise txtcmu.errors.ConfigError: there is nothing of a volume.
    """
    head: Head | None = None
    key = head_key(prefix)
    trees = await trees_at(store, prefix, progress)
    if not trees and await store.head(key) is None:
        raise ConfigError(f"there is no volume at {prefix or '/'}")
    try:
        found = await store.get(key, 0, MAX_BYTES + 1, checked=False)
        if found is None:
            yield f"MISSING {key}"
        else:
            yield f"head    {key}: {found.size} bytes"
            for line in found.data.decode(errors="replace").splitlines():
                yield f"  {line}"
            head = Head.decode(found.data)
    except (Damaged, ConfigError, ObjectDamaged) as damaged:
        yield f"DAMAGED {key}: {damaged}"
    for tree in trees:
        if head is None or tree.uuid != head.uuid:
            yield f"volume {tree.uuid}, which the head does not name"
        async for line in _dump_tree(store, tree, head, progress):
            yield line


async def _dump_tree(store: Any, names: Names, head: Head | None, progress: Progress) -> AsyncIterator[str]:
    async def read(each: StoredObject) -> str:
        try:
            return await _line(store, names, head, each)
        except Gone:
            return f"gone    {each.key}: since it was listed"
        except (Damaged, ConfigError, ObjectDamaged) as damaged:
            return f"DAMAGED {each.key}: {damaged}"

    after, done = "", 0
    while page := await store.list(names.root, after):
        async for line in in_order(read, page, _READS):
            yield line
        after = page[-1].key
        done += len(page)
        progress("reading headers", done, 0)


async def _line(store: Any, names: Names, head: Head | None, each: StoredObject) -> str:
    place = log_place(each.key)
    if place is not None:
        epoch, seq = place
        get = partial(store.get, checked=False)
        header = await read_again(lambda: read_header(get, names, epoch, seq, each.size))
        return f"{header.kind.name.lower():7} {each.key}: {each.size} bytes, {_contents(header)}"
    part = part_place(each.key)
    if part is None:
        return f"other   {each.key}: {each.size} bytes"
    epoch, seq, number = part
    if number:
        return f"part    {each.key}: {each.size} bytes"

    async def read() -> Root:
        found = await store.get(each.key, 0, each.size, checked=False)
        if found is None:
            raise Gone(each.key)
        return Root.decode(found.data, names.uuid, epoch, seq)

    root = await read_again(read)
    named = (
        head is not None and head.checkpoint is not None and (head.checkpoint.epoch, head.checkpoint.seq) == part[:2]
    )
    epochs = ", ".join(f"{each.number} from {each.first}" for each in root.epochs)
    return (
        f"root    {each.key}: {each.size} bytes, {'in the head' if named else 'former'}; after object {root.seq}:"
        f" disk of {root.size} bytes, {len(root.leaves)} leaves in {len(root.parts)} parts, {len(root.objects)} objects"
        f" with {int(root.objects['live'].sum())} live blocks; epochs {epochs}"
    )


def _contents(header: Header) -> str:
    writer = f"writer {header.nonce.hex()}"
    if header.kind is Kind.SEAL:
        return writer
    runs = list(header.runs())
    stored = [run for run in runs if run.slot]
    holes = [run for run in runs if not run.slot]
    span = f" from {runs[0].block} to {runs[-1].block + runs[-1].count - 1}" if runs else ""
    return (
        f"{sum(run.count for run in stored)} blocks in {len(stored)} runs, {sum(run.count for run in holes)} holes in"
        f" {len(holes)} runs{span}, {writer}"
    )
