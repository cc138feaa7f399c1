"""What the sectors of a disk may hold while writes are in flight, and after writes whose outcome nobody knows.

A model for tests with many operations at a time.  Every write stamps each of its sectors with a value of its own,
so that a read tells which write it saw::

    change = sectors.begin_write(first, count)
    ...                                          # write change.data
    sectors.end_write(change, succeeded)
    look = sectors.begin_read(first, count)
    ...                                          # read
    problem = sectors.end_read(look, data)       # None, or one line

A sector holds the last write that succeeded, or one that overlapped it in time, or any since that was cancelled or
failed.  A read sees one of the values that were possible at some moment between its begin and its end; while a write
is in flight that may be part of the one and part of the other, as a page cache gives it.
"""

from __future__ import annotations

from struct import Struct

from attrs import define, field

__all__ = ["Change", "Look", "Sectors"]

_STAMP = Struct(">QQ")  # where it belongs, and which write it is of, each in a disguise that has no zero bytes
_DISGUISE = 0xA5D35E9C61B77A2F
_ANYWHERE = (1 << 64) - 1
_ZEROES = bytes(_STAMP.size)


def _stamp(sector: int, write: int) -> bytes:
    return _STAMP.pack(sector ^ _DISGUISE, write ^ _DISGUISE)


@define(eq=False)
class Change:
    """A write to ``count`` sectors from ``first`` on, from its begin to its end.

    :ivar data: what it writes, one stamp after the other.
    """

    first: int
    count: int
    data: bytes
    _stamps: list[bytes] = field(repr=False)
    _begun: int
    _ended: int | None = None

    def _stamp(self, sector: int) -> bytes:
        return self._stamps[(sector - self.first) % len(self._stamps)]


@define(eq=False)
class Look:
    """A read of ``count`` sectors from ``first`` on, from its begin to its end."""

    first: int
    count: int
    _begun: int
    _seen: list[tuple[Change, ...]] = field(repr=False)
    _during: list[Change] = field(factory=list, repr=False)


def _quiet(look: Look, changes: tuple[Change, ...]) -> bool:
    """Whether none of ``changes`` was in flight during ``look``."""
    return all(each._ended is not None and each._ended < look._begun for each in changes)


class Sectors:
    """The model of a disk of ``count`` sectors of zeroes, each of ``size`` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._repeat = size // _STAMP.size
        self._now = 0
        zeroes = Change(0, count, b"", [_ZEROES], 0, 0)
        self._possible: list[tuple[Change, ...]] = [(zeroes,)] * count
        self._looks: set[Look] = set()

    def begin_write(self, first: int, count: int, *, zeroes: bool = False, alike: bool = False) -> Change:
        """Begin a write with stamps of its own.

        :param zeroes: it writes zeroes, and has no data; ``alike``: all of its sectors have the same content, and
            ``data`` is that of one.
        """
        self._now += 1
        if zeroes:
            stamps = [_ZEROES]
        elif alike:
            stamps = [_stamp(_ANYWHERE, self._now)]
        else:
            stamps = [_stamp(sector, self._now) for sector in range(first, first + count)]
        data = b"" if zeroes else b"".join(stamp * self._repeat for stamp in stamps)
        change = Change(first, count, data, stamps, self._now)
        possible = self._possible
        for sector in range(first, first + count):
            possible[sector] = (*possible[sector], change)
        for look in self._looks:
            if look.first < first + count and first < look.first + look.count:
                look._during.append(change)
        return change

    def end_write(self, change: Change, succeeded: bool) -> None:
        """End a write.  One that succeeded replaces what had ended when it began; else nothing is known of it."""
        self._now += 1
        change._ended = self._now
        if not succeeded:
            return
        possible, begun = self._possible, change._begun
        for sector in range(change.first, change.first + change.count):
            possible[sector] = tuple(each for each in possible[sector] if each._ended is None or each._ended > begun)

    def begin_read(self, first: int, count: int) -> Look:
        """Begin a read."""
        self._now += 1
        look = Look(first, count, self._now, self._possible[first : first + count])
        self._looks.add(look)
        return look

    def end_read(self, look: Look, data: bytes | None, *, settles: bool = False) -> str | None:
        """End a read; return what is wrong with ``data`` (``None``: it failed, and says nothing).

        :param settles: what it saw stays so, where no write was in flight meanwhile: a write that was given up
            has let go.
        """
        self._looks.discard(look)
        if data is None:
            return None
        if len(data) != look.count * self.size:
            return f"a read of {look.count} sectors returned {len(data)} bytes"
        for number, seen in enumerate(look._seen):
            sector = look.first + number
            content = data[number * self.size : (number + 1) * self.size]
            if len(seen) == 1 and content == seen[0]._stamp(sector) * self._repeat:
                continue  # nearly always
            stamp = content[: _STAMP.size]
            possible = seen
            if look._during:
                possible += tuple(each for each in look._during if each.first <= sector < each.first + each.count)
            found = tuple(each for each in possible if each._stamp(sector) == stamp)
            if found and content == stamp * self._repeat:
                if settles and len(found) < len(possible) and _quiet(look, possible):
                    self._possible[sector] = found
            elif _quiet(look, possible) or not self._is_mixture(content, [each._stamp(sector) for each in possible]):
                return self._explain(sector, content)
        return None

    def _is_mixture(self, content: bytes, stamps: list[bytes]) -> bool:
        return all(byte in {stamp[at % _STAMP.size] for stamp in stamps} for at, byte in enumerate(content))

    def _explain(self, sector: int, content: bytes) -> str:
        place, write = (part ^ _DISGUISE for part in _STAMP.unpack_from(content))
        if content != content[: _STAMP.size] * self._repeat:
            return f"sector {sector} is torn or holds foreign bytes"
        if not any(content):
            return f"sector {sector} holds zeroes: a write was lost"
        if place not in (sector, _ANYWHERE):
            return f"sector {sector} holds what was written to sector {place}"
        return f"sector {sector} holds write {write}, which is out of date or was never sent"
