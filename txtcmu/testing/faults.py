"""What can befall a request to a server: one vocabulary for the fake S3 and for a proxy before a real one.

What makes object stores hard is that a request has three moments: it is sent, applied and answered.  A
:class:`Fault` moves the second and third apart, leaves one out, does one twice, or damages what passes::

    fake.faults.append(Fault.lose_reply(method="PUT"))  # the next PUT: applied, and the connection breaks
    fake.faults.append(Fault.late(3600.0, method="PUT"))  # the one after: applied when its sender gave up long ago
    fake.faults.append(FaultPlan(seed=7, rate=0.05))  # then 5 % of all requests, each as chance wants it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from attrs import Factory, define

__all__ = ["Fault", "FaultPlan", "flipped", "strike"]


@define
class Fault:
    """What to do with the next requests that match, instead of applying and answering them at once.

    :ivar method: of the request, ``""`` for any; and :ivar key: a part of its key.
    :ivar times: how many requests it befalls.
    :ivar applied: seconds from arrival until the request takes effect; ``None`` for never.
    :ivar again: seconds from arrival until it takes effect a second time; ``None`` for never.
    :ivar answered: seconds from arrival until the reply to the latest application; ``None`` for never.
    :ivar status: instead of the status that would be due, with :ivar code: in the body.
    :ivar retry_after: the header of that name.
    :ivar reset: break the connection instead of answering.
    :ivar truncate: break the connection when so many bytes of the reply's body are sent.
    :ivar flip: invert this bit of the reply's body, and :ivar flip_sent: this one of the request's before anybody
        looks at it; counted modulo their length.
    """

    method: str = ""
    key: str = ""
    times: int = 1
    applied: float | None = 0.0
    again: float | None = None
    answered: float | None = 0.0
    status: int | None = None
    code: str = ""
    retry_after: str = ""
    reset: bool = False
    truncate: int | None = None
    flip: int | None = None
    flip_sent: int | None = None

    @classmethod
    def refuse(cls, status: int, code: str = "", **where: Any) -> Fault:
        """Answer an error, and do nothing."""
        return cls(applied=None, status=status, code=code, **where)

    @classmethod
    def hang(cls, **where: Any) -> Fault:
        """Do nothing, and do not answer."""
        return cls(applied=None, answered=None, **where)

    @classmethod
    def lose_request(cls, **where: Any) -> Fault:
        """Do nothing, and break the connection."""
        return cls(applied=None, reset=True, **where)

    @classmethod
    def lose_reply(cls, **where: Any) -> Fault:
        """Apply it, and break the connection."""
        return cls(reset=True, **where)

    @classmethod
    def late(cls, seconds: float, **where: Any) -> Fault:
        """Apply it after so long, and never answer."""
        return cls(applied=seconds, answered=None, **where)

    @classmethod
    def repeat(cls, seconds: float = 0.0, **where: Any) -> Fault:
        """Apply it, after so long apply it again, and answer what that came to, as a proxy does that sends it twice."""
        return cls(again=seconds, answered=seconds, **where)

    def hits(self, method: str, key: str) -> Fault | None:
        """Return itself when a request falls to it, and count."""
        if self.times <= 0 or (self.method and method != self.method) or self.key not in key:
            return None
        self.times -= 1
        return self


def _latency(random: Random, plan: FaultPlan) -> Fault:
    answered = random.uniform(0, plan.latency)
    return Fault(applied=answered * random.random(), answered=answered)


def _error(random: Random, plan: FaultPlan) -> Fault:
    return Fault(applied=random.choice([0.0, None]), status=500, code="InternalError")


_ANY: dict[str, Callable[[Random, FaultPlan], Fault]] = {
    "latency": _latency,
    "error": _error,
    "slow down": lambda _, plan: Fault.refuse(503, "SlowDown", retry_after=plan.retry_after),
    "hang": lambda *_: Fault.hang(),
    "request lost": lambda *_: Fault.lose_request(),
}
_CHANGE = _ANY | {
    "reply lost": lambda *_: Fault.lose_reply(),
    "late": lambda random, plan: Fault.late(random.uniform(0, plan.late)),
    "repeated": lambda random, plan: Fault.repeat(random.uniform(0, plan.latency)),
}
_KINDS: dict[str, dict[str, Callable[[Random, FaultPlan], Fault]]] = {
    "GET": _ANY
    | {
        "truncated": lambda random, _: Fault(truncate=random.randrange(4096)),
        "bit flip": lambda random, _: Fault(flip=random.getrandbits(32)),
    },
    "PUT": _CHANGE | {"bit flip sent": lambda random, _: Fault(flip_sent=random.getrandbits(32))},
    "DELETE": _CHANGE,
}


@define
class FaultPlan:
    """Endless faults by chance; the same ones for the same seed and the same requests.

    :ivar rate: which part of the requests meets one, 0 to 1.
    :ivar latency: seconds until a slow reply, at most; longer than the client waits makes the reply late, too.
    :ivar late: seconds until a request takes effect whose sender has given up, at most.
    :ivar retry_after: what SlowDown asks for.
    :ivar befell: how many requests met which kind of fault.
    """

    seed: int
    rate: float
    latency: float = 20.0
    late: float = 3600.0
    retry_after: str = "1"
    befell: Counter[str] = Factory(Counter)
    _random: Random = Factory(lambda self: Random(self.seed), takes_self=True)

    def hits(self, method: str, key: str) -> Fault | None:
        """Return what befalls a request, mostly ``None``."""
        kinds = _KINDS.get(method, _ANY)
        if self._random.random() >= self.rate:
            return None
        kind = self._random.choice(list(kinds))
        self.befell[kind] += 1
        return kinds[kind](self._random, self)


def strike(faults: Iterable[Fault | FaultPlan], method: str, key: str) -> Fault | None:
    """Return the fault that befalls a request, the first of those that hit it; mostly ``None``."""
    return next(filter(None, (each.hits(method, key) for each in faults)), None)


def flipped(data: bytes, bit: int | None) -> bytes:
    """Return ``data`` with one bit inverted, counted modulo its length; as it is for ``None``."""
    if bit is None or not data:
        return data
    at, shift = divmod(bit % (8 * len(data)), 8)
    damaged = bytearray(data)
    damaged[at] ^= 1 << shift
    return bytes(damaged)
