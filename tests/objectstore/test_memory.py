from __future__ import annotations

from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from tests.objectstore.storecontract import StoreContract
from txtcmu.interfaces import IObjectStore
from txtcmu.objectstore.memory import MemoryObjectStore


class MemoryObjectStoreTests(StoreContract, TestCase):
    """The store in memory keeps the contract."""

    def setUp(self) -> None:
        """Start with an empty store."""
        self.store = MemoryObjectStore()

    def test_interface(self) -> None:
        """It provides what it says."""
        verifyObject(IObjectStore, self.store)
