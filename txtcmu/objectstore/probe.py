"""Whether a store keeps its word about conditions: asked at every open, since several ignore them silently.

One request after the other proves too little: some stores pass that and let two of many racers win.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from txtcmu.errors import ObjectStoreError, PreconditionFailed, StoreUnavailable
from txtcmu.objectstore.objects import MaybeMine, Receipt

__all__ = ["probe"]

_ROUNDS = 3
_RACERS = 4  # SeaweedFS lets each loser wait for a second or two
_STRAY = "the store, or a proxy before it, lost or repeated requests while it was tried out; trying again"


async def probe(store: Any, prefix: str) -> bool:
    """Race on objects of random names below ``prefix``.

    :return: whether the store honours conditions on DELETE as well.
    :raise ObjectStoreError: it does not even honour those on PUT.
    :raise StoreUnavailable: requests went astray, so nothing can be said.
    """
    if hasattr(store, "quote_etags"):  # it is S3; asking for the class would import what other stores do without
        await _learn_quotes(store, _name(prefix))
    rounds = [Deferred.fromCoroutine(_round(store, _name(prefix))) for _ in range(_ROUNDS)]
    results: list[tuple[bool, Any]] = await DeferredList(rounds, consumeErrors=True)
    for success, result in results:
        if not success:
            result.raiseException()
    return all(honest for _, honest in results)


def _name(prefix: str) -> str:
    return f"{prefix}txtcmu-probe-{token_hex(8)}"


async def _round(store: Any, key: str) -> bool:
    etag = await _race(store, key, None)
    await _race(store, key, etag)
    try:
        await store.delete(key, if_match="0" * 32)
    except PreconditionFailed:
        honest = True
    else:
        honest = False
    await store.delete(key)
    return honest


async def _race(store: Any, key: str, etag: str | None) -> str:
    """Let several writers replace ``etag`` (``None``: create) at the same time; return the winner's etag."""
    bodies = [f"{token_hex(8)} {number}".encode() for number in range(_RACERS)]
    results = await DeferredList(
        [store.put(key, body, if_match=etag, absent=etag is None) for body in bodies], consumeErrors=True
    )
    winners = []
    for body, (success, result) in zip(bodies, results, strict=True):
        if success:
            if result.doubts:
                raise StoreUnavailable(_STRAY)
            winners.append((body, result))
        elif result.check(MaybeMine):
            raise StoreUnavailable(_STRAY)
        elif not result.check(PreconditionFailed):
            result.raiseException()
    found = await store.get(key)
    if not winners and found is not None and found.data in bodies:
        raise StoreUnavailable(_STRAY)  # a proxy sent the winner's request twice, and the second was refused
    if len(winners) != 1 or found is None or found.data != winners[0][0]:
        condition = "If-None-Match" if etag is None else "If-Match"
        raise ObjectStoreError(
            f"the store does not honour {condition} on PUT ({len(winners)} of {_RACERS} writers won), so a late request"
            " could overwrite newer data; use a store that does, such as AWS, SeaweedFS 4.48 or Ceph"
        )
    receipt: Receipt = winners[0][1]
    return receipt.etag


async def _learn_quotes(store: Any, key: str) -> None:
    """Find out whether conditions take the etag in quotes, as the standard has it, or bare, as radosgw does."""
    etag = (await store.put(key, token_hex(8).encode())).etag
    body = token_hex(8).encode()
    try:
        await store.put(key, body, if_match=etag)
    except PreconditionFailed:
        # Unless it was applied, and only the reply to a second sending was a refusal.
        found = await store.get(key)
        store.quote_etags = found is not None and found.data == body
    await store.delete(key)
