"""``s3/BUCKET/PREFIX``: disks in an S3 bucket.

What takes long to import is imported when the first disk is checked, made or opened.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from typing import Any

from attrs import Factory, define, frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from txtcmu.backstores.volumeoptions import VOLUME_HELP, VOLUME_OPTIONS, VolumeOptions
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError, NotReadyError, ObjectStoreError, StoreUnavailable
from txtcmu.interfaces import IVolumeHandler
from txtcmu.objectstore.settings import CONNECTION_OPTIONS, SECRET_OPTIONS, S3Settings

__all__ = ["S3Factory"]

_NEEDED = ("botocore", "numpy", "OpenSSL", "service_identity")
_LAYOUTS = ("log", "blocks")
_BLOCKS_OPTIONS = frozenset({"object_size"})
#: What a disk of the layout ``blocks`` would have to ignore.
_VOLUME_ONLY = VOLUME_OPTIONS - {"takeover"}


@frozen
class _Disk:
    """What a dev_config says of its disk.

    :ivar prefix: of its keys.
    :ivar layout: of a new one, and :ivar object_size: its blocks' if it is ``blocks``.
    """

    prefix: str
    layout: str
    object_size: int


@implementer(IPlugin, IVolumeHandler)
@define(eq=False)
class S3Factory:
    """The handler ``s3``.

    :cvar secrets: the options that only the configuration file may give.
    :ivar host: this machine's name, as others see it in the bucket; no two machines may have the same.
    """

    host: str = Factory(socket.gethostname)
    _open: set[tuple[str, str]] = Factory(set)
    # What is known of buckets: whether conditions on DELETE count, and whether etags go in quotes.
    _probed: dict[str, tuple[bool, bool]] = Factory(dict)

    name = "s3"
    summary = "a disk in an S3 bucket"
    config_help = (
        """\
s3/BUCKET/PREFIX: a disk whose objects' names begin with PREFIX/.  Endpoint and credentials belong into a profile.
layout=log                 a volume; counts at creation
"""
        + VOLUME_HELP
        + """
layout=blocks              one object for each block, as s3backer --prefix=PREFIX/ has it; counts at creation; of the
                           options above only takeover is for such a disk
