"""What a disk may do: judged from what its clients asked, and what they were answered, alone.

The rules, by number:

1. *Prefix*: whoever opens the volume sees the disk after the first k operations of the writer before him, and all that
   lies before those, for some k.  The order is that of arrival.
2. *Flush*: k covers whatever was completed before a flush was submitted that was acknowledged; also when the
   acknowledgement comes after the next writer has taken over.
3. *Read*: each sector of a READ is what the last write before it left there, or one that was under way at the
   same time.  A writer that was deposed may go on to see its own disk.
4. *Damage*: MEDIUM ERROR, only where every copy was destroyed.
5. *Leftovers*: in the end the store holds what can be reached, is clean to a check, and then gets no request.
6. *Completion*: each operation ends, once, and in time; and in failure only where there is a reason.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from tests.simulation.history import Event
from tests.simulation.stamps import LOST, TORN, Stamps, expand

__all__ = ["DEADLINE", "Oracle", "Violation"]

#: Seconds after the last fault by which everything has ended.
DEADLINE: Final = 120.0
_BLOCK: Final = 8  # sectors
_CHANGES: Final = ("write", "discard", "write zeroes", "resize")


class Violation(Exception):  # noqa: N818
    """A rule is broken.

    :ivar rule: its number and name.
    :ivar operation: and :ivar sector: that show it, if some do.
    """

    def __init__(self, rule: str, what: str, operation: int | None = None, sector: int | None = None) -> None:
        super().__init__(f"rule {rule}: {what}")
        self.rule = rule
        self.operation = operation
        self.sector = sector


@define
class _Change:
    """An operation that changes the disk: the ``index``-th of its writer."""

    operation: int
    kind: str
    start: int
    end: int
    index: int

    @property
    def stamp(self) -> int:
        return self.operation if self.kind == "write" else 0


@define(eq=False)
class _Life:
    """One writer, from its opening on.

    :ivar rivals: others who may want the volume, or have it: those not gone when this one became the writer, and later.
    :ivar base: the disk that it found, and :ivar size: its sectors; :ivar unsure: where the base cannot be known.
    :ivar done: for each sector, the last change of it that is completed, as one more than its index.
    :ivar zeroed: likewise, the last that made it zeroes, completed or not.
    :ivar flushed: how many changes an acknowledged flush covers.
    :ivar kept: how many its successor has found.
    :ivar sizes: what its disk may be as well, since a resize has failed.
    """

    number: int
    rivals: set[int]
    base: Stamps
    unsure: NDArray[np.bool_]
    done: NDArray[np.int64]
    zeroed: NDArray[np.int64]
    size: int = 0
    changes: list[_Change] = field(factory=list)
    completed: int = 0
    flushed: int = 0
    kept: int | None = None
    ended: bool = False
    sizes: set[int] = field(factory=set)


@define(eq=False)
class _Pending:
    life: _Life
    kind: str
    start: int
    end: int
    change: _Change | None
    done: Any  # of a read: what was completed when it was submitted; of a flush: how many changes


class Oracle:
    """Judges one history.

    :param capacity: the most sectors that the disk will have.
    :param batch: the most blocks of one write that are there all or not at all.
    """

    def __init__(self, capacity: int, batch: int) -> None:
        self._capacity = capacity
        self._batch = batch
        self._lives: dict[int, _Life] = {}
        self._pending: dict[int, _Pending] = {}
        self._ended: set[int] = set()
        self._destroyed = np.zeros(capacity, np.bool_)
        self._writer = self._life(0)
        self._calm: float | None = None
        # For each operation that writes: whose it is, and its index there, plus one.
        self._authors: NDArray[np.int64] = np.zeros((1024, 2), np.int64)

    def _life(self, number: int) -> _Life:
        sectors = self._capacity
        life = _Life(
            number,
            set(),
            np.zeros(sectors, np.int64),
            np.zeros(sectors, np.bool_),
            np.zeros(sectors, np.int64),
            np.zeros(sectors, np.int64),
        )
        self._lives[number] = life
        return life

    def see(self, event: Event) -> None:
        """Judge the next event.  :raise Violation: it must not be."""
        match event["event"]:
            case "create":
                self._writer.size = event["size"]
            case "open":
                for life in self._lives.values():
                    life.rivals.add(event["life"])
                self._life(event["life"])
            case "takeover":
                self._take_over(event)
            case "image":
                self._find_prefix(self._writer, event)
            case "submit":
                self._submit(event)
            case "complete":
                self._complete(event)
            case "crash" | "close":
                self._lives[event["life"]].ended = True
            case "destroyed":
                first = event["sector"] // _BLOCK * _BLOCK
                self._destroyed[first : first + _BLOCK] = True
            case "calm":
                self._calm = event["t"]
            case "end":
                self._end(event)

    # One writer after the other

    def _take_over(self, event: Event) -> None:
        """Somebody has become the writer: what he finds is what his predecessor leaves."""
        before, life = self._writer, self._lives[event["life"]]
        kept, base, unsure = self._find_prefix(before, event)
        before.kept = kept
        life.base, life.unsure, life.size = base, unsure, event["size"]
        life.rivals = {each.number for each in self._lives.values() if not each.ended and each.kept is None} - {
            life.number
        }
        self._writer = life

    def _find_prefix(self, life: _Life, event: Event) -> tuple[int, Stamps, NDArray[np.bool_]]:
        """Find out how many changes of ``life`` an image shows: as many as possible."""
        size = event["size"]
        image = np.zeros(self._capacity, np.int64)
        image[:size] = expand(event["image"])
        lost = image == LOST
        self._check_damage(np.flatnonzero(lost & ~self._destroyed), None)
        torn = np.flatnonzero(image == TORN)
        if len(torn):
            raise Violation("1 (prefix)", f"sector {torn[0]} is nothing that anybody wrote", sector=int(torn[0]))
        current, free = life.base.copy(), lost | life.unsure
        differs = (current != image) & ~free
        wrong, current_size = int(np.count_nonzero(differs)), life.size
        best, found = (wrong, 0, current_size), (0, current.copy()) if not wrong and current_size == size else None
        for change in life.changes:
            if change.kind == "resize":
                current_size = change.end
            # A write that does not fit into one batch may be cut in two at any block.
            cuts = change.kind == "write" and -(-change.end // _BLOCK) - change.start // _BLOCK > self._batch
            at = change.start if change.kind != "resize" else change.end
            while at < change.end:
                end = min(change.end, (at // _BLOCK + 1) * _BLOCK) if cuts else change.end
                wrong -= int(np.count_nonzero(differs[at:end]))
                current[at:end] = change.stamp
                differs[at:end] = (image[at:end] != change.stamp) & ~free[at:end]
                wrong += int(np.count_nonzero(differs[at:end]))
                at = end
                if cuts and not wrong and at < change.end and (current_size == size or size in life.sizes):
                    found = change.index, current.copy()
            if not wrong and (current_size == size or size in life.sizes):
                found = change.index + 1, current.copy()
            if wrong < best[0]:
                best = wrong, change.index + 1, current_size
        if found is None:
            self._no_prefix(life, image, size, free, best[1])
        assert found is not None
        kept, expected = found
        if kept < life.flushed:
            raise Violation(
                "2 (flush)",
                f"of writer {life.number}, {life.flushed} changes were flushed and {kept} are there",
                life.changes[life.flushed - 1].operation,
                life.changes[life.flushed - 1].start,
            )
        return kept, expected, lost | (life.unsure & (expected == life.base))

    def _no_prefix(self, life: _Life, image: Stamps, size: int, free: NDArray[np.bool_], best: int) -> None:
        expected, expected_size = life.base.copy(), life.size
        for change in life.changes[:best]:
            expected[change.start : change.end] = change.stamp
            expected_size = change.end if change.kind == "resize" else expected_size
        wrong = np.flatnonzero((expected != image) & ~free)
        if not len(wrong):
            raise Violation("1 (prefix)", f"the disk has {size} sectors instead of {expected_size}")
        shown = ", ".join(f"{at}: {image[at]} instead of {expected[at]}" for at in wrong[:6].tolist())
        raise Violation(
            "1 (prefix)",
            f"the disk is that after no number of changes of writer {life.number} (flushed {life.flushed}, made"
            f" {len(life.changes)}); after {best} it would be but for {len(wrong)} sectors ({shown})",
            sector=int(wrong[0]),
        )

    # Operations

    def _submit(self, event: Event) -> None:
        operation, life, kind = event["op"], self._lives[event["life"]], event["kind"]
        start = event.get("sector", 0)
        end = start + event.get("count", 0)
        change: _Change | None = None
        done: Any = None
        if kind in _CHANGES:
            change = _Change(operation, kind, start, end, len(life.changes))
            life.changes.append(change)
            if kind == "write":
                while operation >= len(self._authors):
                    self._authors = np.concatenate((self._authors, np.zeros_like(self._authors)))
                self._authors[operation] = life.number, change.index + 1
            elif kind != "resize":
                life.zeroed[start:end] = change.index + 1
        elif kind == "read":
            done = life.done[start:end].copy()
        else:
            done = life.completed
        self._pending[operation] = _Pending(life, kind, start, end, change, done)

    def _complete(self, event: Event) -> None:
        operation = event["op"]
        pending = self._pending.pop(operation, None)
        if pending is None:
            raise Violation("6 (completion)", f"operation {operation} has ended twice", operation)
        life, change = pending.life, pending.change
        if "error" in event:
            self._fail(event, pending)
        elif pending.kind == "read":
            self._read(operation, pending, expand(event["data"]))
        elif change is None:
            self._flush(operation, life, pending.done)
        else:
            life.completed = max(life.completed, change.index + 1)
            if change.kind != "resize":
                done = life.done[change.start : change.end]
                np.maximum(done, change.index + 1, out=done)

    def _flush(self, operation: int, life: _Life, covers: int) -> None:
        life.flushed = max(life.flushed, covers)
        if life.kept is not None and life.flushed > life.kept:
            raise Violation(
                "2 (flush)",
                f"writer {life.number} acknowledges a flush of {life.flushed} changes, and its successor has found"
                f" {life.kept}",
                operation,
                life.changes[life.flushed - 1].start,
            )

    def _read(self, operation: int, pending: _Pending, found: Stamps) -> None:
        life, start, end, done = pending.life, pending.start, pending.end, pending.done
        if len(found) != end - start:
            raise Violation("3 (read)", f"{len(found)} sectors come of {end - start}", operation, start)
        authors = self._authors[np.clip(found, 0, len(self._authors) - 1)]
        own = (found > 0) & (authors[:, 0] == life.number) & (authors[:, 1] >= done)
        zeroes = (found == 0) & (life.zeroed[start:end] >= done) & (life.zeroed[start:end] > 0)
        base = (done == 0) & ((found == life.base[start:end]) | (life.unsure[start:end] & (found != TORN)))
        wrong = np.flatnonzero(~(own | zeroes | base))
        if len(wrong):
            at = int(wrong[0])
            raise Violation(
                "3 (read)",
                f"writer {life.number} reads {found[at]} from sector {start + at}, where change {done[at]} of it"
                f" was completed (before it: {life.base[start + at]})",
                operation,
                start + at,
            )

    def _fail(self, event: Event, pending: _Pending) -> None:
        """Judge an operation that has ended in failure."""
        life, operation, error = pending.life, event["op"], event["error"]
        if error == "FencedError" and (life.rivals or life.ended):
            return
        if error == "MediumError" and pending.kind != "flush":
            first = pending.start // _BLOCK * _BLOCK
            last = -(-pending.end // _BLOCK) * _BLOCK
            named = event.get("at", first)
            if not first <= named < last:
                raise Violation("4 (damage)", f"operation {operation} fails for sector {named}", operation)
            self._check_damage(np.array([named]) if not self._destroyed[named] else np.zeros(0), operation)
            return
        if pending.kind in ("resize", "close") and error in ("ObjectStoreError", "StoreUnavailable"):
            if pending.change is not None:  # nothing is known of what was refused, if an attempt before it was lost
                life.sizes |= {life.size, *(change.end for change in life.changes if change.kind == "resize")}
            return
        raise Violation("6 (completion)", f"operation {operation} fails: {error}: {event['what']}", operation)

    def _check_damage(self, sectors: Any, operation: int | None) -> None:
        if len(sectors):
            at = int(sectors[0])
            raise Violation("4 (damage)", f"sector {at} cannot be read, and was not destroyed", operation, at)

    def _end(self, event: Event) -> None:
        """Everything has had its time."""
        assert self._calm is not None
        for operation, pending in self._pending.items():
            if not pending.life.ended:
                raise Violation(
                    "6 (completion)",
                    f"{pending.kind} {operation} has not ended {event['t'] - self._calm:.0f} s after the last fault",
                    operation,
                    pending.start,
                )
