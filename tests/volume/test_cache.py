"""Blocks in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txtcmu.volume.cache import BlockCache


class CacheTests(SynchronousTestCase):
    def test_least_recently_used(self) -> None:
        """What was not used for longest goes first."""
        cache = BlockCache(2)
        cache.put(1, b"one")
        cache.put(2, b"two")
        self.assertEqual(cache.get(1), b"one")
        cache.put(3, b"three")
        self.assertEqual((cache.get(1), cache.get(2), cache.get(3)), (b"one", None, b"three"))

    def test_object_is_let_go(self) -> None:
        """A block that is used does not keep the object in memory that it was written with."""
        cache = BlockCache(2)
        whole = bytearray(b"one two ")
        cache.put(1, memoryview(whole)[:4])
        cache.put(2, memoryview(whole)[4:])
        self.assertEqual(cache.get(1), b"one ")
        cache.put(3, b"three")
        whole += b"!"  # BufferError while anybody looks at it
        self.assertEqual(cache.get(1), b"one ")
