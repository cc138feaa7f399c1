"""Volumes for tests of ``txtcmu volume``: in memory and in a directory, written, damaged, and looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from click.testing import CliRunner, Result
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.cli.support import CommandTestCase, Factory
from txtcmu.backstores.dir import DirFactory
from txtcmu.backstores.volumeoptions import VOLUME_OPTIONS
from txtcmu.backstores.volumes import create_disk, new_writer
from txtcmu.cli import main
from txtcmu.errors import ConfigError
from txtcmu.interfaces import IVolumeHandler
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.objects import StoredObject
from txtcmu.results import as_deferred
from txtcmu.testing.reactor import FakeReactor
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry, Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

BLOCK = 4096
SIZE = 1 << 20
GEOMETRY = Geometry(batch_blocks=16, leaf_blocks=64)


@implementer(IPlugin, IVolumeHandler)
class MemoryVolumes(Factory):
    """A handler of volumes in one store, ``mem/PREFIX``."""

    name = "mem"
    options = VOLUME_OPTIONS | {"layout"}
    config_help = ""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self.store = store

    def connect(self, config: Any, reactor: Any) -> tuple[Any, str]:
        """Return the store."""
        return self.store, "" if config.path == "." else config.path.rstrip("/") + "/"

    def places(self, config: Any, reactor: Any) -> list[str]:
        """There is one store."""
        return [config.path]

    async def create(self, parameters: Any) -> None:
        """Make a volume."""
        _, prefix = self.connect(parameters.config, None)
        await create_disk(self.store, prefix, parameters, _honest)


async def _honest() -> None:
    """Be a store that is known."""


def run(function: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run a coroutine in a reactor in which time passes only while all wait."""
    reactor = FakeReactor()
    results: list[Any] = []
    as_deferred(function(reactor)).addBoth(results.append)
    for _ in range(1000):
        if results:
            break
        reactor.advance(1)
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


class VolumeTestCase(CommandTestCase):
    """A world with the handlers ``mem``, ``dir`` and ``test``; the last has no volumes."""

    def setUp(self) -> None:
        """Have an empty store."""
        super().setUp()
        self.store: Any = MemoryObjectStore()
        handlers: list[Any] = [MemoryVolumes(self.store), DirFactory(), self.factory]
        self.handlers = {each.name: each for each in handlers}
        self.world = evolve(self.world, factories=lambda: handlers, find=self.find, run=run)
        self.folder = Path(self.mktemp()).absolute()

    def find(self, name: str) -> Any:
        """Be the registry."""
        if name not in self.handlers:
            raise ConfigError(f"no handler {name}")
        return self.handlers[name]

    def volume(self, *arguments: str, answer: str = "") -> Result:
        """Run a verb of ``txtcmu volume``."""
        return CliRunner().invoke(main, ["volume", *arguments], obj=self.world, input=answer)

    def done(self, *arguments: str, status: int = 0) -> str:
        """Run a verb that must end with ``status``; return what it prints."""
        result = self.volume(*arguments)
        self.assertEqual(result.exit_code, status, result.output)
        return result.stdout

    def refused(self, *arguments: str, answer: str = "") -> str:
        """Run a verb that must fail with one line; return it."""
        result = self.volume(*arguments, answer=answer)
        self.assertEqual((result.exit_code, result.stdout), (1, ""), result.output)
        line = result.stderr.splitlines()[-1]
        self.assertIn("txtcmu: ", line)
        return line

    def write(
        self, prefix: str, *batches: dict[int, bytes], close: bool = True, checkpoint: bool = False, **who: Any
    ) -> None:
        """Write to the volume at ``prefix``, which is made if need be: each batch becomes one object of the log.

        :param batches: what is written to which blocks; empty bytes make a hole.
        :param close: close it, else die; ``checkpoint``: make one first.
        :param who: of the writer, what is different.
        """

        async def write(reactor: Any) -> None:
            if await self.store.head(f"{prefix}head") is None:
                await _create(self.store, prefix)
            writer: Writer = evolve(new_writer(), **who)
            keeper, replay = await take_over(self.store, prefix, writer, os.urandom, reactor, forced=True)
            volume = Volume(self.store, keeper, replay, reactor, Tuning())
            for batch in batches:
                for block, data in batch.items():
                    if data:
                        volume.write(block * BLOCK, memoryview(data.ljust(BLOCK, b"\0")))
                    else:
                        volume.discard(block * BLOCK, BLOCK)
                await volume.flush()
            if checkpoint:
                await volume.checkpoint()
            if close:
                await volume.close()
            volume.abandon()

        run(write)

    def read(self, prefix: str, block: int) -> bytes:
        """Return a block of a volume, without the zeroes at its end."""

        async def read(reactor: Any) -> bytes:
            keeper, replay = await take_over(self.store, prefix, new_writer(), os.urandom, reactor, forced=True)
            volume = Volume(self.store, keeper, replay, reactor, Tuning())
            data = bytearray(BLOCK)
            await as_deferred(volume.read(block * BLOCK, [memoryview(data)]))
            volume.abandon()
            return bytes(data).rstrip(b"\0")

        data: bytes = run(read)
        return data

    def keys(self, middle: str = "") -> list[str]:
        """Return the keys in the store that have ``middle`` in them, in order."""
        return sorted(key for key in self.store.objects if middle in key)

    def replace(self, key: str, data: bytes) -> None:
        """Have other bytes in an object."""
        self.store.objects[key] = StoredObject(key, os.urandom(8).hex(), len(data), data)

    def flip(self, key: str, at: int) -> None:
        """Flip a bit of an object."""
        data = bytearray(self.store.objects[key].data)
        data[at] ^= 0x10
        self.replace(key, bytes(data))

    def damage_head(self, key: str) -> None:
        """Flip a bit of a head where it stays a JSON text, whatever the names of this host and process are."""
        found = re.search(b'"uuid": "[^"]*?[^"2]', self.store.objects[key].data)  # a 2 would become a quote
        assert found
        self.flip(key, found.end() - 1)

    def truncate(self, key: str, size: int) -> None:
        """Cut an object short."""
        self.replace(key, self.store.objects[key].data[:size])


async def _create(store: Any, prefix: str) -> None:
    await create_volume(store, prefix, SIZE, new_writer(), os.urandom, GEOMETRY)
