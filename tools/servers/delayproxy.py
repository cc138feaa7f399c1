"""A proxy before a real server, on 127.0.0.1, that adds a round-trip time and counts requests, and does nothing else.

Every byte of the server is delivered a delay after it arrived; those of the client pass at once.  For measurements:
it costs a fraction of what :mod:`tools.servers.faultproxy` does, which takes each message apart, and asyncio is half of
the reason.  ``python -m tools.servers.delayproxy PORT SECONDS`` serves until interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter, deque
from typing import Any, cast

from tools.servers.http1 import Framer

__all__ = ["DelayProxy"]

_HOST = "127.0.0.1"


class _Upstream(asyncio.Protocol):
    """A connection to the server, for one client."""

    transport: asyncio.Transport

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._client.proxy.later(self._client.transport, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.proxy.later(self._client.transport, None)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()


class _Client(asyncio.Protocol):
    """A client's connection."""

    transport: asyncio.Transport

    def __init__(self, proxy: DelayProxy) -> None:
        self.proxy = proxy
        self._upstream: _Upstream | None = None
        self._early = b""  # what came before there was somebody to pass it to
        self._framer = Framer(self._began, self._body, lambda: None)
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, self._upstream = await loop.create_connection(lambda: _Upstream(self), _HOST, self.proxy.target)
        except OSError:
            self.transport.close()
            return
        if self.transport.is_closing():
            self._upstream.transport.close()
        else:
            self._upstream.transport.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._upstream is None:
            self._early += data
        else:
            self._upstream.transport.write(data)
        self._framer.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.transport.close()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.transport.resume_reading()

    def _began(self, head: bytes) -> bool:
        self.proxy.counts[head.partition(b" ")[0].decode("ascii")] += 1
        return True

    def _body(self, data: bytes) -> None:
        self.proxy.counts["bytes"] += len(data)


class DelayProxy:
    """A proxy before the server on a port of 127.0.0.1.

    :param delay: seconds that all that the server sends is late.
    :ivar counts: requests by method, and ``bytes``: those of their bodies.
    """

    def __init__(self, target: int, delay: float) -> None:
        self.target = target
        self.delay = delay
        self.counts: Counter[str] = Counter()
        # The delay is the same for all, so what comes first is due first.
        self._line: deque[tuple[float, asyncio.Transport, bytes | None]] = deque()

    async def listen(self) -> tuple[int, int]:
        """Begin to serve; return the port, and another one that sends :attr:`counts`, as JSON, to whoever connects."""
        loop = asyncio.get_running_loop()
        servers: list[Any] = [
            await loop.create_server(lambda: _Client(self), _HOST, 0, backlog=1024),
            await asyncio.start_server(self._tell, _HOST, 0),
        ]
        port, counts = (server.sockets[0].getsockname()[1] for server in servers)
        return port, counts

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(self.counts).encode())
        writer.close()

    def later(self, client: asyncio.Transport, data: bytes | None) -> None:
        """Send ``data`` to a client when it is due; ``None`` hangs up."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.delay
        self._line.append((due, client, data))
        if len(self._line) == 1:
            loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        loop, line = asyncio.get_running_loop(), self._line
        now = loop.time()
        while line and line[0][0] <= now:
            _, client, data = line.popleft()
            if data is None:
                client.close()
            elif not client.is_closing():
                client.write(data)
        if line:
            loop.call_at(line[0][0], self._deliver)


async def _serve(target: int, delay: float) -> None:
    port, counts = await DelayProxy(target, delay).listen()
    print(f"port={port} counts={counts}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until a signal ends it; the first line of output are its ports."""
    parser = argparse.ArgumentParser(prog="python -m tools.servers.delayproxy", description=main.__doc__)
    parser.add_argument("port", type=int, help="the server's, on 127.0.0.1")
    parser.add_argument("delay", type=float, help="seconds that all that the server sends is late")
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.delay))


if __name__ == "__main__":
    main()
