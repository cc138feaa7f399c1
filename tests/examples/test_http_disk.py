"""The disk on a web server is one, whatever becomes of single requests."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from examples import http_disk
from examples.http_disk import BLOCK, HTTPDisk, http_blocks
from tests.examples.support import parameters
from tests.examples.webserver import Disks, QuietSite
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import BackstoreError, ConfigError, MediumError, NotReadyError
from txtcmu.results import as_deferred
from txtcmu.testing.contract import BackstoreContract

_PATH = "/disks/one"


class _Served:
    """Starts a server for each test."""

    def serve(self: Any) -> None:
        """Listen on 127.0.0.1."""
        from twisted.internet import reactor

        self.reactor = reactor
        self.disks = Disks()
        self.site = QuietSite(self.disks)
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.url = f"http://127.0.0.1:{self.port.getHost().port}/disks"

    def parameters(self: Any, size: int | None) -> Any:
        """Return the parameters of a disk on the server."""
        return parameters("http-blocks/one", size, self.reactor, {"url": self.url})

    async def make_backstore(self, size: int) -> Any:
        """Make a disk and open it."""
        await as_deferred(http_blocks.create(self.parameters(size)))
        return await as_deferred(http_blocks.open(self.parameters(size)))


class HTTPDiskContractTests(_Served, BackstoreContract, TestCase):
    size = 1 << 20
    rounds = 60

    def setUp(self) -> None:
        """Start the server."""
        self.serve()

    async def reopen(self, backstore: Any) -> Any:
        """Open the same resources again."""
        await as_deferred(backstore.close())
        return await as_deferred(http_blocks.open(self.parameters(self.size)))


class FaultTests(_Served, TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        """Open a disk on a server, which it asks again at once when there is no answer."""
        self.serve()
        self.disk: HTTPDisk = await self.make_backstore(4 * BLOCK)
        self.addCleanup(self.disk.close)
        self.clock = Clock()  # of the timeouts
        self.disk._server._reactor = self.clock
        pause = patch.object(http_disk, "PAUSE", 0)
        pause.start()
        self.addCleanup(pause.stop)

    def put_faults(self, *faults: Any) -> None:
        """Have the next PUTs go wrong."""
        self.disks.faults["PUT"] += faults

    def write(self, data: bytes, at: int = 0) -> Deferred[None]:
        """Write."""
        return self.disk.write(at, memoryview(data))

    async def write_twice(self, data: bytes) -> None:
        """Have the first PUT of a write get no answer until its time is over."""
        self.put_faults("hang")
        arrived = self.disks.arrived
        write = self.write(data)
        await arrived
        self.clock.advance(http_disk.TIMEOUT)
        await write

    async def test_late(self) -> None:
        """A PUT that is applied an hour after its write has ended is refused, and a newer write stays."""
        await self.write_twice(b"old" * 512)
        await self.write(b"new" * 512)
        self.assertEqual(len(self.disks.hung), 1)
        self.disks.apply()
        self.assertEqual(await self.disk.read(0, 1536), b"new" * 512)

    async def test_late_and_the_same_again(self) -> None:
        """So it is when the block holds again what it held before, although its etag is a hash of the content."""
        await self.write(b"A" * 512)
        await self.write_twice(b"B" * 512)
        await self.write(b"A" * 512)
        self.disks.apply()
        self.assertEqual(await self.disk.read(0, 512), b"A" * 512)

    async def test_answer_lost(self) -> None:
        """A PUT that was applied although its answer was lost does no harm, whoever changed the block since."""
        self.put_faults("lose", "cut", 503)
        await gatherResults([self.write(b"a" * 512), self.write(b"b" * 512, 512), self.write(b"c" * 512, 1024)])
        self.assertEqual(await self.disk.read(0, 1536), b"a" * 512 + b"b" * 512 + b"c" * 512)

    async def test_cancelled_write(self) -> None:
        """A cancelled write goes on, and ends when it is known that its data is there."""
        self.put_faults("hang")
        arrived = self.disks.arrived
        write = self.write(b"x" * 512)
        await arrived
        write.cancel()
        self.assertFalse(write.called)
        request, body = self.disks.hung.pop()
        request.write(self.disks.put(request, body))
        request.finish()
        await write
        self.assertEqual(await self.disk.read(0, 512), b"x" * 512)

    async def test_cancelled_read(self) -> None:
        """A cancelled read ends at once: nobody waits for its answer, and nothing comes of it."""
        self.disks.faults["GET"].append("hang")
        arrived = self.disks.arrived
        read = as_deferred(self.disk.read(0, 512))
        await arrived
        read.addErrback(lambda _: "gone")
        read.cancel()
        self.assertEqual(await read, "gone")

    async def test_away(self) -> None:
        """Without a server, the disk is not ready: the device opens it again when it is back."""
        await self.disk.close()
        await as_deferred(self.port.stopListening())
        with self.assertRaises(NotReadyError):
            await self.disk.read(0, 512)
        with self.assertRaises(NotReadyError):
            await self.write(bytes(512))
        with self.assertRaises(NotReadyError):
            await as_deferred(http_blocks.open(self.parameters(4 * BLOCK)))

    async def test_refused(self) -> None:
        """A PUT that is refused for good is an error, once nothing is in doubt."""
        self.put_faults(403)
        with self.assertRaises(BackstoreError) as caught:
            await self.write(bytes(512))
        self.assertIn("status 403", str(caught.exception))
        self.put_faults("cut", 403, 403)
        await self.write(b"x" * 512)
        self.assertEqual(self.disks.faults["PUT"], [])

    async def test_foreign_block(self) -> None:
        """A resource of another length than a block is no data: MEDIUM ERROR, with the place."""
        self.disks.content[f"{_PATH}/1"] = b"<html>welcome</html>"
        with self.assertRaises(MediumError) as caught:
            await self.disk.read(BLOCK - 512, 1024)
        self.assertEqual(caught.exception.offset, BLOCK)

    async def test_no_etag(self) -> None:
        """A server without etags cannot hold a disk."""
        self.disks.get = lambda request: bytes(BLOCK + 16)  # type: ignore[method-assign]
        with self.assertRaises(NotReadyError) as caught:
            await self.disk.read(0, 512)
        self.assertIn("ETag ''", str(caught.exception))


class FactoryTests(_Served, TestCase):
    def setUp(self) -> None:
        """Start the server."""
        self.serve()

    async def test_size(self) -> None:
        """The disk knows its size, for whoever opens it without one."""
        await as_deferred(http_blocks.create(self.parameters(8 * BLOCK)))
        disk: Any = await as_deferred(http_blocks.open(self.parameters(None)))
        self.assertEqual(disk.size, 8 * BLOCK)
        await disk.close()

    async def test_made_once(self) -> None:
        """A disk that is there is not made again."""
        await as_deferred(http_blocks.create(self.parameters(8 * BLOCK)))
        with self.assertRaises(ConfigError):
            await as_deferred(http_blocks.create(self.parameters(BLOCK)))
        self.assertEqual(self.disks.content, {f"{_PATH}/size": b"131072"})

    async def test_missing(self) -> None:
        """One that is not there is not opened; the line says how to make it."""
        with self.assertRaises(ConfigError) as caught:
            await as_deferred(http_blocks.open(self.parameters(BLOCK)))
        self.assertIn("txtcmu create http-blocks/one --new --size SIZE", str(caught.exception))

    def test_no_server(self) -> None:
        """Without a URL nothing is opened or made."""
        self.assertIn("there is no server", str(http_blocks.check(DeviceConfig.parse("http-blocks/one"))))
        self.failureResultOf(as_deferred(http_blocks.open(parameters("http-blocks/one", BLOCK))), ConfigError)
