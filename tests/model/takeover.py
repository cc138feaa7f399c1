"""A volume changes hands: one writer, two that want to be next, and a store whose requests are late, lost and repeated.

The store holds a head, which is replaced by compare-and-replace, and the log: an object per number and epoch, made
by create-only PUTs.  A request that changes something is sent, and lies in the network until it is applied: at
once, much later, or never.  Its answer arrives, or is lost.  Whoever waits for one may send the request again, or see
what the head is, while the first copy is still under way.  What reads is one step: its answer may be acted upon much
later anyway.

Everybody may be slow without bound between any two steps.  Who dies is one who takes no further step, so death is
everywhere in the search without being a step of its own.

What is read after a failed create-only PUT is part of that step, for a log object never changes.

Who wants to be next may put a seal further ahead than where the epoch may end, to stop a writer that is quicker. He
does not look at the answer, and so does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

__all__ = ["INVARIANTS", "Rule", "Scope", "State", "start", "steps"]

SEAL = "seal"
Request = tuple[Any, ...]  # kind, who sent it, and what it says
Write = tuple[int, int, str]  # epoch, number, and who wrote it
Log = frozenset[tuple[tuple[int, int], str]]  # to each epoch and number who wrote it, or the seal
Chain = tuple[tuple[int, int], ...]  # epochs that are over, and the numbers of their seals


class Rule(NamedTuple):
    """What the members do; each of these left out is a mistake that must be found."""

    seals_before_head: bool = True
    head_is_compared: bool = True
    seal_is_create_only: bool = True
    acknowledges_prefix: bool = True
    writer_reads_after_412: bool = True
    opener_reads_after_412: bool = True
    claimant_reads_after_412: bool = True
    writes_after_claim: bool = True
    replays_what_it_meets: bool = True
    numbers_go_on: bool = True
    seal_ahead_is_no_end: bool = True


class Scope(NamedTuple):
    """How much of everything there is."""

    writes: tuple[int, int, int] = (2, 1, 1)  # of the writer and of each opener
    checkpoints: int = 1  # times that the first writer replaces the head within its epoch
    seals_ahead: tuple[int, int] = (1, 1)  # of each opener
    repeats: int = 1  # times that anybody waits no longer: sends the request again, or reads the head


class Head(NamedTuple):
    """The head; its version stands for the ETag, which never comes back."""

    epoch: int
    owner: str
    chain: Chain
    version: int


class Member(NamedTuple):
    """A writer, or who wants to be one.

    :ivar phase: what comes next, or what is waited for.
    :ivar head: as it was read, or replaced, last.
    :ivar end: where the epoch before is, or is to be, sealed.
    :ivar image: the writes that were replayed.
    :ivar first: number of the first own write, in ``epoch``.
    :ivar puts: of each own write whether it is known to be stored.
    :ivar checkpoints: how many more it may make, and :ivar seals_ahead: how many more of these.
    :ivar ahead: number of a seal ahead whose answer is waited for, by mistake.
    """

    name: str
    phase: str
    head: Head | None = None
    end: int = 0
    image: frozenset[Write] = frozenset()
    epoch: int = 0
    first: int = 0
    puts: tuple[bool, ...] = ()
    checkpoint: str = ""  # "sent", and "unsure" after a 412
    checkpoints: int = 0
    seals_ahead: int = 0
    ahead: int = 0


class State(NamedTuple):
    """All there is."""

    head: Head
    log: Log
    members: tuple[Member, ...]
    network: tuple[Request, ...]
    acknowledged: frozenset[Write]
    repeats: int


def start(scope: Scope) -> State:
    """Return the state in which W has opened the volume, and nothing is written yet."""
    head = Head(1, "W", (), 0)
    writer = Member("W", "open", head, epoch=1, first=1, checkpoints=scope.checkpoints)
    openers = (Member(name, "start", seals_ahead=count) for name, count in zip("AB", scope.seals_ahead, strict=True))
    return State(head, frozenset(), (writer, *openers), (), frozenset(), scope.repeats)


@cache
def replay(chain: Chain, epoch: int, objects: Log) -> tuple[frozenset[Write], int, bool]:
    """Return the writes of a chain and of the epoch behind it, the number where that ends, and whether in a seal."""
    log = dict(objects)
    image: set[Write] = set()
    number = 1
    for over, end in chain:
        image.update((over, each, log[over, each]) for each in range(number, end) if (over, each) in log)
        number = end + 1
    while log.get((epoch, number), SEAL) != SEAL:
        image.add((epoch, number, log[epoch, number]))
        number += 1
    return frozenset(image), number, (epoch, number) in log


def steps(state: State, rule: Rule, scope: Scope) -> Iterator[tuple[str, State]]:
    """Yield all that may happen next."""
    for what, following in _steps(state, rule, scope):
        yield what, _settled(following, rule)


def _settled(state: State, rule: Rule) -> State:
    """Forget requests that can change nothing any more and whose answers nobody waits for."""
    if not state.network:
        return state
    taken = {place for place, _ in state.log}
    for request in state.network:
        if request[0] == "replace":
            vain = rule.head_is_compared and request[2] < state.head.version
        else:
            vain = request[2:4] in taken and (rule.seal_is_create_only or request[4] != SEAL)
        if vain and request not in _awaited(state.members[request[1]], request[1]):
            left = list(state.network)
            left.remove(request)
            state = state._replace(network=tuple(left))
    return state


def _steps(state: State, rule: Rule, scope: Scope) -> Iterator[tuple[str, State]]:
    for which, member in enumerate(state.members):
        name = member.name
        for what, changed, request in _turns(state, member, which, rule, scope):
            yield f"{name} {what}", _sent(_with(state, which, changed), request)
        for write in _stored(member, rule):
            if write not in state.acknowledged:
                yield (
                    f"{name} acknowledges {_place(*write[:2])}",
                    state._replace(acknowledged=state.acknowledged | {write}),
                )
        if state.repeats:
            again = state._replace(repeats=state.repeats - 1)
            for request in _awaited(member, which):
                yield f"{name} hears nothing and sends {_spoken(request)} again", _sent(again, request)
            if member.phase == "claiming":
                yield f"{name} hears nothing of its head", _with(again, which, member._replace(phase="reread"))
            if member.checkpoint == "sent":
                yield f"{name} hears nothing of its head", _with(again, which, member._replace(checkpoint="unsure"))
    for request in dict.fromkeys(state.network):
        which = request[1]
        member = state.members[which]
        what = f"the store applies {member.name}'s {_spoken(request)}"
        left = list(state.network)
        left.remove(request)
        applied, answer = _applied(state._replace(network=tuple(left)), request, rule)
        if request not in _awaited(member, which):
            yield what, applied
            continue
        yield (
            f"{what}; {member.name} hears {answer or 'success'}",
            _with(applied, which, _answered(member, request, answer, applied.head, rule)),
        )
        if state.repeats:  # else the loss is as good as an answer that comes too late
            yield f"{what}; the answer is lost", applied


def _turns(
    state: State, member: Member, which: int, rule: Rule, scope: Scope
) -> Iterator[tuple[str, Member, Request | None]]:
    """Yield what a member may do: in words, what it is then, and what it sends."""
    head = state.head
    phase = member.phase
    if phase == "start":
        begun = member._replace(head=head, epoch=head.epoch + 1)
        yield (
            f"reads the head: epoch {head.epoch}",
            begun._replace(phase="list" if rule.seals_before_head else "claim"),
            None,
        )
    elif phase == "list":
        assert member.head is not None
        image, end, sealed = replay(member.head.chain, member.epoch - 1, state.log)
        listed = member._replace(phase="seal", image=image, end=end)
        what = f"lists epoch {member.epoch - 1}: it ends at {end}"
        yield (what + " in a seal", _sealed(listed, rule), None) if sealed else (what, listed, None)
    elif phase in ("seal", "claim"):
        waiting = member._replace(phase=phase + "ing")
        request = _awaited(waiting, which)[0]
        yield f"sends {_spoken(request)}", waiting, request
        if phase == "seal" and member.seals_ahead:
            request = ("put", which, member.epoch - 1, member.end + 1, SEAL)
            awaited = 0 if rule.seal_ahead_is_no_end else member.end + 1
            yield (
                f"sends {_spoken(request)} ahead",
                member._replace(seals_ahead=member.seals_ahead - 1, ahead=awaited),
                request,
            )
    elif phase == "reread":
        if (head.epoch, head.owner) == (member.epoch, member.name):
            yield "reads the head: its own", _claimed(member, head), None
        elif head.epoch >= member.epoch:
            yield f"reads the head: lost to {head.owner}", Member(member.name, "lost"), None
        else:
            again = Member(member.name, "start", seals_ahead=member.seals_ahead)
            yield "reads the head: the same epoch, so it starts again", again, None
    if phase == "open" or (phase in ("claim", "claiming") and not rule.writes_after_claim):
        yield from _writers_turns(state, member, which, rule, scope)


def _writers_turns(
    state: State, member: Member, which: int, rule: Rule, scope: Scope
) -> Iterator[tuple[str, Member, Request | None]]:
    if len(member.puts) < scope.writes[which]:
        number = member.first + len(member.puts)
        request = ("put", which, member.epoch, number, member.name)
        yield f"sends {_spoken(request)}", member._replace(puts=(*member.puts, False)), request
    if member.checkpoints and member.checkpoint == "":
        waiting = member._replace(checkpoints=member.checkpoints - 1, checkpoint="sent")
        request = _awaited(waiting, which)[-1]
        yield f"sends {_spoken(request)}", waiting, request
    elif member.checkpoint == "unsure":
        if (state.head.epoch, state.head.owner) == (member.epoch, member.name):
            yield "reads the head: its own", _checkpointed(member, state.head), None
        else:
            yield f"reads the head: fenced by {state.head.owner}", Member(member.name, "fenced"), None


@cache
def _awaited(member: Member, which: int) -> tuple[Request, ...]:
    """Return the requests whose answers a member waits for: kind, sender, and what they say."""
    requests: list[Request] = []
    if member.phase == "sealing":
        requests.append(("put", which, member.epoch - 1, member.end, SEAL))
    if member.ahead:
        requests.append(("put", which, member.epoch - 1, member.ahead, SEAL))
    for index, stored in enumerate(member.puts):
        if not stored:
            requests.append(("put", which, member.epoch, member.first + index, member.name))
    head = member.head
    if head is not None and member.phase == "claiming":
        sealed = ((member.epoch - 1, member.end),) if member.end else ()
        requests.append(("replace", which, head.version, member.epoch, head.chain + sealed))
    elif head is not None and member.checkpoint == "sent":
        requests.append(("replace", which, head.version, head.epoch, head.chain))
    return tuple(requests)


def _applied(state: State, request: tuple[Any, ...], rule: Rule) -> tuple[State, str]:
    """Return what a request makes of the store, and the answer: ``""``, or what it found instead."""
    if request[0] == "put":
        _, _, epoch, number, content = request
        log = dict(state.log)
        found = log.get((epoch, number), "")
        if found and (content != SEAL or rule.seal_is_create_only):
            return state, found
        log[epoch, number] = content
        return state._replace(log=frozenset(log.items())), ""
    _, which, version, epoch, chain = request
    if state.head.version != version and rule.head_is_compared:
        return state, "412"
    return state._replace(head=Head(epoch, state.members[which].name, chain, state.head.version + 1)), ""


def _answered(member: Member, request: tuple[Any, ...], answer: str, head: Head, rule: Rule) -> Member:
    """Return what a member makes of an answer that it waited for."""
    if request[0] == "replace":
        if member.phase == "claiming":
            if answer and rule.claimant_reads_after_412:
                return member._replace(phase="reread")
            return _claimed(member, head)
        return member._replace(checkpoint="unsure") if answer else _checkpointed(member, head)
    _, _, epoch, number, content = request
    if content == SEAL:
        if number == member.ahead:
            return member._replace(ahead=0) if answer else _sealed(member._replace(end=number, ahead=0), rule)
        if answer in ("", SEAL) or not rule.opener_reads_after_412:
            return _sealed(member, rule)
        met = {(epoch, number, answer)} if rule.replays_what_it_meets else set()
        return member._replace(phase="seal", end=number + 1, image=member.image | met)
    if answer in ("", member.name) or not rule.writer_reads_after_412:
        index = number - member.first
        return member._replace(puts=(*member.puts[:index], True, *member.puts[index + 1 :]))
    return Member(member.name, "fenced")


def _sealed(member: Member, rule: Rule) -> Member:
    """Return a member whose predecessor's epoch is sealed at ``end``."""
    return member._replace(phase="claim", first=member.end + 1 if rule.numbers_go_on else 1)


