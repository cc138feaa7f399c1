"""A disk in memory whose pieces are compressed: a backstore of coroutines, with its work in threads."""

from __future__ import annotations

import zlib

from twisted.internet.defer import DeferredLock
from zope.interface import implementer

from txtcmu.devconfig import DeviceParameters
from txtcmu.factory import Factory
from txtcmu.interfaces import IBackstore, IDiscard
from txtcmu.threads import run

PIECE = 64 << 10


@implementer(IBackstore, IDiscard)
class ZippedDisk:
    read_only, physical_block_size = False, PIECE
    discard_granularity, discard_zeroes = PIECE, True

    def __init__(self, parameters: DeviceParameters) -> None:
        assert parameters.size is not None
        self.size, self._reactor = parameters.size, parameters.reactor
        self._pieces: dict[int, bytes] = {}
        # Two writes that do not overlap may still change the same piece.
        self._turn = DeferredLock()

    async def read(self, offset: int, length: int) -> bytes:
        return b"".join([(await self._load(number))[part] for number, part in _parts(offset, length)])

    async def write(self, offset: int, data: memoryview) -> None:
        await self._replace(offset, data)

    async def discard(self, offset: int, length: int) -> None:
        await self._replace(offset, memoryview(bytes(length)))

    def flush(self) -> None:
        """Memory is as durable as it gets."""

    def close(self) -> None: ...

    async def _replace(self, offset: int, data: memoryview) -> None:
        # An abort is a CancelledError at an await: here that of the lock alone, where nothing has been done yet.  Those
        # of run() end when the thread has ended, and the write goes on; that is well, for nothing of it comes later.
        async with self._turn:
            for number, part in _parts(offset, len(data)):
                piece = bytearray(await self._load(number))
                piece[part], data = data[: part.stop - part.start], data[part.stop - part.start :]
                if any(piece):
                    self._pieces[number] = await run(self._reactor, zlib.compress, piece)
                else:
                    self._pieces.pop(number, None)

    async def _load(self, number: int) -> bytes:
        if number not in self._pieces:
            return bytes(PIECE)
        return await run(self._reactor, zlib.decompress, self._pieces[number])


def _parts(offset: int, length: int) -> list[tuple[int, slice]]:
    """Return which bytes of which pieces make up a range."""
    end, parts = offset + length, []
    while offset < end:
        number, start = divmod(offset, PIECE)
        stop = min(PIECE, start + end - offset)
        parts.append((number, slice(start, stop)))
        offset += stop - start
    return parts


zipped = Factory(name="zipped", summary="a compressed disk in memory, gone with the daemon", opener=ZippedDisk)
