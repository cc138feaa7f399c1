"""A store behind a network that loses, delays and damages.

Each request is three events: issued, applied, answered, each as late as it likes.  A request may be applied when its
sender has long given it up, sent it again, died or been deposed.  What the store does it does at once and as a whole,
in the order in which requests are applied: a body that was cut short on its way there never becomes an object.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from attrs import define, evolve, frozen
from twisted.internet.defer import Deferred

from tests.simulation.hosts import Host, Timeline, Timer
from tests.simulation.stamps import damage
from txtcmu.errors import ObjectStoreError, PreconditionFailed
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.objects import StoredObject
from txtcmu.objectstore.retry import Later

__all__ = ["CALM", "Damaged", "Network", "Request", "Weather", "result_of"]

#: Seconds for which a LIST may not know of an object.
_RECENT: Final = 5.0
#: Answers about one key of which one at most is damaged: that the same bytes are damaged whenever they are read
#: is damage of the object, and that is planned for (:meth:`Network.destroy`).
_DAMAGE_EVERY: Final = 12


class Damaged(Exception):  # noqa: N818 - what came, not an error of ours
    """What came is not what was stored, and the client has seen it."""


@frozen
class Weather:
    """How often what goes wrong, as probabilities for each request; the rest goes well, and fast.

    :ivar slow: applied after seconds, and :ivar late: after anything up to two hours.
    :ivar repeated: applied once more, late, without the sender's doing: by whatever lies between.
    :ivar lost: never applied, and :ivar unanswered: applied and not answered, or with an error.
    :ivar doubtful: likewise, of replacements of the head.
    :ivar refused: answered with 500, 503, 409 or 400, and :ivar forbidden: with 403.
    :ivar damaged: a body that comes with a bit flipped, or cut short.
    :ivar stale: the head as it was before, and :ivar forgotten: each recent object missing from a list.
    :ivar verified: clients count the bytes that come, and compare checksums unless they are told not to, as that of S3
        does, and see damage for themselves.
    """

    slow: float = 0.0
    late: float = 0.0
    repeated: float = 0.0
    lost: float = 0.0
    unanswered: float = 0.0
    doubtful: float = 0.0
    refused: float = 0.0
    forbidden: float = 0.0
    damaged: float = 0.0
    stale: float = 0.0
    forgotten: float = 0.0
    verified: bool = False


CALM: Final = Weather()


@define(eq=False)
class Request:
    """One request on its way.

    :ivar sender: whose it is; :ivar kind: ``get``, ``put``, ``delete`` or ``list``.
    :ivar apply: what the store does.
    :ivar answer: fails with Later or an ObjectStoreError, as the code that was answered deserves.
    :ivar given_up: the sender waits for it no more.
    """

    sender: Host
    kind: str
    key: str
    apply: Callable[[], Any]
    answer: Deferred[Any]
    given_up: bool = False


class Network:
    """The store, and the way to it.

    :param head: the key of the one object that is replaced.
    :param replaced: called with the sender of each request that has replaced it, in that very moment.
    :param note: called with each request that was applied, and what came of it.
    :ivar store: the store itself; :ivar counts: what happened how often.
    :ivar deposed: hosts of which every request is late.
    :ivar misled: hosts that were shown an older head, or a list that lacks something.
    """

    def __init__(
        self,
        timeline: Timeline,
        random: Random,
        weather: Weather,
        head: str,
        replaced: Callable[[Host], None],
        note: Callable[[Request, str], None],
    ) -> None:
        self.store = MemoryObjectStore()
        self.counts: Counter[str] = Counter()
        self.deposed: set[Host] = set()
        self.misled: set[Host] = set()
        self._timeline = timeline
        self._random = random
        self._weather = weather
        self._head = head
        self._replaced = replaced
        self._note = note
        self._heads: deque[StoredObject] = deque(maxlen=3)
        self._created: dict[str, float] = {}
        self._intact: Counter[str] = Counter()  # answers since the last damaged one, by key
        self._destroyed: dict[str, list[int]] = {}
        self._outage = 0.0
        self._under_way: dict[Timer, Request] = {}
        # All there were: who waits for one, and died, is not to be finished off by the garbage collector.
        self._requests: list[Request] = []

    # The weather

    def fail(self, seconds: float) -> None:
        """Begin an outage: for a while nothing that arrives is applied, or answered."""
        self._outage = self._timeline.now + seconds

    def calm(self, within: float) -> None:
        """Let nothing go wrong any more; what is still on its way arrives within that many seconds."""
        self._weather = evolve(CALM, verified=self._weather.verified)
        self._outage = 0.0
        for timer, request in list(self._under_way.items()):
            timer.cancel()
            del self._under_way[timer]
            self._send(request, self._random.random() * within)

    def destroy(self) -> int | None:
        """Damage a sector in an object of the log, for good.  :return: which sector of the disk, ``None`` for none."""
        keys = [key for key in sorted(self.store.objects) if "/d/" in key]
        if not keys:
            return None
        found = self.store.objects[self._random.choice(keys)]
        damaged = damage(found.data, self._random.random())
        if damaged is None:
            return None
        data, at, sector = damaged
        self.store.objects[found.key] = evolve(found, data=data)
        self._destroyed.setdefault(found.key, []).append(at)
        return sector

    # Requests

    def send(self, sender: Host, kind: str, key: str, apply: Callable[[], Any]) -> Request:
        """Issue a request."""

        def give_up(_: Deferred[Any]) -> None:
            request.given_up = True

        request = Request(sender, kind, key, apply, Deferred(give_up))
        self._requests.append(request)
        if not sender.dead:  # else it is what remains of somebody who died
            self.counts[kind] += 1
            self._fate(request)
        return request

    def _fate(self, request: Request) -> None:
        weather, random = self._weather, self._random
        fate = random.random() - weather.lost
        if fate < 0:
            return
        if (fate := fate - weather.refused) < 0:
            # Such as 500, 503 (SlowDown), 409 (another condition is being looked at), 400 (a body's checksum).
            wait = random.choice((None, None, 1.0))
            self._answer(request, Later("refused", doubtful=random.random() < 0.3, wait=wait))
        elif (fate := fate - weather.forbidden) < 0:
            self._answer(request, ObjectStoreError("forbidden"))
        else:
            if (fate := fate - weather.late) < 0:
                delay = 10.0 * 720.0 ** random.random()
            elif (fate := fate - weather.slow) < 0:
                delay = random.random() * 12.0
            else:
                delay = 0.002 + random.random() * 0.05
            self._send(request, delay)
            if random.random() < weather.repeated:
                again = evolve(request, answer=Deferred(), given_up=True)
                self._send(again, delay + 10.0 * 720.0 ** random.random())

    def _send(self, request: Request, delay: float) -> None:
        def arrive() -> None:
            del self._under_way[timer]
            self._apply(request)

        timer = self._timeline.call(delay, arrive)
        self._under_way[timer] = request

    def _apply(self, request: Request) -> None:
        if self._timeline.now < self._outage:
            return
        kind, key, before = request.kind, request.key, self.store.objects.get(request.key)
        late = request.given_up or request.sender.dead or request.sender in self.deposed
        self.counts[f"late_{kind}s"] += late
        result: Any
        try:
            result = request.apply()
        except PreconditionFailed as error:
            result = error
            self.counts["head_conflicts"] += key == self._head
        else:
            if kind == "put":
                self._stored(key, before)
        self._note(request, f"{'late ' if late else ''}{_describe(result)}")
        if kind == "put" and key == self._head and not isinstance(result, PreconditionFailed):
            self._replaced(request.sender)
        self._answer(request, self._spoil(request.sender, kind, key, result))

    def _stored(self, key: str, before: StoredObject | None) -> None:
        self._destroyed.pop(key, None)
        if before is None:
            self._created[key] = self._timeline.now
        elif key == self._head:
            self._heads.append(before)

    def _spoil(self, sender: Host, kind: str, key: str, result: Any) -> Any:
        """Return the answer instead of ``result``."""
        weather, random = self._weather, self._random
        replacement = kind == "put" and key == self._head
        if random.random() < (weather.doubtful if replacement else weather.unanswered):
            return random.choice((None, Later("an error, although it was applied", doubtful=True)))
        if kind == "list" and weather.forgotten:
            recent = self._timeline.now - _RECENT
            known = [
                each for each in result if self._created[each.key] < recent or random.random() >= weather.forgotten
            ]
            if len(known) < len(result):
                self.misled.add(sender)
            return known
        if kind != "get" or result[0] is None:
            return result
        found, start, checked = result
        if key == self._head and self._heads and random.random() < weather.stale:
            found = random.choice(self._heads)
            self.misled.add(sender)
        self._intact[key] += 1
        if found.data and random.random() < weather.damaged and self._intact[key] >= _DAMAGE_EVERY:
            self._intact[key] = 0
            short, cut = random.random() < 0.5, random.randrange(len(found.data))
            if weather.verified and (checked or short):
                return Damaged(key)
            if short:
                return evolve(found, data=found.data[:cut]), start, checked
            flipped = bytearray(found.data)
            flipped[cut] ^= 1 << random.randrange(8)
            return evolve(found, data=bytes(flipped)), start, checked
        destroyed = self._destroyed.get(key, ())
        if weather.verified and checked and any(0 <= at - start < len(found.data) for at in destroyed):
            return Damaged(key)
        return found, start, checked

    def _answer(self, request: Request, result: Any) -> None:
        if result is None or request.given_up or request.sender.dead:
            return
        slow = self._random.random() < self._weather.slow
        delay = self._random.random() * (12.0 if slow else 0.05)

        def answer() -> None:
            if not request.given_up:
                request.given_up = True  # there is nothing to wait for any more
                if isinstance(result, Exception):
                    request.answer.errback(result)
                else:
                    request.answer.callback(result)

        self._timeline.call(delay, lambda: request.sender.run(answer))


def result_of(fired: Deferred[Any]) -> Any:
    """Return the result of a Deferred that has fired, or raise it."""
    results: list[Any] = []
    failures: list[Any] = []
    fired.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    [result] = results
    return result


def _describe(result: Any) -> str:
    if isinstance(result, Exception):
        return "refused"
    if isinstance(result, list):
        return f"{len(result)} keys"
    if isinstance(result, tuple):
        return "nothing" if result[0] is None else f"{len(result[0].data)} bytes from {result[1]}"
    return "done"
