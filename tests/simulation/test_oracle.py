"""The oracle, on histories made by hand: each rule, kept and broken."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.oracle import Oracle, Violation
from tests.simulation.stamps import damage, expand, read_stamps, runs, stamped

SIZE = 64


class OracleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.oracle = Oracle(4 * SIZE, 2)
        self.see("create", size=SIZE)
        self.take_over(1, [[0, SIZE]])

    def see(self, event: str, **facts: Any) -> None:
        """Have the oracle see an event."""
        self.oracle.see({"t": 1.0, "event": event, **facts})

    def take_over(self, life: int, image: list[list[int]], size: int = SIZE) -> None:
        """Have a life become the writer."""
        self.see("open", life=life)
        self.see("takeover", life=life, size=size, image=image)

    def do(self, op: int, kind: str, sector: int = 0, count: int = 0, life: int = 1, **result: Any) -> None:
        """Have an operation begin and end."""
        self.see("submit", op=op, life=life, kind=kind, sector=sector, count=count)
        self.see("complete", op=op, **result)

    def refuses(self, rule: str, event: str, **facts: Any) -> None:
        """Check that an event breaks a rule."""
        violation = self.assertRaises(Violation, self.see, event, **facts)
        self.assertTrue(violation.rule.startswith(rule), violation)

    def write_twice(self) -> None:
        """Write sectors 0 to 15, and then 8 to 23."""
        self.do(1, "write", 0, 16)
        self.do(2, "write", 8, 16)

    def test_prefix(self) -> None:
        """After a takeover the disk may be any that there was, in the order of the writes."""
        for image in ([[0, 64]], [[1, 16], [0, 48]], [[1, 8], [2, 16], [0, 40]]):
            self.setUp()
            self.write_twice()
            self.take_over(2, image)

    def test_no_prefix(self) -> None:
        """A disk with the second write and without the first, or with a part of one, there never was."""
        for image in ([[0, 8], [2, 16], [0, 40]], [[1, 8], [0, 56]], [[-1, 1], [0, 63]]):
            self.setUp()
            self.write_twice()
            self.see("open", life=2)
            self.refuses("1", "takeover", life=2, size=SIZE, image=image)

    def test_long_write(self) -> None:
        """A write that is longer than a batch may be cut between blocks, and nowhere else."""
        self.do(1, "write", 0, 32)
        self.see("image", size=SIZE, image=[[1, 8], [0, 56]])
        self.refuses("1", "image", size=SIZE, image=[[1, 9], [0, 55]])

    def test_size(self) -> None:
        """The size is that of the prefix; of a resize that was refused nobody knows."""
        self.do(1, "resize", count=80)
        self.see("image", size=SIZE, image=[[0, 64]])
        self.refuses("1", "image", size=72, image=[[0, 72]])
        self.do(2, "write", 0, 8)
        self.refuses("1", "image", size=SIZE, image=[[2, 8], [0, 56]])
        self.do(3, "resize", count=96, error="StoreUnavailable", what="")
        self.do(4, "write", 0, 8)
        self.see("image", size=80, image=[[4, 8], [0, 72]])
        self.see("image", size=96, image=[[4, 8], [0, 88]])

    def test_flush(self) -> None:
        """What was completed before a flush was submitted is there for ever; what came later need not be."""
        self.do(1, "write", 0, 8)
        self.see("submit", op=2, life=1, kind="flush")
        self.do(3, "write", 8, 8)
        self.see("complete", op=2)
        self.see("image", size=SIZE, image=[[1, 8], [0, 56]])
        self.refuses("2", "image", size=SIZE, image=[[0, 64]])

    def test_flush_acknowledged_late(self) -> None:
        """An acknowledgement that comes after the next writer counts as well."""
        self.do(1, "write", 0, 8)
        self.see("submit", op=2, life=1, kind="flush")
        self.take_over(2, [[0, 64]])
        self.refuses("2", "complete", op=2)

    def test_lineage(self) -> None:
        """The next writer goes on from what it has found, and what its predecessor writes then is not there."""
        self.write_twice()
        self.take_over(2, [[1, 16], [0, 48]])
        self.do(3, "write", 0, 8, life=1)
        self.do(4, "write", 63, 1, life=2)
        self.take_over(3, [[1, 16], [0, 47], [4, 1]])
        self.refuses("1", "image", size=SIZE, image=[[3, 8], [1, 8], [0, 47], [4, 1]])

    def test_read(self) -> None:
        """A read finds what was completed, or what was under way with it; also zeroes."""
        self.write_twice()
        self.see("submit", op=3, life=1, kind="discard", sector=0, count=8)
        self.do(4, "read", 0, 16, data=[[1, 4], [0, 4], [2, 8]])
        self.see("complete", op=3)
        self.do(5, "read", 0, 16, data=[[0, 8], [2, 8]])

    def test_read_of_the_past(self) -> None:
        """A read that finds what was overwritten, or what was never there, is wrong."""
        for data in ([[1, 16]], [[0, 8], [2, 8]], [[3, 8], [2, 8]], [[1, 8], [-1, 8]], [[1, 8], [2, 7]]):
            self.setUp()
            self.write_twice()
            self.see("submit", op=3, life=1, kind="read", sector=0, count=16)
            self.refuses("3", "complete", op=3, data=data)

    def test_read_of_the_base(self) -> None:
        """A new writer reads what it has found, and one that was deposed its own disk."""
        self.write_twice()
        self.take_over(2, [[1, 16], [0, 48]])
        self.do(3, "read", 0, 16, life=2, data=[[1, 16]])
        self.do(4, "read", 0, 16, life=1, data=[[1, 8], [2, 8]])
        self.see("submit", op=5, life=2, kind="read", sector=0, count=16)
        self.refuses("3", "complete", op=5, data=[[1, 8], [2, 8]])

    def test_damage(self) -> None:
        """A block that was destroyed may be a medium error, and no other."""
        self.do(1, "write", 0, 16)
        self.see("destroyed", sector=3)
        self.do(2, "read", 0, 16, error="MediumError", what="", at=0)
        self.see("image", size=SIZE, image=[[-2, 8], [1, 8], [0, 48]])
        self.refuses("4", "image", size=SIZE, image=[[1, 8], [-2, 8], [0, 48]])
        self.see("submit", op=3, life=1, kind="read", sector=0, count=16)
        self.refuses("4", "complete", op=3, error="MediumError", what="", at=8)

    def test_failures(self) -> None:
        """An operation may fail as fenced when somebody else is there, and for no other reason."""
        self.see("submit", op=1, life=1, kind="flush")
        self.refuses("6", "complete", op=1, error="FencedError", what="")
        self.see("submit", op=2, life=1, kind="write", sector=0, count=1)
        self.refuses("6", "complete", op=2, error="KeyError", what="")
        self.see("open", life=2)
        self.do(3, "flush", error="FencedError", what="")

    def test_completion(self) -> None:
        """What ends twice, or not at all, is wrong; unless its writer died."""
        self.do(1, "flush")
        self.refuses("6", "complete", op=1)
        self.see("submit", op=2, life=1, kind="flush")
        self.see("calm")
        self.refuses("6", "end")
        self.see("crash", life=1)
        self.see("end")


class StampsTests(SynchronousTestCase):
    def test_stamps(self) -> None:
        """What was written is known again, wherever a sector is cut, altered, or in another place."""
        data = stamped(7, 10, 3)
        self.assertEqual(read_stamps(data, 10).tolist(), [7, 7, 7])
        self.assertEqual(read_stamps(data, 11).tolist(), [-1, -1, -1])
        data[512:1024] = bytes(512)
        data[-1] ^= 1
        self.assertEqual(read_stamps(data, 10).tolist(), [7, 0, -1])
        self.assertEqual(runs(read_stamps(data, 10)), [[7, 1], [0, 1], [-1, 1]])
        self.assertEqual(expand([[7, 2], [0, 1]]).tolist(), [7, 7, 0])

    def test_damage(self) -> None:
        """A stamped sector is found and damaged wherever it lies in an object, and nothing else is."""
        data = bytes(4112) + bytes(stamped(7, 16, 8)) + bytes(16)
        damaged = damage(data, 0.5)
        assert damaged is not None
        changed, at, sector = damaged
        self.assertEqual(read_stamps(changed[4112:-16], 16).tolist().index(-1), sector - 16)
        self.assertEqual([index for index in range(len(data)) if data[index] != changed[index]], [at])
        self.assertIsNone(damage(bytes(4112), 0.5))
