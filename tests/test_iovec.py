"""Moving bytes in and out of scattered windows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.iovec import first_difference, gather, scatter, zero, zero_from

lengths = st.lists(st.integers(0, 40), max_size=8)


def windows(sizes: list[int], fill: bytes = b"\xee") -> list[memoryview]:
    """Return windows of these sizes, each in the middle of memory of its own."""
    return [memoryview(bytearray(fill * (size + 2)))[1:-1] for size in sizes]


class IovecTests(SynchronousTestCase):
    def content(self, buffers: list[memoryview]) -> bytes:
        """Return the windows' bytes; fail when one outside of them has changed."""
        for buffer in buffers:
            memory = buffer.obj
            assert isinstance(memory, bytearray)
            self.assertEqual((memory[0], memory[-1]), (0xEE, 0xEE))
        return b"".join(buffers)

    @given(lengths, st.binary(max_size=200))
    def test_scatter(self, sizes: list[int], data: bytes) -> None:
        """Scatter fills the windows with the data, then with zeroes, and drops what does not fit."""
        for source in (data, bytearray(data), memoryview(data)):
            buffers = windows(sizes)
            scatter(source, buffers)
            self.assertEqual(self.content(buffers), data[: sum(sizes)].ljust(sum(sizes), b"\0"))

    def test_scatter_wide_items(self) -> None:
        """The data may be a memoryview of items wider than a byte."""
        buffers = windows([3, 5])
        scatter(memoryview(bytes(range(8))).cast("I"), buffers)
        self.assertEqual(self.content(buffers), bytes(range(8)))

    @given(lengths)
    def test_gather(self, sizes: list[int]) -> None:
        """Gather returns all bytes in order, and a copy unless there is just one window."""
        buffers = windows(sizes)
        for number, buffer in enumerate(buffers):
            buffer[:] = bytes([number]) * len(buffer)
        gathered = gather(buffers)
        self.assertEqual(gathered, b"".join(buffers))
        self.assertEqual(any(gathered is buffer for buffer in buffers), len(buffers) == 1)

    @given(lengths, st.integers(-3, 400))
    def test_zero_from(self, sizes: list[int], start: int) -> None:
        """Everything behind start is zero, everything before it as it was."""
        buffers = windows(sizes)
        zero_from(buffers, start)
        kept = min(max(start, 0), sum(sizes))
        self.assertEqual(self.content(buffers), b"\xee" * kept + bytes(sum(sizes) - kept))

    def test_zero_long(self) -> None:
        """A window longer than the block of zeroes is zeroed to its end."""
        for size in (0, 1, 1 << 20, (1 << 20) + 1, (3 << 20) - 1):
            [buffer] = windows([size])
            zero(buffer)
            self.assertEqual(self.content([buffer]), bytes(size))

    @given(
        st.binary(min_size=1, max_size=200), st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=4)
    )
    def test_first_difference(self, data: bytes, changes: list[tuple[int, int]]) -> None:
        """The first of all the bytes that differ is told, and none when nothing does."""
        other = bytearray(data)
        for at, byte in changes:
            other[at % len(other)] = byte
        differing = [at for at in range(len(data)) if data[at] != other[at]]
        self.assertEqual(first_difference(bytearray(data), memoryview(other)), min(differing, default=None))
