"""``dir/PATH``: volumes in a directory of this host, which needs no server."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from attrs import define
from twisted.plugin import IPlugin
from zope.interface import implementer

from txtcmu.backstores.volumeoptions import VOLUME_HELP, VOLUME_OPTIONS, VolumeOptions
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, NotReadyError, ObjectStoreError, StoreUnavailable
from txtcmu.interfaces import IVolumeHandler
from txtcmu.threads import run

__all__ = ["DirFactory"]


@implementer(IPlugin, IVolumeHandler)
@define(eq=False)
class DirFactory:
    """The handler ``dir``."""

    name = "dir"
    summary = "a volume in a directory of this host"
    config_help = f"""\
dir/PATH: the path is taken from the root.
{VOLUME_HELP}"""
    options = VOLUME_OPTIONS

    def check(self, config: DeviceConfig) -> str | None:
        """Say what is wrong with the options."""
        if importlib.util.find_spec("numpy") is None:
            return "dir needs the package numpy; install txtcmu[s3]"
        try:
            VolumeOptions.of(config)
        except ConfigError as error:
            return str(error)
        return None

    async def create(self, parameters: DeviceParameters) -> None:
        """Make a new, empty volume, and the directory if need be."""
        try:
            await run(parameters.reactor, os.makedirs, f"/{parameters.config.path}", exist_ok=True)
        except OSError as error:
            raise ConfigError(f"dir: cannot make /{parameters.config.path}: {error.strerror}") from None
        store = await self._connect(parameters)
        from txtcmu.backstores.volumes import create_disk
        from txtcmu.objectstore.probe import probe

        try:
            await create_disk(store, "", parameters, lambda: probe(store, ""))
        except ObjectStoreError as error:
            raise ConfigError(f"dir: {error}") from None
        finally:
            await store.close()

    async def open(self, parameters: DeviceParameters) -> Any:
        """Open the volume; make it when there is none."""
        store = await self._connect(parameters)
        from txtcmu.backstores.volumes import open_disk
        from txtcmu.objectstore.probe import probe

        try:
            return await open_disk(store, "", parameters, lambda: probe(store, ""), store.close)
        except BaseException as error:
            await store.close()
            if isinstance(error, StoreUnavailable):
                raise NotReadyError(str(error)) from None
            if isinstance(error, ObjectStoreError):
                raise ConfigError(f"dir: {error}") from None
            raise

    async def connect(self, config: DeviceConfig, reactor: Any) -> tuple[Any, str]:
        """See :class:`~txtcmu.interfaces.IVolumeHandler`."""
        problem = self.check(config)
        if problem is not None:
            raise ConfigError(problem)
        from txtcmu.objectstore.directory import connect

        return await connect(reactor, f"/{config.path}"), ""

    async def places(self, config: DeviceConfig, reactor: Any) -> list[str]:
        """See :class:`~txtcmu.interfaces.IVolumeHandler`: each store is a directory of its own."""
        return await run(reactor, _stores, f"/{config.path}")

    async def _connect(self, parameters: DeviceParameters) -> Any:
        try:
            return (await self.connect(parameters.config, parameters.reactor))[0]
        except StoreUnavailable as error:
            raise NotReadyError(str(error)) from None
        except ObjectStoreError as error:
            raise ConfigError(f"dir: {error}") from None


def _stores(path: str) -> list[str]:
    """Return the paths, without the slash at their beginning, of all stores at and below a directory."""
    found = []
    for folder, folders, _ in os.walk(path, onerror=_refuse):
        if {"objects", "temporary"} <= set(folders):
            found.append(folder.lstrip("/"))
            folders.clear()
        folders.sort()
    return found


def _refuse(error: OSError) -> None:
    raise ConfigError(f"dir: cannot look into {error.filename}: {error.strerror}")
