"""Opening a volume for writing: the present writer, dead or alive, can acknowledge nothing more when this is over.

The order is what makes it safe (rules 1 to 5 of docs/volume-format.md): everything that is there is read; a seal is
created where the next object of the epoch would go; and only then does the head say that there is a new epoch.
Nothing is written to the new epoch before.

A writer that goes on meanwhile may be quicker than an opener, who needs several requests for each number.  So an opener
that has lost a number puts a seal further ahead, twice as far each time until there is nothing yet, and the writer
cannot pass it.  It ends nothing by being there: the epoch ends at the first seal without a gap before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import evolve

from txtcmu.errors import ConfigError, FencedError, PreconditionFailed, StoreUnavailable
from txtcmu.volume.head import Epoch, Head, Writer
from txtcmu.volume.headkeeper import HeadKeeper, read_head
from txtcmu.volume.logobject import Kind, encode_header, seal
from txtcmu.volume.names import Names, head_key
from txtcmu.volume.replay import Gone, Outgrown, Replay

__all__ = ["replace_head", "seal_end", "take_over"]

#: Keys in a full page of most stores' lists.  Behind one with fewer there is what a writer has added since, for ever.
_PAGE: Final = 1000


async def take_over(
    store: Any, prefix: str, writer: Writer, random: Callable[[int], bytes], clock: Any, *, forced: bool
) -> tuple[HeadKeeper, Replay]:
    """Become the writer of the volume at ``prefix``.

    :param writer: whose nonce no other opening has.
    :param random: returns so many random bytes.
    :param clock: the reactor.
    :param forced: even if the last writer was on another host and has not closed it.
    :return: the keeper of the head, which names the new epoch; and the state of the disk.
    :raise txtcmu.errors.ConfigError: there is no volume, it is damaged, or another host's.
    :raise FencedError: somebody else was quicker.
    """
    wrong: tuple[str, ConfigError] | None = None
    while True:
        found = await read_head(store, prefix)
        if found is None:
            raise ConfigError(f"there is no volume at {prefix or '/'}: make it with `txtcmu volume create`")
        head, etag = found
        _refuse_foreign(head, writer, forced)
        names = Names(prefix, head.uuid)
        if wrong is not None and head.operation == wrong[0]:
            raise wrong[1]
        replay = Replay(store, names, head, clock)
        try:
            await replay.load_checkpoint()
            await replay.replay_sealed()
            await _replay_and_seal(store, names, head, replay, writer.nonce)
        except Gone:
            # The writer has made a checkpoint and deleted what that makes needless; or something is lost.
            wrong = head.operation, ConfigError(f"the volume at {prefix} lacks an object; run `txtcmu volume fsck`")
            continue
        except Outgrown as outgrown:
            # The writer has made the disk larger since the head was read; or something is wrong with the log.
            wrong = head.operation, outgrown
            continue
        keeper = await replace_head(store, prefix, head, etag, writer, replay.next + 1, random)
        if keeper is not None:
            replay.next += 1
            replay.state.epochs.append(keeper.head.epoch)
            return keeper, replay


def _refuse_foreign(head: Head, writer: Writer, forced: bool) -> None:
    last = head.writer
    if not (forced or last.closed or last.machine == writer.machine):
        raise ConfigError(f"the volume is in use by {last}: stop it there, or give takeover=yes if that host is dead")


async def _replay_and_seal(store: Any, names: Names, head: Head, replay: Replay, nonce: bytes) -> None:
    """Replay the present epoch to its end, and see that there is an end: ``replay.next`` is where the seal is."""
    epoch = head.epoch.number
    replay.next = max(replay.next, head.epoch.first)

    async def walk(met: int | None) -> tuple[int, bool]:
        if met is not None:
            header = await replay.header(epoch, met)
            if header.kind is Kind.SEAL:
                return met, True
            replay.apply(header)
        sealed = await replay.replay(epoch, 1 << 40, full=_PAGE)
        return replay.next, sealed

    await seal_end(store, names, epoch, nonce, walk)


async def seal_end(
    store: Any, names: Names, epoch: int, nonce: bytes, walk: Callable[[int | None], Awaitable[tuple[int, bool]]]
) -> int:
    """See that an epoch has an end, and return where.

    :param walk: goes over what is there, in order, and returns the number of a seal and ``True``, or the first
        where nothing is and ``False``.  It is called with ``None``; then with that number if there is something after
        all, which may still be missing in the store's list: an object that landed just now, our own seal, or another's.
    """

    async def put(seq: int) -> bool:
        try:
            await store.put(
                names.log(epoch, seq), encode_header(seal(names.uuid, epoch, seq, nonce)), absent=True, checked=False
            )
        except PreconditionFailed:
            return False
        return True

    ahead, stopped = 1, False
    end, sealed = await walk(None)
    while not sealed and not await put(end):
        while not stopped:
            stopped = await put(end + ahead)
            ahead *= 2
        end, sealed = await walk(end)
    return end


async def replace_head(
    store: Any, prefix: str, head: Head, etag: str, writer: Writer, first: int, random: Callable[[int], bytes]
) -> HeadKeeper | None:
    """Begin a new epoch, whose first sequence number is ``first``; the present one is sealed.

    :return: ``None`` when the head has changed without a new epoch, and all has to be done again.
    :raise FencedError: somebody else was quicker, or has removed the volume.
    """
    epoch = Epoch(head.epoch.number + 1, first)
    ours = head.replaced(random(8).hex(), epochs=(*head.epochs, epoch), writer=evolve(writer, closed=False))
    while True:
        try:
            receipt = await store.put(head_key(prefix), ours.encode(), if_match=etag, checked=False)
            return HeadKeeper(store, prefix, ours, receipt.etag, random)
        except (PreconditionFailed, StoreUnavailable) as error:
            found = await read_head(store, prefix)
            if found is None or found[0].uuid != head.uuid:
                raise FencedError("the volume was removed") from error
            there, found_etag = found
            if there.generation < head.generation:
                continue  # the store has answered with an older one
            if there.operation == ours.operation:
                return HeadKeeper(store, prefix, there, found_etag, random)
            if there.epoch != head.epoch:
                raise FencedError(f"{there.writer} was quicker to take the volume over") from error
            if there.operation != head.operation:
                return None