def _claimed(member: Member, head: Head) -> Member:
    """Return a member who has replaced the head, or believes so."""
    if not member.first:
        return member._replace(phase="list", head=head)
    return member._replace(phase="open", head=None, end=0)


def _checkpointed(member: Member, head: Head) -> Member:
    return member._replace(head=head if member.checkpoints else None, checkpoint="")


def _stored(member: Member, rule: Rule) -> Iterator[Write]:
    """Yield the writes that a member may acknowledge."""
    for index, stored in enumerate(member.puts):
        if stored:
            yield member.epoch, member.first + index, member.name
        elif rule.acknowledges_prefix:
            return


def _with(state: State, which: int, member: Member) -> State:
    head, log, members, network, acknowledged, repeats = state
    return State(head, log, (*members[:which], member, *members[which + 1 :]), network, acknowledged, repeats)


def _sent(state: State, request: Request | None) -> State:
    return state._replace(network=tuple(sorted((*state.network, request)))) if request else state


def _place(epoch: int, number: int) -> str:
    return f"d/{epoch}/{number}"


@cache
def _spoken(request: Request) -> str:
    if request[0] == "put":
        _, _, epoch, number, content = request
        return f"{'seal' if content == SEAL else 'write'} {_place(epoch, number)}"
    _, _, version, epoch, chain = request
    sealed = "".join(f", {each} sealed at {end}" for each, end in chain)
    return f"head of version {version + 1} (epoch {epoch}{sealed})"


