"""What a volume knows of itself: where every block is, and what is in the store."""

from __future__ import annotations

from bisect import bisect_right

from attrs import define

from txtcmu.volume.blockmap import BlockMap
from txtcmu.volume.head import Epoch
from txtcmu.volume.inventory import Inventory
from txtcmu.volume.leaves import Directory
from txtcmu.volume.names import Names

__all__ = ["State"]


@define(eq=False)
class State:
    """The state of an open volume.

    :ivar blocks: where the blocks of the disk are stored.
    :ivar inventory: the objects of the log.
    :ivar directory: where the leaves of the map are stored.
    :ivar epochs: of every object in the inventory, in order.
    """

    names: Names
    blocks: BlockMap
    inventory: Inventory
    directory: Directory
    epochs: list[Epoch]

    def epoch_of(self, seq: int) -> int:
        """Return the number of the epoch that an object of the log belongs to."""
        return self.epochs[bisect_right(self.epochs, seq, key=lambda epoch: epoch.first) - 1].number

    def key_of(self, seq: int) -> str:
        """Return the key of an object of the log."""
        return self.names.log(self.epoch_of(seq), seq)
