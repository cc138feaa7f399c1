"""The S3 store against a real server."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from tests.objectstore.storecontract import StoreContract
from tests.objectstore.wirecontract import WireContract
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ObjectStoreError
from txtcmu.objectstore.probe import probe
from txtcmu.objectstore.s3 import S3ObjectStore, connect
from txtcmu.objectstore.settings import S3Settings


class SeaweedFSTests(StoreContract, WireContract, TestCase):
    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs

    async def connect(self, **options: str) -> S3ObjectStore:
        """Return a store on the server, closed when the test ends."""
        config = DeviceConfig("s3", "x", {**self.server.options, **options})
        store = await connect(reactor, S3Settings.from_config(config, self.server.bucket))
        self.addCleanup(store.close)
        return store

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it, unittest would not
        """Connect, to a place of the test's own."""
        self.prefix = f"{self.id()}/"
        self.store: Any = await self.connect()

    async def test_connections_are_kept(self) -> None:
        """Requests share as many connections as may be open, and no more."""
        store = await self.connect(connections="4")
        made: list[Any] = []
        original = store._http._pool._newConnection

        def count(key: Any, endpoint: Any) -> Any:
            made.append(key)
            return original(key, endpoint)

        self.patch(store._http._pool, "_newConnection", count)
        await store.put(self.prefix + "key", b"data")
        for _ in range(3):
            await gatherResults([store.get(self.prefix + "key") for _ in range(12)])
            await gatherResults([store.put(self.prefix + str(number), b"data") for number in range(12)])
            await gatherResults([store.get(self.prefix + "missing") for _ in range(12)])
        self.assertLessEqual(len(made), 4)

    async def test_probe(self) -> None:
        """SeaweedFS honours all conditions, and the probe leaves nothing behind."""
        self.assertTrue(await probe(self.store, self.prefix))
        self.assertEqual(list(await self.store.list(self.prefix)), [])

    async def test_clear_lines(self) -> None:
        """The real server's refusals name their mends."""
        for options, word in (
            ({"secret_access_key": "wrong"}, "correct secret_access_key"),
            ({"access_key_id": "wrong"}, "correct access_key_id"),
        ):
            store = await self.connect(**options)
            with self.assertRaisesRegex(ObjectStoreError, word):
                await store.get("key")

    async def test_wrong_endpoints(self) -> None:
        """TLS with a server that has none, and another bucket than there is, are one line each."""
        store = await self.connect(endpoint=self.server.endpoint.replace("http:", "https:"))
        with self.assertRaisesRegex(ObjectStoreError, "no TLS; write the endpoint with http://"):
            await store.get("key")
        self.server = copy(self.server)
        self.server.bucket = "none-such"
        store = await self.connect()
        with self.assertRaisesRegex(ObjectStoreError, "NoSuchBucket: there is no such bucket; create it"):
            await store.get("key")

    async def test_wrong_clock(self) -> None:
        """A host whose clock is wrong goes by the server's."""
        for ahead in (7200.0, -7200.0):
            self.store._signer._ahead = ahead
            await self.store.put(self.prefix + "key", b"data")
            self.assertLess(abs(self.store._signer._ahead), 60)

    async def test_large_objects(self) -> None:
        """An object of many chunks comes back whole and in parts."""
        data = bytes(range(256)) * (20 << 10)
        receipt = await self.store.put(self.prefix + "large", data)
        found = await self.store.get(self.prefix + "large")
        self.assertTrue(found.data == data)
        self.assertEqual(found.etag, receipt.etag)
        found = await self.store.get(self.prefix + "large", (3 << 20) - 5, 4096)
        self.assertEqual(found.data, data[(3 << 20) - 5 :][:4096])
