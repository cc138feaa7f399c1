r"""A disk on any web server that knows PUT and If-Match: `twist tcmu --handler http-blocks:url=http\://host/disks`.

`http-blocks/NAME` is one resource for each block, URL/NAME/0, URL/NAME/1 and so on, and URL/NAME/size.

What makes it a disk is the care for a PUT without an answer: after a timeout, a lost connection or a gateway's error
it may have been applied, or be applied an hour from now, on top of a newer write.  So each PUT is conditional on what
it replaces, and a write does not end before one of its PUTs is known to have succeeded: then the earlier ones are
certain to fail.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import BackstoreError, ConfigError, MediumError, NotReadyError
from txtcmu.factory import Factory
from txtcmu.interfaces import IBackstore
from txtcmu.threads import uncancellable

BLOCK = 16 << 10
VERSION = 16  # bytes behind each block that no other version of it has, so that no etag ever comes back
TIMEOUT = 10.0
PAUSE = 1.0

NOT_FOUND, PRECONDITION_FAILED = 404, 412


class OutcomeUnknownError(NotReadyError):
    """A PUT has no answer."""


class Server:
    """The resources below one URL."""

    def __init__(self, reactor: Any, url: str) -> None:
        self._url, self._pool = url, HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._http = HTTPClient(Agent(reactor, connectTimeout=TIMEOUT, pool=self._pool))  # type: ignore[no-untyped-call]
        self._reactor = reactor

    async def get(self, name: str) -> tuple[bytes, str] | None:
        """Return content and etag, or None when there is no such resource."""
        try:
            status, headers, content = await self._ask("GET", name)
        except Exception as error:
            raise NotReadyError(f"GET {self._url}/{name}: {error!r}") from error
        if status == NOT_FOUND:
            return None
        etag = headers.getRawHeaders("etag", [""])[0]
        if status != 200 or not etag:
            raise NotReadyError(f"GET {self._url}/{name}: status {status}, ETag {etag!r}")
        return content, etag

    async def put(self, name: str, content: bytes, replaces: str | None) -> bool:
        """Replace what has the etag `replaces`, or create; return whether it did, or was refused for the etag."""
        condition = {"If-None-Match": "*"} if replaces is None else {"If-Match": replaces}
        try:
            status, _, _ = await self._ask("PUT", name, data=content, headers=condition)
        except Exception as error:
            raise OutcomeUnknownError(f"PUT {self._url}/{name}: {error!r}") from error
        if status >= 500:  # it may come from a gateway that knows no more than we do
            raise OutcomeUnknownError(f"PUT {self._url}/{name}: status {status}")
        if status >= 300 and status != PRECONDITION_FAILED:
            raise BackstoreError(f"PUT {self._url}/{name}: status {status}")
        return status != PRECONDITION_FAILED

    def _ask(self, method: str, name: str, **more: Any) -> Deferred[tuple[int, Any, bytes]]:
        answer = Deferred.fromCoroutine(self._exchange(method, f"{self._url}/{name}", **more))
        return answer.addTimeout(TIMEOUT, self._reactor)

    async def _exchange(self, method: str, url: str, **more: Any) -> tuple[int, Any, bytes]:
        response = await self._http.request(method, url, reactor=self._reactor, allow_redirects=False, **more)
        return response.code, response.headers, await response.content()

    def close(self) -> Deferred[None]:
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        return closed


@implementer(IBackstore)
class HTTPDisk:
    read_only, physical_block_size = False, BLOCK

    def __init__(self, reactor: Any, server: Server, size: int) -> None:
        self.size, self._reactor, self._server = size, reactor, server

    async def read(self, offset: int, length: int) -> bytes:
        end, data = offset + length, bytearray()
        while offset < end:
            number, start = divmod(offset, BLOCK)
            block, _ = await self._load(number)
            data += block[start : start + end - offset]
            offset += BLOCK - start
        return bytes(data)

    def write(self, offset: int, data: memoryview) -> Deferred[None]:
        # A request cannot be recalled.  So an aborted write goes on, and lets go of its blocks when it has ended.
        return uncancellable(Deferred.fromCoroutine(self._write(offset, data)))

    async def _write(self, offset: int, data: memoryview) -> None:
        while data:
            number, start = divmod(offset, BLOCK)
            part = data[: BLOCK - start]
            await self._replace(number, start, part)
            offset, data = offset + len(part), data[len(part) :]

    async def _replace(self, number: int, start: int, part: memoryview) -> None:
        """Change a part of a block, whatever becomes of the single request."""
        doubt = False  # whether a PUT without an answer may still be applied
        while True:
            try:
                block, etag = await self._load(number)
                block[start : start + len(part)] = part
                if await self._server.put(str(number), bytes(block) + uuid4().bytes, etag):
                    return
            except OutcomeUnknownError:
                doubt = True
            except BackstoreError:
                if not doubt:
                    raise
            else:
                # Replaced meanwhile, by the PUT in doubt or by a write beside this one: once more, on top of that.
                doubt = False
                continue
            await deferLater(self._reactor, PAUSE)

    async def _load(self, number: int) -> tuple[bytearray, str | None]:
        found = await self._server.get(str(number))
        if found is None:
            return bytearray(BLOCK), None
        content, etag = found
        if len(content) != BLOCK + VERSION:
            raise MediumError(f"block {number} has {len(content)} bytes", number * BLOCK)
        return bytearray(content[:BLOCK]), etag

    def flush(self) -> None:
        """What is answered is as durable as the server makes it."""

    def close(self) -> Deferred[None]:
        return self._server.close()


def check(config: DeviceConfig) -> str | None:
    if config.options.get("url", "").startswith(("http://", "https://")):
        return None
    return (
        r"http-blocks: there is no server; use --handler http-blocks:url=http\://HOST/PATH, or the configuration file"
    )


def _server(parameters: DeviceParameters) -> Server:
    problem = check(parameters.config)
    if problem is not None:
        raise ConfigError(problem)
    return Server(parameters.reactor, f"{parameters.config.options['url'].rstrip('/')}/{parameters.config.path}")


async def create(parameters: DeviceParameters) -> None:
    server = _server(parameters)
    try:
        if not await server.put("size", str(parameters.size).encode(), None):
            raise ConfigError(f"http-blocks/{parameters.config.path} exists already; use another name")
    finally:
        await server.close()


async def open_disk(parameters: DeviceParameters) -> HTTPDisk:
    server = _server(parameters)
    try:
        found = await server.get("size")
        if found is None:
            make = f"txtcmu create http-blocks/{parameters.config.path} --new --size SIZE"
            raise ConfigError(f"http-blocks/{parameters.config.path} does not exist; make it: {make}")
        return HTTPDisk(parameters.reactor, server, int(found[0]))
    except BaseException:
        await server.close()
        raise


http_blocks = Factory(
    name="http-blocks",
    summary="a disk on a web server, one resource for each block",
    config_help="http-blocks/NAME\nurl=URL  of the server (not in dev_config, which takes no colon)",
    options=frozenset({"url"}),
    opener=open_disk,
    creator=create,
    checker=check,
)
