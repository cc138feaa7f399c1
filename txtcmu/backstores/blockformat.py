"""How a disk lies in a bucket, one object for each block: the layout of s3backer.

Block ``n`` is the object ``PREFIX%08x``; a block without one is zeroes.  Block 0 always exists, and its metadata
tell the disk's size.  Two things that s3backer does not know are left behind after requests of unknown outcome (and
holes where the store does not honour conditions on DELETE); the next write of the block replaces them, and s3backer
answers a read of such a block with an I/O error:

*A tail*: random bytes behind the block's own, which give the object an etag that its content alone would not have.

*A hole*: a short object that stands for zeroes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from secrets import token_bytes, token_hex

from attrs import frozen

from txtcmu.errors import ConfigError, MediumError
from txtcmu.objectstore.objects import StoredObject

__all__ = ["ABSENT", "MAX_BLOCK", "MIN_BLOCK", "BlockFormat", "History", "block_size_of"]

#: The state of a block that has no object, where other states are etags.
ABSENT = ""

MIN_BLOCK = 4 << 10
MAX_BLOCK = 16 << 20

_TAIL = 16
_NUMBER = re.compile(r"[0-9a-f]{8}")
_HASHED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}")
_FILE_SIZE = "s3backer-filesize"
_BLOCK_SIZE = "s3backer-blocksize"
_HMAC = "s3backer-hmac"
_HOLE = "txtcmu-hole"
_SESSION = "txtcmu-session"
_WAS = "txtcmu-was"
_HAUNTED = "txtcmu-haunted"
_ABSENT_TEXT = "absent"


@frozen
class BlockFormat:
    """The layout of one disk.

    :ivar prefix: what all keys begin with; s3backer's ``--prefix``.
    :ivar size: bytes of the disk.
    :ivar block_size: bytes of a block.
    """

    prefix: str
    size: int
    block_size: int

    def key(self, block: int) -> str:
        """Return the name of a block's object."""
        return f"{self.prefix}{block:08x}"

    def block(self, key: str) -> int | None:
        """Return the number of the block that an object is, ``None`` if it is none."""
        number = key.removeprefix(self.prefix)
        return int(number, 16) if _NUMBER.fullmatch(number) else None

    def is_hashed(self, key: str) -> bool:
        """Tell whether an object is a block as s3backer names it with ``--blockHashPrefix``, which txtcmu does not."""
        return _HASHED.fullmatch(key.removeprefix(self.prefix)) is not None

    def metadata(self, block: int, was: str, haunted: Sequence[str], session: str) -> dict[str, str]:
        """Return the metadata of a block that replaces the state ``was``, and must not return to ``haunted``."""
        metadata = {_WAS: was or _ABSENT_TEXT, _SESSION: session}
        if haunted:
            metadata[_HAUNTED] = " ".join(state or _ABSENT_TEXT for state in haunted)
        if block == 0:
            metadata[_FILE_SIZE] = str(self.size)
            metadata[_BLOCK_SIZE] = str(self.block_size)
        return metadata

    def hole(self, metadata: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        """Return body and metadata of a hole, whose etag no other object ever has."""
        return f"txtcmu hole {token_hex(16)}\n".encode(), {**metadata, _HOLE: "yes"}

    def with_tail(self, image: bytes) -> bytes:
        """Return a body of the same content with an etag of its own."""
        return image + token_bytes(_TAIL)

    def content(self, found: StoredObject | None, start: int, length: int) -> bytes | None:
        """Return ``length`` bytes of a block that was read from ``start`` on; ``None`` for zeroes.

        :raise MediumError: the object is not a block of this disk.
        """
        if found is None or _HOLE in found.metadata:
            return None
        problem = _foreign(found)
        if problem is None and found.size not in (self.block_size, self.block_size + _TAIL):
            problem = f"has {found.size} bytes where a block has {self.block_size}"
        if problem is None and len(found.data) < length:
            problem = "came back too short"
        if problem is not None:
            block = self.block(found.key) or 0
            raise MediumError(f"object {found.key} {problem}", block * self.block_size + start)
        return found.data[:length]


@frozen
class History:
    """What a block's object tells of its past.

    :ivar session: of the writer, ``""`` if that was not txtcmu.
    :ivar was: the state that it replaced, the object's own where that is not known.
    :ivar haunted: states that the block must not return to, the latest last.
    """

    session: str
    was: str
    haunted: tuple[str, ...]

    @classmethod
    def of(cls, found: StoredObject) -> History:
        """Read an object's metadata."""
        metadata = found.metadata
        haunted = tuple(_state(text) for text in metadata.get(_HAUNTED, "").split())
        return cls(metadata.get(_SESSION, ""), _state(metadata.get(_WAS, found.etag)), haunted)


def block_size_of(found: StoredObject) -> tuple[int, int]:
    """Return size and block size of the disk whose block 0 this is.

    :raise ConfigError: it is no disk that can be opened.
    """
    problem = _foreign(found)
    block_size = found.size
    if block_size & (block_size - 1):
        block_size -= _TAIL
    if problem is None and (block_size & (block_size - 1) or not MIN_BLOCK <= block_size <= MAX_BLOCK):
        problem = f"has {found.size} bytes, which is no block of {MIN_BLOCK} to {MAX_BLOCK}"
    size = found.metadata.get(_FILE_SIZE, "")
    if problem is None and not size.isdigit():
        problem = f"lacks the metadata {_FILE_SIZE}, so it is no disk of txtcmu or s3backer"
    if problem is not None:
        raise ConfigError(f"s3: object {found.key} {problem}; choose another prefix, or copy the disk anew")
    return int(size), block_size


def _state(text: str) -> str:
    return ABSENT if text == _ABSENT_TEXT else text


def _foreign(found: StoredObject) -> str | None:
    if found.encoding or _HMAC in found.metadata:
        return f"was compressed or encrypted by s3backer ({found.encoding or _HMAC}), which txtcmu does not undo"
    return None
