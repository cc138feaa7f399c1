"""The storage that ``txtcmu try`` works on: made by the handler itself, and never one that holds anything.

Only what :class:`~txtcmu.interfaces.IBackstoreFactory` promises is used, so any handler can be tried; also one that
has nothing to make, or whose disks are gone when they are closed.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import BackstoreError, ConfigError
from txtcmu.interfaces import IBackstore, IBackstoreFactory, IResizable
from txtcmu.results import as_deferred

__all__ = ["Storage"]

_PIECE = 1 << 20
_MARK = bytes(range(1, 129)) * 32


class Storage:
    """Storage of one disk, reached through its factory.

    :ivar size: bytes of the disk.
    :ivar made: whether the factory's ``create`` has been called and succeeded: something may be left behind.
    """

    def __init__(
        self, factory: IBackstoreFactory, config: DeviceConfig, size: int, block_size: int, reactor: Any
    ) -> None:
        self.factory = factory
        self.config = config
        self.size = size
        self.block_size = block_size
        self.made = False
        self._reactor = reactor

    def __str__(self) -> str:
        return f"{self.config.handler}/{self.config.path}"

    def _parameters(self, size: int | None) -> DeviceParameters:
        return DeviceParameters(self.config, size, self.block_size, self._reactor, Logger(namespace="txtcmu.try"))

    async def make(self, overwrite: bool, size: int | None) -> None:
        """Make new storage; see that it holds nothing.

        :param overwrite: what is there may be used, and lost.
        :param size: what the person asked for; else storage that is there has the size that it has.
        :raise ConfigError: it cannot be used, or holds something.
        """
        try:
            await self._create()
            self.made = True
        except BackstoreError as error:
            raise ConfigError(f"{self}: {error}") from error
        except ConfigError as error:
            if not overwrite:
                raise ConfigError(f"{error}; if its data may be overwritten, say --overwrite") from error
            if size is None:
                self.size = await self._size_found()
        problem = await as_deferred(self.factory.check(self.config))
        if problem is not None:
            raise ConfigError(problem)
        try:
            await self._look(await self.open(), overwrite)
        except BackstoreError as error:
            raise ConfigError(f"{self}: {error}") from error

    async def _create(self) -> None:
        await as_deferred(self.factory.create(self._parameters(self.size)))

    async def _size_found(self) -> int:
        opened = await as_deferred(self.factory.open(self._parameters(None)))
        try:
            return int(getattr(opened, "size", self.size))
        finally:
            await as_deferred(opened.close())

    async def _look(self, backstore: Any, overwrite: bool) -> None:
        try:
            if not IBackstore.providedBy(backstore):
                raise ConfigError(
                    f"{self.config.handler} makes devices that are no plain disks: nothing here can try it"
                )
            if backstore.read_only:
                raise ConfigError(f"{self} is read-only: it cannot be tried")
            if backstore.size != self.size:
                raise ConfigError(f"{self} has {backstore.size} bytes: say --size {backstore.size}")
            if not overwrite and await self._written_pieces(backstore, first_only=True):
                raise ConfigError(f"{self} holds data; if that may be overwritten, say --overwrite")
        finally:
            await as_deferred(backstore.close())

    async def _written_pieces(self, backstore: Any, first_only: bool = False) -> list[tuple[int, int]]:
        """Return offset and length of pieces that are not all zeroes."""
        found = []
        for offset in range(0, backstore.size, _PIECE):
            length = min(_PIECE, backstore.size - offset)
            if bytes(await as_deferred(backstore.read(offset, length))).count(0) < length:
                found.append((offset, length))
                if first_only:
                    break
        return found

    async def open(self, size: int | None = None) -> Any:
        """Open the disk, of its own size by default."""
        return await as_deferred(self.factory.open(self._parameters(size or self.size)))

    async def fresh(self) -> Any:
        """Open the disk, with all of it zeroes as if it were new."""
        backstore = await self.open()
        if backstore.size != self.size and IResizable.providedBy(backstore):
            await as_deferred(backstore.resize(self.size))
        for offset, length in await self._written_pieces(backstore):
            await as_deferred(backstore.write(offset, memoryview(bytes(length))))
        return backstore

    async def survives(self) -> bool:
        """Whether what was written and flushed is there after a close.

        :raise ConfigError: it is not, although the factory says that the storage is still there; or that a second
            ``create`` has touched it.
        """
        backstore = await self.fresh()
        await as_deferred(backstore.write(0, memoryview(bytearray(_MARK))))
        await as_deferred(backstore.flush())
        await as_deferred(backstore.close())
        survived = await self._marked()
        try:
            await self._create()
            exists = False
        except ConfigError:
            exists = True
        if exists and not survived:
            raise ConfigError(f"{self} is still there after a close, but what was written and flushed is not")
        if survived and not await self._marked():
            raise ConfigError(f"{self.config.handler}: create has touched storage that was there")
        return survived

    async def _marked(self) -> bool:
        backstore = await self.open()
        try:
            return bytes(await as_deferred(backstore.read(0, len(_MARK)))) == _MARK
        finally:
            await as_deferred(backstore.close())
