"""A handler of which part never answers: READs of the second half wait for ever.

``stuck/lets-go`` lets go of them when it is asked to, ``stuck/holds-on`` when the file that it names appears.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from txtcmu.factory import Factory
from txtcmu.interfaces import IBackstore
from txtcmu.threads import uncancellable

RELEASE = "/tmp/stuck-release"


@implementer(IBackstore)
class Stuck:
    """Zeroes, and a second half that hangs."""

    read_only = False
    physical_block_size = 512

    def __init__(self, parameters: Any) -> None:
        self.size = parameters.size
        self._holds_on = parameters.config.path == "holds-on"
        self._reactor = parameters.reactor

    def read(self, offset: int, length: int) -> Any:
        """Return zeroes, or nothing for ever."""
        if offset < self.size // 2:
            return bytes(length)
        if not self._holds_on:
            return Deferred()
        held: Deferred[bytes] = Deferred()

        def look() -> None:
            if os.path.exists(RELEASE):
                looking.stop()
                held.callback(bytes(length))

        looking = LoopingCall(look)
        looking.clock = self._reactor
        looking.start(0.1)
        return uncancellable(held)

    def write(self, offset: int, data: memoryview) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


stuck = Factory(name="stuck", summary="a disk that hangs", opener=Stuck)
