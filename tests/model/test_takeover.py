"""The takeover of a volume: sound in every state that the model reaches, and unsound as soon as a rule is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.model.search import Outcome, explore
from tests.model.takeover import INVARIANTS, SEAL, Rule, Scope, State, start, steps


def search(rule: Rule, scope: Scope, violation: Callable[[State], str]) -> Outcome[State]:
    """Search all of a scope, and show what came out (pytest -s)."""
    outcome = explore(start(scope), partial(steps, rule=rule, scope=scope), violation)
    print(f"\n{scope}: {outcome}")
    return outcome


def any_invariant(state: State) -> str:
    """Say what is wrong with a state."""
    for invariant in INVARIANTS.values():
        if what := invariant(state):
            return what
    return ""


class SearchTests(SynchronousTestCase):
    """The search itself, on numbers that are doubled or increased."""

    @staticmethod
    def number_steps(number: int) -> list[tuple[str, int]]:
        """Return what follows on a number below 100."""
        return [("increase", number + 1), ("double", 2 * number)] if number < 100 else []

    def test_shortest_trace(self) -> None:
        """The trace to a violation is as short as can be, and leads there."""
        outcome = explore(1, self.number_steps, lambda number: "ten" if number == 10 else "")
        self.assertEqual((outcome.violation, outcome.trace), ("ten", ["increase", "double", "increase", "double"]))
        self.assertIn("4. double", str(outcome))

    def test_all_states(self) -> None:
        """Without a violation every state is seen, once."""
        seen: list[int] = []

        def watch(number: int) -> str:
            seen.append(number)
            return ""

        outcome = explore(1, self.number_steps, watch)
        self.assertEqual(sorted([1, *seen]), sorted({*range(1, 101), *range(100, 199, 2)}))
        self.assertEqual((outcome.states, outcome.violation, outcome.trace), (len(seen) + 1, "", []))

    def test_too_many(self) -> None:
        """A scope that is too large shows nothing, and says so."""
        with self.assertRaisesRegex(RuntimeError, "scope"):
            explore(1, self.number_steps, lambda _: "", bound=50)


def all_acknowledge(state: State) -> bool:
    """All three have acknowledged a write."""
    return {name for _, _, name in state.acknowledged} == {"W", "A", "B"}


def two_are_deposed(state: State) -> bool:
    """Two have found a seal where they wrote."""
    return [member.phase for member in state.members] == ["fenced", "fenced", "open"]


def one_loses(state: State) -> bool:
    """A head that was replaced first is respected."""
    return [member.phase for member in state.members][1:] == ["open", "lost"]


def one_starts_again(state: State) -> bool:
    """A checkpoint came between reading the head and replacing it."""
    return bool(state.log) and all(member.phase == "start" for member in state.members[1:])


def one_finds_its_own_head(state: State) -> bool:
    """The answer was lost, and the request sent again was refused."""
    return any(member.phase == "reread" and state.head.owner == member.name for member in state.members)


def a_straggler_lands(state: State) -> bool:
    """A write is applied behind the seal when the next epoch has begun."""
    return ((1, 2), "W") in state.log and ((1, 1), SEAL) in state.log and state.head.epoch == 2


def a_seal_lies_behind_the_end(state: State) -> bool:
    """One was put further ahead, and the epoch has ended before it, by the head."""
    return any(((epoch, end + 1), SEAL) in state.log for epoch, end in state.head.chain)


EVENTS = (
    all_acknowledge,
    two_are_deposed,
    one_loses,
    one_starts_again,
    one_finds_its_own_head,
    a_straggler_lands,
    a_seal_lies_behind_the_end,
)


class TakeoverTests(SynchronousTestCase):
    def test_rule(self) -> None:
        """Seal first, head second: nothing is wrong, whatever is late, lost or repeated.

        W writes, twice or with a replacement of the head in between; A and B open and write once; one request is sent
        again, or its outcome looked up; and openers put seals further ahead: both, or one if a request is sent again.
        All of EVENTS does happen in the states that are searched.
        """
        awaited = set(EVENTS)

        def watch(state: State) -> str:
            awaited.difference_update([event for event in awaited if event(state)])
            return any_invariant(state)

        states = 0
        for scope in (
            Scope(writes=(2, 1, 1), checkpoints=0, seals_ahead=(0, 0)),
            Scope(writes=(1, 1, 1), checkpoints=1, seals_ahead=(0, 0)),
            Scope(writes=(2, 1, 1), checkpoints=0, repeats=0),
            Scope(writes=(1, 1, 1), checkpoints=1, repeats=0),
            Scope(writes=(1, 1, 1), checkpoints=0, seals_ahead=(1, 0)),
        ):
            outcome = search(Rule(), scope, watch)
            self.assertEqual((outcome.violation, outcome.trace), ("", []))
            states += outcome.states
        self.assertEqual(awaited, set())
        self.assertGreater(states, 320_000)

    def test_head_before_seal(self) -> None:
        """Head first, seal second: who stops between the two leaves an epoch in nobody's chain, and W goes on."""
        scope = Scope(writes=(1, 0, 0), checkpoints=0, repeats=0)
        outcome = search(Rule(seals_before_head=False), scope, INVARIANTS["image"])
        self.assertEqual(outcome.violation, "B serves without W's acknowledged d/1/1")
        self.assertEqual(
            outcome.trace,
            [
                "W sends write d/1/1",
                "A reads the head: epoch 1",
                "A sends head of version 1 (epoch 2)",
                "the store applies W's write d/1/1; W hears success",
                "W acknowledges d/1/1",
                "the store applies A's head of version 1 (epoch 2); A hears success",
                # A is not heard of again.
                "B reads the head: epoch 2",
                "B sends head of version 2 (epoch 3)",
                "the store applies B's head of version 2 (epoch 3); B hears success",
                "B lists epoch 2: it ends at 1",
                "B sends seal d/2/1",
                "the store applies B's seal d/2/1; B hears success",
                "B sends head of version 3 (epoch 3, 2 sealed at 1)",
                "the store applies B's head of version 3 (epoch 3, 2 sealed at 1); B hears success",
            ],
        )

    def test_each_rule_is_needed(self) -> None:
        """With any one rule left out something goes wrong, and the last step of the trace is the mistake."""
        served = "the store applies A's head of version 1 (epoch 2, 1 sealed at {}); A hears success"
        cases = {
            "seals_before_head": (
                "the next opener misses acknowledged d/1/1",
                "the store applies A's head of version 1 (epoch 2); A hears success",
            ),
            "head_is_compared": (
                "two members serve in one epoch",
                "the store applies B's head of version 1 (epoch 2, 1 sealed at 1); B hears success",
            ),
            "seal_is_create_only": (
                "the next opener misses acknowledged d/1/1",
                "the store applies A's seal d/1/1; A hears success",
            ),
            "acknowledges_prefix": ("the next opener misses acknowledged d/1/2", "W acknowledges d/1/2"),
            "writer_reads_after_412": ("the next opener misses acknowledged d/1/1", "W acknowledges d/1/1"),
            "opener_reads_after_412": ("A serves without W's acknowledged d/1/1", served.format(1)),
            "claimant_reads_after_412": (
                "two members serve in one epoch",
                "the store applies B's head of version 1 (epoch 2, 1 sealed at 1); B hears 412",
            ),
            "writes_after_claim": ("the next opener misses acknowledged d/2/2", "A acknowledges d/2/2"),
            "replays_what_it_meets": ("A serves without W's acknowledged d/1/1", served.format(2)),
            "numbers_go_on": ("the next opener misses acknowledged d/2/1", "A acknowledges d/2/1"),
            "seal_ahead_is_no_end": ("A serves without W's acknowledged d/1/1", served.format(2)),
        }
        self.assertEqual(tuple(cases), Rule._fields)
        for left_out, (violation, last) in cases.items():
            outcome = search(Rule()._replace(**{left_out: False}), Scope(repeats=0), any_invariant)
            self.assertEqual((outcome.violation, outcome.trace[-1]), (violation, last), left_out)

    def test_each_invariant_is_of_use(self) -> None:
        """Each invariant alone finds a mistake."""
        for name, rule in (
            ("image", Rule(opener_reads_after_412=False)),
            ("next", Rule(acknowledges_prefix=False)),
            ("fence", Rule(writer_reads_after_412=False)),
            ("alone", Rule(head_is_compared=False)),
            ("numbers", Rule(numbers_go_on=False)),
        ):
            self.assertTrue(search(rule, Scope(repeats=0), INVARIANTS[name]).violation, name)
        self.assertEqual(len(INVARIANTS), 5)
