"""The data area of ABI v1 from the kernel's side: a ring of bytes, freed in the order in which it was filled.

The kernel keeps no note of where a command's data is.  It hands out what follows the head, takes a completion's
Data-In from the tail, and moves the tail on by as much as the completed command had: whoever completes out of order
gives one initiator another one's data.
"""

from __future__ import annotations

from collections.abc import Iterator

from txtcmu.testing.fakedata import PAGE, POISON, untouched
from txtcmu.testing.fakering import Report

__all__ = ["DataRing"]


class DataRing:
    """In the place of :class:`~txtcmu.testing.fakedata.DataArea`: a buffer's ``pages`` are its first byte, or empty.

    :param memory: the data area alone.
    :param base: its offset in the map, on which iovecs are based.
    :param report: called with one line for each rule broken.
    """

    def __init__(self, memory: memoryview, base: int, report: Report) -> None:
        self._memory = memory
        self._base = base
        self._report = report
        self._size = len(memory)
        self._shadow = bytearray(memory)
        self._head = 0
        self._tail = 0
        self._allocated = 0  # and not yet written: nothing has happened
        self._poisoned = False

    @property
    def capacity(self) -> int:
        """Bytes of the longest buffer there can be; one stays free."""
        return self._size - 1

    @property
    def in_use(self) -> int:
        """How many pages it would take to hold what commands hold."""
        return -(-self._used // PAGE)

    @property
    def _used(self) -> int:
        return (self._head - self._tail) % self._size

    def poison_free_pages(self) -> None:
        """From now on overwrite free bytes with a pattern, and look for it in what initiators receive."""
        self.check()
        self._poisoned = True
        for start, stop in self._pieces(self._head, self._size - self._used):
            self._forget(start, stop)

    def allocate(self, length: int) -> list[int] | None:
        """Find room for ``length`` bytes; ``None`` if there is not enough.  :meth:`write` takes it."""
        if not length:
            return []
        if length > self.capacity - self._used:
            return None
        self._allocated = length
        return [self._head]

    def write(self, pages: list[int], data: bytes) -> None:
        """Take what was allocated, and copy Data-Out into it."""
        if pages:
            self.check()
            at = 0
            for start, stop in self._pieces(self._head, len(data)):
                self._memory[start:stop] = data[at : at + stop - start]
                at += stop - start
            self._head = (self._head + self._allocated) % self._size
            self._allocated = 0

    def release(self, pages: list[int], length: int, owner: str) -> None:
        """Free as many bytes at the tail, whoever has them."""
        if self._allocated:
            self._allocated = 0
        elif pages:
            for start, stop in self._pieces(self._tail, length):
                self._forget(start, stop)
            self._tail = (self._tail + length) % self._size

    def iovecs(self, pages: list[int], length: int) -> list[tuple[int, int]]:
        """Describe a buffer: one iovec for each page of the initiator's, two where the ring ends."""
        found: list[tuple[int, int]] = []
        for at in range(0, length, PAGE):
            pieces = self._pieces((pages[0] + at) % self._size, min(PAGE, length - at))
            found += [(self._base + start, stop - start) for start, stop in pieces]
        return found

    def read(self, pages: list[int], length: int) -> bytes:
        """Copy Data-In out of the tail, wherever the command's own buffer is."""
        return b"".join(self._memory[start:stop] for start, stop in self._pieces(self._tail, length))

    def check_filled(self, pages: list[int], data: bytes, owner: str) -> None:
        """Report poison in the Data-In ``data`` that was read."""
        if self._poisoned and data:
            at = untouched(data, self._tail)
            if at is not None:
                self._report(f"Data-In of {owner} holds stale bytes from byte {at} on")

    def check(self, *, everything: bool = False) -> None:
        """Report where free bytes were written to."""
        for start, stop in self._pieces(self._head, self._size - self._used):
            found, expected = bytes(self._memory[start:stop]), self._shadow[start:stop]
            if found != expected:
                at = next(at for at in range(stop - start) if found[at] != expected[at])
                self._report(f"byte {start + at} of the data area was written while it belonged to no command")
                self._shadow[start:stop] = found

    def _pieces(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where ``length`` bytes from ``start`` on are: before the end of the ring, and from its beginning."""
        to_end = min(length, self._size - start)
        if to_end:
            yield start, start + to_end
        if length > to_end:
            yield 0, length - to_end

    def _forget(self, start: int, stop: int) -> None:
        if self._poisoned:
            phase = start % len(POISON)
            self._memory[start:stop] = (POISON * ((stop - start) // len(POISON) + 2))[phase : phase + stop - start]
        self._shadow[start:stop] = self._memory[start:stop]
