"""A disk in memory on which a test can break the ring: one completion goes under an id that no command has.

While the file :data:`TRIGGER` exists, writes are held until there are :data:`HELD` of them.  Then they all end, in one
batch, and the first of them under the wrong id, so that the kernel heeds none of the batch.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred

from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.factory import Factory
from txtcmu.kernel import abi
from txtcmu.kernel.ring import Command, Ring

TRIGGER = "/tmp/break-the-ring"
HELD = 8
_NOBODY = 0xFFF0


def break_next_completion() -> None:
    """Have the next completion of any ring go under the wrong id."""
    complete = Ring.complete

    def wrong(ring: Ring, command: Command, *args: Any, **options: Any) -> None:
        Ring.complete = complete  # type: ignore[method-assign]
        slot = next(offset for offset, request in ring._slots if request is not None)
        complete(ring, command, *args, **options)
        abi.CMD_ID.pack_into(ring._memory, ring._start + slot + abi.CMD_ID_OFFSET, _NOBODY)

    Ring.complete = wrong  # type: ignore[method-assign, assignment]


class Breaks(MemoryBackstore):
    """The disk."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters.size)
        self._held: list[Deferred[None]] = []

    def writev(self, offset: int, buffers: list[memoryview]) -> Any:
        """Write; while the trigger is there, tell later."""
        super().writev(offset, buffers)
        if not os.path.exists(TRIGGER):
            return None
        held: Deferred[None] = Deferred()
        self._held.append(held)
        if len(self._held) == HELD:
            os.unlink(TRIGGER)
            held_up, self._held = self._held, []
            break_next_completion()
            for each in held_up[:-1]:
                each.callback(None)
            return None
        return held


breaks = Factory(name="breaks", summary="a disk whose ring breaks", opener=Breaks)
