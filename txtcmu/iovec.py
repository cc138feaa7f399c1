"""Moving bytes between plain buffers and the scattered windows of a command's data buffer.

A data buffer is a list of memoryviews, one after the other; their boundaries mean nothing and may fall
anywhere (the kernel cuts at pages, older ones inside a block).
"""

from __future__ import annotations

from collections.abc import Iterable

_ZEROES = bytes(1 << 20)


def gather(buffers: list[memoryview]) -> memoryview:
    """Return all of ``buffers`` as one: the window itself when there is just one, else a copy."""
    if len(buffers) == 1:
        return buffers[0]
    return memoryview(b"".join(buffers))


def scatter(data: bytes | bytearray | memoryview, buffers: Iterable[memoryview]) -> None:
    """Copy ``data`` into ``buffers``, dropping what does not fit and zeroing what is not covered."""
    source = memoryview(data).cast("B")
    at, end = 0, len(source)
    for buffer in buffers:
        room = len(buffer)
        if at + room <= end:
            buffer[:] = source[at : at + room]
        else:
            filled = max(0, end - at)
            buffer[:filled] = source[at:end]
            zero(buffer[filled:])
        at += room


def zero(buffer: memoryview) -> None:
    """Fill one buffer with zeroes."""
    for at in range(0, len(buffer), len(_ZEROES)):
        piece = buffer[at : at + len(_ZEROES)]
        piece[:] = _ZEROES[: len(piece)]


def zero_from(buffers: Iterable[memoryview], start: int) -> None:
    """Fill with zeroes everything behind the first ``start`` bytes of ``buffers``."""
    for buffer in buffers:
        if start < len(buffer):
            zero(buffer[max(0, start) :])
        start -= len(buffer)


def first(buffers: list[memoryview], length: int) -> list[memoryview]:
    """Return windows of the first ``length`` bytes of ``buffers``."""
    windows = []
    for buffer in buffers:
        if length <= 0:
            break
        windows.append(buffer[:length])
        length -= len(buffer)
    return windows


def first_difference(one: bytearray, other: memoryview) -> int | None:
    """Return the index of the first byte in which two of the same length differ, ``None`` when none does."""
    if one == other:
        return None
    start, end = 0, len(one)
    while end - start > 1:
        middle = (start + end) // 2
        if one[start:middle] == other[start:middle]:
            start = middle
        else:
            end = middle
    return start
