"""The data area from the kernel's side: pages handed out lowest first, and an eye on those handed back.

A page keeps what its last command left there.  A copy of each free page tells who wrote to it after its command
was over: on a real device that is another initiator's data, or a SIGBUS.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from txtcmu.testing.fakering import Report

__all__ = ["PAGE", "POISON", "DataArea", "untouched"]

PAGE = 4096

# No byte is zero or the complement of one, so that neither zeroes nor simple test patterns look like it; and no
# four bytes repeat inside it.
POISON = bytes.fromhex("a5d35e9c61b77a2fe8437d95c61b3ee2")
_POISONED_PAGE = POISON * (PAGE // len(POISON))
_RUN = 8  # so many untouched bytes in a row are no accident
_RUN_AT_END = 4


class DataArea:
    """A bitmap of pages over the data area.

    :param memory: the data area alone.
    :param base: its offset in the map, on which iovecs are based.
    :param fragment: hand out every other page first, so that buffers fall to pieces.
    :param report: called with one line for each rule broken.
    """

    def __init__(self, memory: memoryview, base: int, fragment: bool, report: Report) -> None:
        self._memory = memory
        self._base = base
        self._report = report
        self._shadow = bytearray(len(memory))
        self.pages = len(memory) // PAGE
        self.capacity = self.pages * PAGE
        self._order = [*range(0, self.pages, 2), *range(1, self.pages, 2)] if fragment else list(range(self.pages))
        self._free = [True] * self.pages
        self._high_water = 0
        self._poisoned = False

    def poison_free_pages(self) -> None:
        """From now on overwrite free pages with a pattern, and look for it in what initiators receive."""
        self.check(everything=True)
        self._poisoned = True
        for page, free in enumerate(self._free):
            if free:
                self._forget(page)

    def allocate(self, length: int) -> list[int] | None:
        """Take pages for ``length`` bytes; ``None`` if there are not enough."""
        count = -(-length // PAGE)
        if not count:
            return []
        pages = list(islice((page for page in self._order if self._free[page]), count))
        if len(pages) < count:
            return None
        for page in pages:
            self._check_run(page, page + 1)
            self._free[page] = False
        self._high_water = max(self._high_water, *(page + 1 for page in pages))
        return pages

    def release(self, pages: list[int], length: int, owner: str) -> None:
        """Take back the pages of a buffer of ``length`` bytes."""
        slack = length % PAGE
        if slack and pages:
            start, stop = pages[-1] * PAGE + slack, (pages[-1] + 1) * PAGE
            if bytes(self._memory[start:stop]) != self._shadow[start:stop]:
                self._report(f"page {pages[-1]} was written behind the end of the buffer of {owner}")
        for page in pages:
            self._free[page] = True
            self._forget(page)

    def iovecs(self, pages: list[int], length: int) -> list[tuple[int, int]]:
        """Describe a buffer; neighbouring pages become one iovec."""
        found: list[tuple[int, int]] = []
        previous = -2
        for page in pages:
            piece = min(length, PAGE)
            length -= piece
            if page == previous + 1:
                found[-1] = (found[-1][0], found[-1][1] + piece)
            else:
                found.append((self._base + page * PAGE, piece))
            previous = page
        return found

    def write(self, pages: list[int], data: bytes) -> None:
        """Copy Data-Out into a buffer."""
        for index, page in enumerate(pages):
            piece = data[index * PAGE : (index + 1) * PAGE]
            self._memory[page * PAGE : page * PAGE + len(piece)] = piece

    def read(self, pages: list[int], length: int) -> bytes:
        """Copy Data-In out of a buffer."""
        return b"".join(self._memory[page * PAGE : (page + 1) * PAGE] for page in pages)[:length]

    def check_filled(self, pages: list[int], data: bytes, owner: str) -> None:
        """Report poison in the Data-In ``data`` that was read from ``pages``."""
        if self._poisoned and data:
            at = untouched(data)
            if at is not None:
                self._report(f"Data-In of {owner} holds stale bytes of page {pages[at // PAGE]} from byte {at} on")

    def check(self, *, everything: bool = False) -> None:
        """Report every free page that was written to.

        :param everything: look at pages that no command has used yet, too (slow when the area is large).
        """
        for start, stop in self._free_runs(self.pages if everything else self._high_water):
            self._check_run(start, stop)

    @property
    def in_use(self) -> int:
        """How many pages commands hold."""
        return self._free.count(False)

    def _free_runs(self, limit: int) -> Iterator[tuple[int, int]]:
        start = 0
        while start < limit:
            if not self._free[start]:
                start += 1
                continue
            stop = start + 1
            while stop < limit and self._free[stop]:
                stop += 1
            yield start, stop
            start = stop

    def _check_run(self, start: int, stop: int) -> None:
        if bytes(self._memory[start * PAGE : stop * PAGE]) == self._shadow[start * PAGE : stop * PAGE]:
            return
        for page in range(start, stop):
            piece = slice(page * PAGE, (page + 1) * PAGE)
            found, expected = bytes(self._memory[piece]), self._shadow[piece]
            if found != expected:
                at = next(at for at in range(PAGE) if found[at] != expected[at])
                self._report(f"page {page} was written at byte {at} while it belonged to no command")
                self._shadow[piece] = found

    def _forget(self, page: int) -> None:
        piece = slice(page * PAGE, (page + 1) * PAGE)
        if self._poisoned:
            self._memory[piece] = _POISONED_PAGE
        self._shadow[piece] = self._memory[piece]


def untouched(data: bytes, start: int = 0) -> int | None:
    """Return where in ``data``, read from byte ``start`` of the data area, the poison still stands in its place."""
    # Where both agree the difference is zero; one big exclusive or beats a loop over bytes.
    phase = start % len(POISON)
    poison = (POISON * (len(data) // len(POISON) + 2))[phase : phase + len(data)]
    difference = (int.from_bytes(data) ^ int.from_bytes(poison)).to_bytes(len(data))
    at = difference.find(bytes(_RUN))
    if at < 0 and difference.endswith(bytes(_RUN_AT_END)):
        at = len(data) - _RUN_AT_END
    return None if at < 0 else at
