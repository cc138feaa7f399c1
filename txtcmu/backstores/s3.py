"""``s3/BUCKET/PREFIX``: disks in an S3 bucket.

What takes long to import is imported when the first disk is checked, made or opened.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from typing import Any

from attrs import Factory, define
from twisted.plugin import IPlugin
from zope.interface import implementer

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError, NotReadyError, ObjectStoreError, StoreUnavailable
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.objectstore.settings import CONNECTION_OPTIONS, SECRET_OPTIONS, S3Settings

__all__ = ["S3Factory"]

_NEEDED = ("botocore", "treq")
_LAYOUTS = ("blocks",)
_LAYOUT_OPTIONS = frozenset({"layout", "object_size", "takeover"})


@implementer(IPlugin, IBackstoreFactory)
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
    config_help = """\
s3/BUCKET/PREFIX: a disk whose objects' names begin with PREFIX/.  Endpoint and credentials belong into a profile.
layout=blocks              one object for each block, as s3backer --prefix=PREFIX/ has it; counts at creation
object_size=64K            bytes of a block, a power of two from 4K to 16M; counts at creation
takeover=yes               open a disk that another host or container has open, which must be dead
endpoint=URL               of the service, without a path (default: AWS)
region=NAME                (default: from AWS's environment and files, else us-east-1)
access_key_id=, secret_access_key=, session_token=
                           in the configuration file only (default: from AWS's environment and files)
aws_profile=NAME           a profile of AWS's files
addressing=path|virtual|auto
                           where the bucket's name goes (default auto: into the host name for AWS only)
connections=16             requests at the same time
request_timeout=10         seconds for one attempt of a small request"""
    options = CONNECTION_OPTIONS | _LAYOUT_OPTIONS
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
        settings, prefix, object_size = self._settings(parameters.config)
        from txtcmu.backstores.s3disk import create_disk
        from txtcmu.objectstore.s3 import connect

        try:
            store = await connect(parameters.reactor, settings)
            try:
                await create_disk(store, prefix, parameters.size, object_size)
            finally:
                await store.close()
        except ObjectStoreError as error:
            raise ConfigError(f"s3: {error}") from None

    async def open(self, parameters: Any) -> Any:
        """Open a disk that exists.

        Whoever gives no size only asks for it: such a disk is read-only, and opened without a marker in the bucket,
        so that nobody who serves it at the same time is disturbed.
        """
        config, asks = parameters.config, parameters.size is None
        settings, prefix, _ = self._settings(config)
        from txtcmu.backstores.blockowner import Owner
        from txtcmu.backstores.s3disk import open_disk
        from txtcmu.objectstore.s3 import connect

        try:
            store = await connect(parameters.reactor, settings)
        except StoreUnavailable as error:
            raise NotReadyError(str(error)) from None
        place = (store.settings.base, prefix)
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
                prefix,
                owner=Owner.process(self.host, os.getpid()),
                takeover=config.choice("takeover", ("no", "yes")) == "yes",
                now=parameters.reactor.seconds,
                log=parameters.log,
                honours_delete=lambda: self._probe(store, prefix),
                make=f"txtcmu create s3/{config.path} --new --size SIZE",
                closed=closed,
                read_only=asks,
            )
        except BaseException as error:
            closed()
            await store.close()
            if isinstance(error, StoreUnavailable):
                raise NotReadyError(str(error)) from None
            if isinstance(error, ObjectStoreError):
                raise ConfigError(f"s3: {error}") from None
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

    def _settings(self, config: DeviceConfig) -> tuple[Any, str, int]:
        """Return where the bucket is, the prefix of a disk's keys, and the size of a new one's blocks."""
        for module in _NEEDED:
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"s3 needs the package {module}; install txtcmu[s3]")
        from txtcmu.backstores.blockformat import MAX_BLOCK, MIN_BLOCK

        for option in sorted(config.own_options & self.secrets):
            raise ConfigError(
                f"s3: {option} does not belong into dev_config, which everybody can read; put it into a profile of the"
                " configuration file, or into AWS's environment or files"
            )
        config.choice("layout", _LAYOUTS)
        bucket, _, prefix = config.path.partition("/")
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        object_size = config.size("object_size", 64 << 10)
        if object_size & (object_size - 1) or not MIN_BLOCK <= object_size <= MAX_BLOCK:
            raise ConfigError(f"s3: object_size={object_size} must be a power of two from 4K to 16M")
        return S3Settings.from_config(config, bucket), prefix, object_size
