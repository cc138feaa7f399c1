"""The model of what sectors may hold: what it allows, what it tells apart."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txtcmu.testing.sectors import Change, Sectors

SIZE = 512


class SectorsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a disk of sixteen sectors."""
        self.sectors = Sectors(16, SIZE)

    def write(self, first: int, count: int, succeeded: bool = True) -> Change:
        """Write, alone."""
        change = self.sectors.begin_write(first, count)
        self.sectors.end_write(change, succeeded)
        return change

    def read(self, first: int, data: bytes, settles: bool = False) -> str | None:
        """Read, alone; return the problem."""
        look = self.sectors.begin_read(first, len(data) // SIZE)
        return self.sectors.end_read(look, data, settles=settles)

    def test_new(self) -> None:
        """A new disk holds zeroes."""
        self.assertIsNone(self.read(0, bytes(16 * SIZE)))
        self.assertIn("foreign", str(self.read(0, bytes(511) + b"x")))

    def test_last_write(self) -> None:
        """What succeeded last is there, and nothing older."""
        first, second = self.write(2, 4), self.write(3, 1)
        data = first.data[:SIZE] + second.data + first.data[2 * SIZE :]
        self.assertIsNone(self.read(2, data))
        self.assertIn("out of date", str(self.read(2, first.data)))
        self.assertIn("a write was lost", str(self.read(2, bytes(SIZE))))

    def test_wrong_place(self) -> None:
        """A sector of another place is told as such."""
        change = self.write(2, 2)
        self.assertIn("sector 2 holds what was written to sector 3", str(self.read(2, change.data[SIZE:])))

    def test_length(self) -> None:
        """A read that returns too little is a problem."""
        look = self.sectors.begin_read(0, 2)
        self.assertIn("returned 512 bytes", str(self.sectors.end_read(look, bytes(SIZE))))

    def test_failed_read(self) -> None:
        """A read that failed says nothing."""
        self.assertIsNone(self.sectors.end_read(self.sectors.begin_read(0, 2), None))

    def test_unknown_outcome(self) -> None:
        """A write that failed may be there or not, sector by sector, until a newer one succeeds."""
        old = self.write(0, 2)
        unknown = self.write(0, 2, succeeded=False)
        mixed = unknown.data[:SIZE] + old.data[SIZE:]
        for data in (old.data, unknown.data, mixed):
            self.assertIsNone(self.read(0, data))
        new = self.write(0, 2)
        self.assertIsNone(self.read(0, new.data))
        for data in (old.data, unknown.data, mixed):
            self.assertIn("out of date", str(self.read(0, data)))

    def test_no_flips(self) -> None:
        """What was seen of an unknown outcome stays so, once it is said to have settled."""
        old = self.write(0, 1)
        unknown = self.write(0, 1, succeeded=False)
        self.assertIsNone(self.read(0, old.data, settles=True))
        self.assertIn("out of date", str(self.read(0, unknown.data)))
        self.assertIsNone(self.read(0, old.data))

    def test_nothing_settles_in_flight(self) -> None:
        """While a write is in flight, what a read saw is no promise."""
        old = self.write(0, 1)
        change = self.sectors.begin_write(0, 1)
        for data in (change.data, old.data, change.data):
            self.assertIsNone(self.read(0, data, settles=True))
        self.sectors.end_write(change, False)
        self.assertIsNone(self.read(0, old.data))

    def test_read_meets_write(self) -> None:
        """A read sees old, new or a mixture of a write that began or ended meanwhile; nothing else."""
        old = self.write(0, 1)
        look = self.sectors.begin_read(0, 1)
        change = self.write(0, 1)
        self.assertIsNone(self.sectors.end_read(look, old.data))
        self.assertIn("out of date", str(self.read(0, old.data)))
        change = self.sectors.begin_write(0, 1)
        old = self.write(5, 1)
        self.assertIsNone(self.read(0, change.data))
        look = self.sectors.begin_read(0, 1)
        self.sectors.end_write(change, True)
        self.assertIn("a write was lost", str(self.sectors.end_read(look, bytes(SIZE))))

    def test_mixture(self) -> None:
        """A sector in pieces of old and new is right while the write is in flight, and wrong afterwards."""
        old = self.write(0, 1)
        change = self.sectors.begin_write(0, 1)
        mixture = change.data[:100] + old.data[100:]
        self.assertIsNone(self.read(0, mixture))
        self.assertIn("foreign", str(self.read(0, change.data[:100] + b"\x11" * 412)))
        self.sectors.end_write(change, True)
        self.assertIn("torn", str(self.read(0, mixture)))

    def test_overlapping_writes(self) -> None:
        """Of two writes that overlapped in time either may be the last one."""
        first = self.sectors.begin_write(0, 2)
        second = self.sectors.begin_write(1, 2)
        self.sectors.end_write(second, True)
        self.sectors.end_write(first, True)
        for data in (first.data[SIZE:], second.data[:SIZE]):
            self.assertIsNone(self.read(1, data))
        self.assertIn("lost", str(self.read(1, bytes(SIZE))))

    def test_zeroes_and_alike(self) -> None:
        """Zeroes are zeroes wherever they come from, and one block may be written to many places."""
        self.write(0, 16)
        change = self.sectors.begin_write(2, 3, alike=True)
        self.sectors.end_write(change, True)
        self.assertEqual(len(change.data), SIZE)
        self.assertIsNone(self.read(2, change.data * 3))
        change = self.sectors.begin_write(3, 1, zeroes=True)
        self.assertEqual(change.data, b"")
        self.sectors.end_write(change, True)
        self.assertIsNone(self.read(3, bytes(SIZE)))
        self.assertIn("lost", str(self.read(4, bytes(SIZE))))
