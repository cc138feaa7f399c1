"""What each block's object was when last seen, and what it must not become again.

Every change of a block is conditional on the state last known: an etag, or absence.  So a request that lands late
finds another state and is refused, unless the block has come back to the very state that it waits for: equal
content has equal etags.  A state that a request of unknown outcome may still wait for *haunts* the block.  The
writer never returns a block to one: it gives the same content another etag, and zeroes a hole instead of absence.
(Nothing helps against a proxy that sends a request once more after its sender has had the good reply.)

What haunts a block is written into the metadata of its next object, and so survives eviction from this map and
the end of the process.  After an unclean end nobody knows which requests were under way; then the state in which
a block is first found haunts it, and so does the one that its object says it replaced.
"""

from __future__ import annotations

from txtcmu.backstores.blockformat import ABSENT, History
from txtcmu.objectstore.objects import StoredObject

__all__ = ["BlockStates"]

_MOST_HAUNTED = 24  # S3 allows 2 KiB of metadata


class BlockStates:
    """The states of the blocks seen last, about 150 bytes each.

    :param session: a name that no other session has.
    :param unclean: requests of an earlier session may still be under way.
    :param limit: how many blocks to remember.
    """

    def __init__(self, session: str, unclean: bool, limit: int = 1 << 17) -> None:
        self.session = session
        #: Grows with every change, so that a reader can tell whether what it found may be out of date.
        self.version = 0
        self._unclean = unclean
        self._limit = limit
        self._states: dict[int, str] = {}
        self._haunted: dict[int, tuple[str, ...]] = {}
        # Blocks whose object does not carry all that haunts them.
        self._unsettled: set[int] = set()

    def get(self, block: int) -> str | None:
        """Return the state of a block, ``None`` when it is unknown."""
        return self._states.get(block)

    def haunted(self, block: int) -> tuple[str, ...]:
        """Return the states that a block must not return to, the latest last."""
        return self._haunted.get(block, ())

    def present(self, first: int, last: int) -> list[int]:
        """Return the blocks from ``first`` up to ``last`` that are known to have an object."""
        return [block for block, state in self._states.items() if first <= block < last and state != ABSENT]

    @property
    def settled(self) -> bool:
        """Whether the store alone holds all that the next session must know."""
        return not self._unsettled

    def learn(self, block: int, found: StoredObject | None) -> None:
        """Take note of what a read found."""
        if found is None:
            state = ABSENT
            if self._unclean:
                self._haunt(block, ABSENT)
        else:
            state = found.etag
            history = History.of(found)
            self._haunt(block, *history.haunted)
            if self._unclean and history.session != self.session:
                self._haunt(block, history.was, state)
        self._set(block, state)

    def changed(self, block: int, was: str, state: str, doubts: int) -> None:
        """Take note of a change for certain, with so many attempts of unknown outcome."""
        self._unsettled.discard(block)
        self._set(block, state)
        if doubts:
            self.doubt(block, was)

    def doubt(self, block: int, was: str) -> None:
        """Take note that a request may be under way which waits for the state ``was``."""
        self._haunt(block, was)
        self._unsettled.add(block)

    def forget(self, block: int) -> None:
        """Take note that a block's state is not known any more."""
        self.version += 1
        self._states.pop(block, None)

    def _haunt(self, block: int, *states: str) -> None:
        if states:
            known = self.haunted(block)
            new = tuple(state for state in dict.fromkeys(states) if state not in known)
            self._haunted[block] = (known + new)[-_MOST_HAUNTED:]

    def _set(self, block: int, state: str) -> None:
        self.version += 1
        self._states.pop(block, None)
        self._states[block] = state
        if len(self._states) > self._limit:
            oldest = next(iter(self._states))
            del self._states[oldest]
            if oldest not in self._unsettled:
                self._haunted.pop(oldest, None)