object_size=64K            bytes of a block, a power of two from 4K to 16M; implies layout=blocks; counts at creation
endpoint=URL               of the service, without a path (default: AWS)
region=NAME                (default: from AWS's environment and files, else us-east-1)
access_key_id=, secret_access_key=, session_token=
                           in the configuration file only (default: from AWS's environment and files)
aws_profile=NAME           a profile of AWS's files
addressing=path|virtual|auto
                           where the bucket's name goes (default auto: into the host name for AWS only)
connections=64             requests at the same time; a quarter may carry 512K and more to the store
request_timeout=10         most seconds for one attempt of a small request: reads begin with 2, all else with 5,
                           and each has twice as long as the one before; a second more for a million bytes"""
    )
    options = CONNECTION_OPTIONS | VOLUME_OPTIONS | _BLOCKS_OPTIONS | {"layout"}
    secrets = SECRET_OPTIONS

    def check(self, config: Any) -> str | None:
        """Say what is wrong with a configuration, without a request to the store."""
        try:
            self._settings(config)
        except ConfigError as error:
            return str(error)
        return None

    async def create(self, parameters: Any) -> None:
        """Make a disk of zeroes."""
        settings, disk = self._settings(parameters.config)
        from txtcmu.backstores.s3disk import create_disk, find_block
        from txtcmu.backstores.volumes import create_disk as create_volume
        from txtcmu.backstores.volumes import refuse_volume
        from txtcmu.objectstore.s3 import connect

        try:
            store = await connect(parameters.reactor, settings)
            try:
                if disk.layout == "blocks":
                    await refuse_volume(store, disk.prefix, parameters.config)
                    await create_disk(store, disk.prefix, parameters.size, disk.object_size)
                else:
                    if await find_block(store, disk.prefix) is not None:
                        raise ConfigError(f"s3: {parameters.config.path} is a disk already; choose another prefix")
                    await create_volume(store, disk.prefix, parameters, lambda: self._probe(store, disk.prefix))
            finally:
                await store.close()
        except ObjectStoreError as error:
            raise ConfigError(f"s3: {error}") from None

    async def open(self, parameters: Any) -> Any:
        """Open a disk; make it if it is to be a volume and is not there.

        Whoever gives no size only asks for it, and leaves no trace in the bucket, so that nobody who serves the disk
        at the same time is disturbed.
        """
        settings, disk = self._settings(parameters.config)
        from txtcmu.objectstore.s3 import connect

        try:
            store = await connect(parameters.reactor, settings)
        except StoreUnavailable as error:
            raise NotReadyError(str(error)) from None
        try:
            if await self._layout(store, disk) == "blocks":
                return await self._open_blocks(store, disk, parameters)
            return await self._open_volume(store, disk, parameters)
        except BaseException as error:
            await store.close()
            if isinstance(error, StoreUnavailable):
                raise NotReadyError(str(error)) from None
            if isinstance(error, ObjectStoreError):
                raise ConfigError(f"s3: {error}") from None
            raise

    async def connect(self, config: DeviceConfig, reactor: Any) -> tuple[Any, str]:
        """See :class:`~txtcmu.interfaces.IVolumeHandler`."""
        settings, disk = self._settings(config)
        from txtcmu.objectstore.s3 import connect

        return await connect(reactor, settings), disk.prefix

    def places(self, config: DeviceConfig, reactor: Any) -> list[str]:
        """See :class:`~txtcmu.interfaces.IVolumeHandler`: a bucket is one store."""
        return [config.path]

    async def _layout(self, store: Any, disk: _Disk) -> str:
        """Return the layout of the disk that is there, or that is to be made."""
        from txtcmu.backstores.s3disk import block_zero, find_block
        from txtcmu.volume.names import head_key

        if await store.head(block_zero(disk.prefix)) is not None:
            return "blocks"
        if await store.head(head_key(disk.prefix)) is not None:
            return "log"
        # A disk of s3backer without its block 0 is no place for a volume.
        return "blocks" if await find_block(store, disk.prefix) is not None else disk.layout

    async def _open_volume(self, store: Any, disk: _Disk, parameters: Any) -> Any:
        from txtcmu.backstores.volumes import open_disk

        return await open_disk(store, disk.prefix, parameters, lambda: self._probe(store, disk.prefix), store.close)

    async def _open_blocks(self, store: Any, disk: _Disk, parameters: Any) -> Any:
        from txtcmu.backstores.blockowner import Owner
        from txtcmu.backstores.s3disk import open_disk

        config, asks = parameters.config, parameters.size is None
        for option in sorted(config.own_options & _VOLUME_ONLY):
            raise ConfigError(f"s3: {config.path} has layout=blocks, which has no option {option}; leave it out")
        place = (store.settings.base, disk.prefix)
        if not asks:
            if place in self._open:
                raise ConfigError(f"s3: {config.path} is open already in this daemon; a disk can be one LUN only")
            self._open.add(place)

        def closed() -> None:
            if not asks:
                self._open.discard(place)

        try:
            return await open_disk(
                store,
                disk.prefix,
                owner=Owner.process(self.host, os.getpid()),
                takeover=config.choice("takeover", ("no", "yes")) == "yes",
                now=parameters.reactor.seconds,
                log=parameters.log,
                honours_delete=lambda: self._probe(store, disk.prefix),
                make=f"txtcmu create s3/{config.path} --new --size SIZE",
                closed=closed,
                read_only=asks,
            )
        except BaseException:
            closed()
            raise

    async def _probe(self, store: Any, prefix: str) -> bool:
        """Try a bucket's honesty once in a daemon's life; it takes seconds."""
        from txtcmu.objectstore.probe import probe

        base = store.settings.base
        if base not in self._probed:
            deletes = await probe(store, prefix)
            self._probed[base] = (deletes, store.quote_etags)
        deletes, store.quote_etags = self._probed[base]
        return deletes

    def _settings(self, config: DeviceConfig) -> tuple[Any, _Disk]:
        """Return where the bucket is, and what disk is asked for."""
        for module in _NEEDED:
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"s3 needs the package {module}; install txtcmu[s3]")
        from txtcmu.backstores.blockformat import MAX_BLOCK, MIN_BLOCK

        for option in sorted(config.own_options & self.secrets):
            raise ConfigError(
                f"s3: {option} does not belong into dev_config, which everybody can read; put it into a profile of the"
                " configuration file, or into AWS's environment or files"
            )
        VolumeOptions.of(config)
        layout = config.choice("layout", _LAYOUTS)
        if "layout" not in config.options and "object_size" in config.own_options:
            layout = "blocks"
        elif layout == "log" and "object_size" in config.own_options:
            raise ConfigError("s3: option object_size is for layout=blocks; leave it out")
        bucket, _, prefix = config.path.partition("/")
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        object_size = config.size("object_size", 64 << 10)
        if object_size & (object_size - 1) or not MIN_BLOCK <= object_size <= MAX_BLOCK:
            raise ConfigError(f"s3: object_size={object_size} must be a power of two from 4K to 16M")
        return S3Settings.from_config(config, bucket), _Disk(prefix, layout, object_size)
