"""A volume as a backstore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txtcmu.errors import FencedError
from txtcmu.interfaces import IBackstore, IDiscard, IResizable, IVectoredBackstore, IWriteCache, IWriteZeroes
from txtcmu.iovec import gather
from txtcmu.results import as_deferred
from txtcmu.volume.slots import BLOCK
from txtcmu.volume.volume import Volume

__all__ = ["VolumeDisk"]


@implementer(IBackstore, IVectoredBackstore, IDiscard, IWriteZeroes, IResizable, IWriteCache)
class VolumeDisk:
    """A disk whose blocks live in a volume.

    A write is in memory only until a flush; then it, and every write before it, is in the store.

    :param closed: called when all is closed; may return a Deferred.
    :ivar write_cache: see :class:`~txtcmu.interfaces.IBackstore`.
    """

    read_only = False
    physical_block_size = BLOCK
    discard_granularity = BLOCK
    discard_zeroes = True

    def __init__(self, volume: Volume, closed: Callable[[], Any], *, write_cache: bool = True) -> None:
        self.write_cache = write_cache
        self._volume = volume
        self._closed = closed

    @property
    def size(self) -> int:
        """See :class:`~txtcmu.interfaces.IBackstore`."""
        return self._volume.size

    def read(self, offset: int, length: int) -> Any:
        """See :class:`~txtcmu.interfaces.IBackstore`."""
        data = bytearray(length)
        result = self._volume.read(offset, [memoryview(data)])
        return result.addCallback(lambda _: data) if isinstance(result, Deferred) else data

    def readv(self, offset: int, buffers: list[memoryview]) -> Deferred[int] | int:
        """See :class:`~txtcmu.interfaces.IVectoredBackstore`."""
        return self._volume.read(offset, buffers)

    def write(self, offset: int, data: memoryview) -> Deferred[None] | None:
        """See :class:`~txtcmu.interfaces.IBackstore`."""
        return self._volume.write(offset, data)

    def writev(self, offset: int, buffers: list[memoryview]) -> Deferred[None] | None:
        """See :class:`~txtcmu.interfaces.IVectoredBackstore`."""
        return self._volume.write(offset, gather(buffers))

    def discard(self, offset: int, length: int) -> Deferred[None] | None:
        """See :class:`~txtcmu.interfaces.IDiscard`."""
        return self._volume.discard(offset, length)

    def write_zeroes(self, offset: int, length: int) -> Deferred[None] | None:
        """See :class:`~txtcmu.interfaces.IWriteZeroes`: there is nothing that a hole could run out of."""
        return self._volume.discard(offset, length)

    def flush(self) -> Deferred[None]:
        """See :class:`~txtcmu.interfaces.IBackstore`."""
        return self._volume.flush()

    def cache_writes(self, on: bool) -> None:
        """See :class:`~txtcmu.interfaces.IWriteCache`."""
        self._volume.cache_writes(on)

    async def resize(self, size: int) -> None:
        """See :class:`~txtcmu.interfaces.IResizable`."""
        await self._volume.resize(size)

    async def close(self) -> None:
        """See :class:`~txtcmu.interfaces.IBackstore`."""
        try:
            await self._volume.close()
        except FencedError:
            pass  # whoever wrote or flushed what is lost has been told
        finally:
            self._volume.abandon()
            await as_deferred(self._closed())

    def abandon(self) -> None:
        """Stop without a word to the store, as a process that is killed."""
        self._volume.abandon()
