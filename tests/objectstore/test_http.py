"""The S3 store on real connections: none is left behind, and none is trusted that was silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.server import Site
from zope.interface import directlyProvides, providedBy

from txtcmu.errors import ObjectStoreError
from txtcmu.objectstore.http import _Collector
from txtcmu.objectstore.retry import Patience
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault

reactor: Any = real_reactor


class CountingSite(Site):
    """A site that knows its connections.

    :ivar open: those that there are, and :ivar opened: how many there were.
    """

    noisy = False

    def __init__(self, resource: Any) -> None:
        super().__init__(resource)
        self.open: set[Any] = set()
        self.opened = 0
        self._waiting: list[Deferred[None]] = []

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's
        channel: Any = super().buildProtocol(addr)
        self.open.add(channel)
        self.opened += 1
        lost = channel.connectionLost

        def forget(reason: Any) -> None:
            self.open.discard(channel)
            lost(reason)
            if not self.open:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    each.callback(None)

        channel.connectionLost = forget
        return channel

    def empty(self) -> Deferred[None]:
        """Return a Deferred that fires when there is no connection."""
        waiting: Deferred[None] = Deferred()
        if self.open:
            self._waiting.append(waiting)
        else:
            waiting.callback(None)
        return waiting


class HandTimed(Clock):
    """The reactor's connections, with a time that passes only when the test says so, however slow the machine is."""

    def __init__(self) -> None:
        super().__init__()
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class RealCase(TestCase):
    """A fake S3 server behind a socket.

    :ivar clock: the reactor of the store, and of the server's faults.
    """

    timeout = 60
    clock: Any = reactor

    def setUp(self) -> None:
        """Serve."""
        self.fake = FakeS3(self.clock)
        self.site = CountingSite(self.fake)
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    def connect(self, scheme: str = "http", **settings: Any) -> Any:
        """Return a store that is closed, with its connections, when the test ends."""
        patience = Patience(self.clock, lambda: 0.0, total=1000.0)
        store = self.fake.connect(patience, endpoint=f"{scheme}://127.0.0.1:{self.port.getHost().port}", **settings)
        self.addCleanup(self.site.empty)
        self.addCleanup(store.close)
        return store


class ConnectionTests(RealCase):
    async def test_none_is_left_behind(self) -> None:
        """After a thousand faults there are no more connections than may idle, and none when the store is closed."""
        store = self.connect(connections=8, request_timeout=0.3)
        kinds = [
            Fault.refuse(500, "InternalError"),
            Fault.refuse(503, "SlowDown"),
            Fault.refuse(404, ""),
            Fault.refuse(400, "RequestTimeout"),
            Fault.lose_request(),
            Fault.lose_reply(),
            Fault(truncate=0),
            Fault(truncate=100),
            Fault(flip=1000),
            Fault.hang(),
        ]
        body = bytes(range(256)) * 256
        await store.put("key", body)
        for times in range(100):
            kind = kinds[times % len(kinds)]
            self.fake.faults += [evolve(each) for each in [*kinds[:-1], kind]]
        total = len(self.fake.faults)
        while any(fault.times for fault in self.fake.faults):  # type: ignore[union-attr]
            calls: list[Deferred[Any]] = [store.get("key", 100, 5000) for _ in range(8)]
            calls += [store.put(f"other/{number}", body) for number in range(4)]
            calls += [store.list("other/"), store.delete("other/3"), store.get("none")]
            calls[0].cancel()
            await DeferredList(calls, consumeErrors=True)
        self.assertEqual(total, 1000)
        self.assertLessEqual(len(self.site.open), 8)
        await store.close()
        await self.site.empty()

    async def test_cancelled_while_connecting(self) -> None:
        """A request that is cancelled before it has a connection ends, and is not made again."""
        store = self.connect()
        reading = store.get("key")
        reading.cancel()
        [(success, result)] = await DeferredList([reading], consumeErrors=True)
        self.assertFalse(success)
        self.assertTrue(result.check(CancelledError))
        self.assertEqual(self.fake.requests, [])

    async def test_reads_pass_large_writes(self) -> None:
        """Large bodies on their way to the store take a quarter of the connections; reads and small writes the rest."""
        store = self.connect(connections=8)
        await store.put("key", b"data")
        self.fake.faults.append(Fault.hang(key="large", times=100))
        writes = [store.put(f"large/{number}", bytes(600 << 10)) for number in range(16)]
        for _ in range(3):
            found = await gatherResults([store.get("key") for _ in range(16)])
            self.assertEqual({each.data for each in found}, {b"data"})
            await store.put("small", b"data")
        self.assertLessEqual(len(self.site.open), 8)
        self.assertEqual(self.fake.count("PUT", "large"), 2)
        for each in writes:
            each.cancel()
        await DeferredList(writes, consumeErrors=True)