def _image(state: State) -> str:
    """Whoever serves has every acknowledged write of others in its image."""
    for member in state.members:
        if member.phase == "open":
            for write in state.acknowledged:
                if write[0] <= member.epoch and write[2] != member.name and write not in member.image:
                    return f"{member.name} serves without {write[2]}'s acknowledged {_place(*write[:2])}"
    return ""


def _next(state: State) -> str:
    """Whoever opens next replays every acknowledged write, and in an epoch only those of its owner."""
    head = state.head
    image, _, _ = replay(head.chain, head.epoch, state.log)
    if missing := state.acknowledged - image:
        return f"the next opener misses acknowledged {_place(*min(missing)[:2])}"
    if any(epoch == head.epoch and name != head.owner for epoch, _, name in image):
        return f"epoch {head.epoch} is {head.owner}'s and holds another's write"
    return ""


def _fence(state: State) -> str:
    """Nothing is acknowledged at or behind the number of a seal."""
    seals = [place for place, content in state.log if content == SEAL]
    for epoch, number, _ in state.acknowledged:
        if any(over == epoch and end <= number for over, end in seals):
            return f"{_place(epoch, number)} is acknowledged, and not before the seal"
    return ""


def _alone(state: State) -> str:
    """No two members serve in one epoch."""
    serving = [member.epoch for member in state.members if member.phase == "open"]
    return "two members serve in one epoch" if len(serving) > len(set(serving)) else ""


def _numbers(state: State) -> str:
    """No two acknowledged writes have one number."""
    numbers = [number for _, number, _ in state.acknowledged]
    return "a number is acknowledged twice" if len(numbers) > len(set(numbers)) else ""


INVARIANTS: dict[str, Callable[[State], str]] = {
    "image": _image,
    "next": _next,
    "fence": _fence,
    "alone": _alone,
    "numbers": _numbers,
}
