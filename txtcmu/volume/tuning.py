"""What can be chosen at each opening of a volume."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Tuning"]


@frozen
class Tuning:
    """How a writer goes about it; nothing of this is stored.

    :ivar idle: seconds without a write after which a batch is closed, and :ivar age: since its first write.
    :ivar pending: batches that are closed and not durable, before writes have to wait.
    :ivar flushes: batches on their way before a flush shares the next with others.
    :ivar cache_blocks: blocks kept in memory.
    :ivar read_ahead_blocks: most blocks that are read before they are asked for.
    :ivar checkpoint_objects: most objects of the log that an opening has to replay.
    :ivar checkpoint_age: seconds until what has changed is in a checkpoint.
    """

    idle: float = 0.25
    age: float = 2.0
    pending: int = 16
    flushes: int = 2
    cache_blocks: int = 16384
    read_ahead_blocks: int = 2048
    checkpoint_objects: int = 4096
    checkpoint_age: float = 600.0