class DeadlineTests(RealCase):
    """Requests that are not answered in time."""

    def setUp(self) -> None:
        """Serve, with the time in hand, and one object."""
        self.clock = HandTimed()
        super().setUp()
        self.store = self.connect()
        self.fake.objects.put("key", b"data")

    def arrival(self, count: int = 1) -> Deferred[None]:
        """Return a Deferred that fires when so many requests more have arrived."""
        arrived: Deferred[None] = Deferred()
        render, total = self.fake.render, len(self.fake.requests) + count

        def noting(request: Any) -> int:
            result = render(request)
            if len(self.fake.requests) == total:
                arrived.callback(None)
            return result

        self.patch(self.fake, "render", noting)
        return arrived

    async def test_silence_is_left(self) -> None:
        """After a request that hung the next attempt is made on a new connection, whatever idles beside it."""
        self.fake.faults.append(Fault(answered=1.0, times=3))
        arrived = self.arrival(3)
        reads = [self.store.get("key") for _ in range(3)]
        await arrived
        self.clock.advance(1.0)
        await gatherResults(reads)
        idle = set(self.site.open)
        self.assertEqual(len(idle), 3)
        self.fake.faults.append(Fault.hang())
        arrived = self.arrival()
        reading = self.store.get("key")
        await arrived
        self.clock.advance(3.0)
        self.assertEqual((await reading).data, b"data")
        self.assertFalse(idle & self.site.open)
        self.assertEqual((self.site.opened, self.fake.count("GET")), (4, 5))

    async def test_deadline_covers_the_body(self) -> None:
        """That a reply has begun does not count: one that stalls in its body is given up as well."""
        begun: Deferred[None] = Deferred()
        respond, received = self.fake._respond, _Collector.dataReceived

        def stall(request: Any, fault: Fault, answer: Any) -> None:
            self.patch(self.fake, "_respond", respond)
            request.setHeader("Content-Length", "4")
            request.write(b"da")

        def noting(collector: _Collector, data: bytes) -> None:
            received(collector, data)
            if not begun.called:
                begun.callback(None)

        self.patch(self.fake, "_respond", stall)
        self.patch(_Collector, "dataReceived", noting)
        reading = self.store.get("key")
        await begun
        self.clock.advance(3.0)
        self.assertEqual((await reading).data, b"data")
        self.assertEqual(self.fake.count("GET"), 2)


class TLSTests(RealCase):
    """Servers to which there is no TLS."""

    async def refused(self, mend: str) -> None:
        """Assert that the store cannot be used, and what the line says."""
        with self.assertRaises(ObjectStoreError) as caught:
            await self.connect("https").get("key")
        self.assertRegex(str(caught.exception), mend)

    async def test_unknown_authorities(self) -> None:
        """A certificate that is not trusted ends it at once, with a line that says how it would be."""
        self.port = reactor.listenSSL(0, self.site, _own_certificate(), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        await self.refused("certificate verify failed.*update-ca-certificates")

    async def test_https_on_an_http_port(self) -> None:
        """A server that speaks no TLS, and answers as most do, ends it at once as well."""
        self.port = reactor.listenTCP(0, Factory.forProtocol(Plain), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        await self.refused("no TLS; write the endpoint with http://")


def _own_certificate() -> Any:
    """Return a certificate for this host that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateOptions(key, certificate)  # type: ignore[arg-type]  # pyOpenSSL wants its own no more


class Plain(Protocol):
    """A web server to which a TLS handshake is a bad request, at once."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]
