"""The proxy before a real S3 server: what passes, what fails, and when."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.objectstore.storecontract import StoreContract
from tests.objectstore.wirecontract import WireContract
from tools.servers.faultproxy import FaultProxy
from tools.servers.http1 import Framer, field
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.devconfig import DeviceConfig
from txtcmu.objectstore.retry import Later
from txtcmu.objectstore.s3 import S3ObjectStore, connect
from txtcmu.objectstore.settings import S3Settings
from txtcmu.testing.faults import Fault

LARGE = bytes(range(256)) * (12 << 10)


class FramerTests(SynchronousTestCase):
    def test_messages(self) -> None:
        """Messages are told apart however the bytes come, and come out as they went in."""
        messages = [
            b"PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nab\r\nc",
            b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ]
        stream = b"".join(messages)
        for size in (1, 2, 3, 7, len(stream)):
            seen: list[bytes] = [b""]

            def head(data: bytes, seen: list[bytes] = seen) -> bool:
                seen[-1] += data
                return True

            def body(data: bytes, seen: list[bytes] = seen) -> None:
                seen[-1] += data

            def ended(seen: list[bytes] = seen) -> None:
                seen.append(b"")

            framer = Framer(head, body, ended)
            for at in range(0, len(stream), size):
                framer.feed(stream[at : at + size])
            self.assertEqual(seen, [*messages, b""])

    def test_fields(self) -> None:
        """Names of fields are compared without case."""
        self.assertEqual(field(b"GET / HTTP/1.1\r\nContent-LENGTH:  7 \r\n\r\n", b"content-length"), b"7")
        self.assertIsNone(field(b"GET / HTTP/1.1\r\nX-Content-Length: 7\r\n\r\n", b"content-length"))


class _ProxyCase(TestCase):
    delay = 0.0
    store: Any

    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it, unittest would not
        """Connect through a proxy, to a place of the test's own."""
        self.proxy = FaultProxy(reactor, self.server.port, self.delay)
        self.addCleanup(self.proxy.stop)
        self.prefix = f"{self.id()}/"
        config = DeviceConfig("s3", "x", {**self.server.options, "endpoint": self.proxy.endpoint})
        self.store = await connect(reactor, S3Settings.from_config(config, self.server.bucket))
        self.addCleanup(self.store.close)


class PassingTests(StoreContract, WireContract, _ProxyCase):
    """Without faults nobody notices that there is a proxy."""

    async def test_large_bodies_and_many_connections(self) -> None:
        """Megabytes pass both ways, on many connections."""
        keys = [f"{self.prefix}{number}" for number in range(12)]
        await gatherResults([self.store.put(key, LARGE) for key in keys])
        for found in await gatherResults([self.store.get(key) for key in keys]):
            self.assertTrue(found.data == LARGE)


class DelayTests(_ProxyCase):
    delay = 0.05

    async def test_delay(self) -> None:
        """Each round trip takes longer by so much, and those at the same time do so at the same time."""
        await self.store.put(self.prefix + "key", LARGE)
        started = reactor.seconds()
        for _ in range(4):
            self.assertTrue((await self.store.get(self.prefix + "key")).data == LARGE)
        self.assertGreaterEqual(reactor.seconds() - started, 4 * self.delay)
        started = reactor.seconds()
        await gatherResults([self.store.get(self.prefix + "none") for _ in range(16)])
        self.assertLess(reactor.seconds() - started, 16 * self.delay)


class FaultTests(_ProxyCase):
    async def attempt(self, fault: Fault, method: str = "PUT", body: bytes = b"data", seconds: float = 5.0) -> Any:
        """Send one request that meets a fault; return the reply, or why there is none."""
        self.proxy.faults.append(fault)
        store: S3ObjectStore = self.store
        payload_hash = store._hash(body, True)[1]
        url = store.settings.url(self.prefix + "key")
        signed = await store._signer.sign(method, url, {"If-None-Match": "*"} if method == "PUT" else {}, payload_hash)
        try:
            return await store._http.exchange(method, url, signed, body, seconds)
        except Later as later:
            return later

    async def stored(self) -> bytes | None:
        """Return what is in the store."""
        found = await self.store.get(self.prefix + "key")
        return None if found is None else found.data

    async def test_refusals(self) -> None:
        """An error is answered, with or without the request being applied."""
        reply = await self.attempt(Fault.refuse(503, "SlowDown", retry_after="7"))
        self.assertEqual((reply.status, reply.headers["retry-after"]), (503, "7"))
        self.assertIn(b"<Code>SlowDown</Code>", reply.body)
        self.assertIsNone(await self.stored())
        self.assertEqual((await self.attempt(Fault(status=500, code="InternalError"))).status, 500)
        self.assertEqual(await self.stored(), b"data")

    async def test_lost(self) -> None:
        """A connection breaks before a request is applied, or after; or nobody answers."""
        self.assertIsInstance(await self.attempt(Fault.lose_request()), Later)
        self.assertIsNone(await self.stored())
        self.assertIsInstance(await self.attempt(Fault.hang(), seconds=0.1), Later)
        self.assertIsNone(await self.stored())
        self.assertIsInstance(await self.attempt(Fault.lose_reply()), Later)
        self.assertEqual(await self.stored(), b"data")

    async def test_late(self) -> None:
        """A request is applied when its sender has gone."""
        started = reactor.seconds()
        self.assertIsInstance(await self.attempt(Fault.late(0.4), seconds=0.1), Later)
        self.assertIsNone(await self.stored())
        while await self.stored() is None:
            self.assertLess(reactor.seconds() - started, 10)
        self.assertGreaterEqual(reactor.seconds() - started, 0.4)

    async def test_repeated(self) -> None:
        """A request is applied twice, and answered with what the second came to."""
        self.assertEqual((await self.attempt(Fault.repeat())).status, 412)
        self.assertEqual(await self.stored(), b"data")

    async def test_damaged(self) -> None:
        """Bits flip in a body, and replies end too soon; connections go on being used."""
        self.assertEqual((await self.attempt(Fault(), body=b"0123456789")).status, 200)
        self.assertEqual((await self.attempt(Fault(flip=0), "GET", b"")).body, b"1123456789")
        self.assertRegex(str(await self.attempt(Fault(truncate=3), "GET", b"")), "failed|came of")
        self.assertEqual((await self.attempt(Fault(answered=0.2), "GET", b"")).body, b"0123456789")

    async def test_server_that_is_away(self) -> None:
        """Where there is no server the connection ends."""
        proxy = FaultProxy(reactor, 1)
        self.addCleanup(proxy.stop)
        config = DeviceConfig("s3", "x", {**self.server.options, "endpoint": proxy.endpoint})
        store = await connect(reactor, S3Settings.from_config(config, self.server.bucket))
        self.addCleanup(store.close)
        for faults in ([], [Fault(answered=0.1)]):
            proxy.faults[:] = faults
            with self.assertRaises(Later):
                await store._http.exchange("GET", store.settings.url("key"), {}, b"", 5.0)
