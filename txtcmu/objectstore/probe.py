"""Whether a store keeps its word about conditions: asked at every open, since several ignore them silently.

One request after the other proves too little: some stores pass that and let all of many racers win.  So eight writers
race for one object, three times to create it and three times to replace it, all at once: some stores let those who lose
wait for seconds.

Requests may be lost, late or repeated while that goes on, by the network, a proxy, or the client's own retries.  So
who was refused may have won all the same, and whose bytes are there says so; but of two who were told that they won,
one was lied to.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from txtcmu.errors import ObjectStoreError, PreconditionFailed, StoreUnavailable
from txtcmu.results import gathered

__all__ = ["probe"]

_ROUNDS = 3
_RACERS = 8
_ABREAST = 3  # who loses on SeaweedFS waits for a lock in steps of a second, each time that others want it, too


async def probe(store: Any, prefix: str) -> bool:
    """Race on objects of random names below ``prefix``.

    They are removed, whatever comes out, and when this is cancelled, for which that has to be waited for.  They stay if
    the store cannot be reached, or if a write that was given up lands afterwards.

    An S3 store learns whether its conditions take the etag in quotes, as the standard has it, or bare, as radosgw does.

    :return: whether the store honours conditions on DELETE as well.
    :raise ObjectStoreError: it does not even honour those on PUT; or these credentials may not write there.
    :raise StoreUnavailable: requests went unanswered, so nothing can be said.
    """
    names = [f"{prefix}txtcmu-probe-{token_hex(8)}" for _ in range(2 * _ROUNDS)]
    try:
        honest = await _try_out(store, names[:_ROUNDS], names[_ROUNDS:])
        await gathered([store.delete(name) for name in names])
    except Exception:  # being cancelled is one
        await DeferredList([store.delete(name) for name in names], consumeErrors=True)
        raise
    return honest


async def _try_out(store: Any, new: list[str], old: list[str]) -> bool:
    etags = await gathered([_create(store, name) for name in old])
    if hasattr(store, "quote_etags"):  # it is S3; asking for the class would import what other stores do without
        etags[0] = await _learn_quotes(store, old[0], etags[0])
    races = [_race(store, name, etag) for name, etag in zip(new + old, [None] * len(new) + etags, strict=True)]
    results: list[tuple[bool, Any]] = await DeferredList(map(Deferred.fromCoroutine, races), consumeErrors=True)
    failures = [result for success, result in results if not success]
    for failure in sorted(failures, key=lambda each: each.check(StoreUnavailable) is not None):
        failure.raiseException()  # a lie is one, whatever happened to other requests
    return all(await gathered([_keeps(store, name) for name in old]))


async def _create(store: Any, name: str) -> str:
    """Create an object and return its etag."""
    body = token_hex(8).encode()
    try:
        receipt = await store.put(name, body, absent=True)
    except PreconditionFailed:
        found = await store.get(name)
        if found is None or found.data != body:
            raise _lie("If-None-Match", "a new object was refused") from None
        return str(found.etag)
    return str(receipt.etag)


async def _learn_quotes(store: Any, name: str, etag: str) -> str:
    """Find out how conditions take the etag; return that of the object."""
    body = token_hex(8).encode()
    try:
        receipt = await store.put(name, body, if_match=etag)
    except PreconditionFailed:
        found = await store.get(name)
        store.quote_etags = found is not None and found.data == body
        return etag if found is None else str(found.etag)
    return str(receipt.etag)


async def _race(store: Any, name: str, etag: str | None) -> None:
    """Let writers replace ``etag`` (``None``: create) at the same time."""
    condition = "If-None-Match" if etag is None else "If-Match"
    bodies = [f"{token_hex(8)} {number}".encode() for number in range(_RACERS)]
    racing = store.together(_RACERS, _ABREAST) if hasattr(store, "together") else store
    results: list[tuple[bool, Any]] = await DeferredList(
        [racing.put(name, body, if_match=etag, absent=etag is None) for body in bodies], consumeErrors=True
    )
    winners = [body for body, (success, _) in zip(bodies, results, strict=True) if success]
    if len(winners) > 1:
        raise _lie(condition, f"{len(winners)} of {_RACERS} writers won a race for one object")
    for success, result in results:
        if not success and not result.check(PreconditionFailed):
            result.raiseException()
    found = await store.get(name)
    there = None if found is None else found.data
    if winners and there != winners[0]:
        raise _lie(condition, f"of {_RACERS} writers one won a race for an object, and its data is not there")
    if there not in bodies:
        raise _lie(condition, f"none of {_RACERS} writers won a race for an object")


async def _keeps(store: Any, name: str) -> bool:
    """Tell whether an object is kept from a DELETE whose condition does not hold."""
    try:
        await store.delete(name, if_match="0" * 32)
    except PreconditionFailed:
        return True
    return False


def _lie(condition: str, what: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"the store does not honour {condition} on PUT ({what}), so two writers would destroy each other's data; use a"
        " store that does, such as AWS S3, SeaweedFS or Ceph's radosgw, or a directory"
    )
