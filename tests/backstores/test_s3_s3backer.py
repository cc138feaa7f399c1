"""s3backer reads what txtcmu wrote, and the other way round, over a real server."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from tools.servers.process import ServerError
from tools.servers.s3backer import S3Backer
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.backstores.s3disk import create_disk, open_disk
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError
from txtcmu.objectstore.s3 import connect
from txtcmu.objectstore.settings import S3Settings

BLOCK = 16 << 10
SIZE = 40 * BLOCK


class S3BackerTests(TestCase):
    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
        self.server = seaweedfs
        self.directory = tmp_path
        self.prefix = f"{tmp_path.name}/"
        self.mounts = 0
        self.random = Random(1)
        self.content = bytearray(SIZE)

    async def store(self) -> Any:
        """Return a connection, closed at the latest when the test ends."""
        config = DeviceConfig("s3", "x", self.server.options)
        store = await connect(reactor, S3Settings.from_config(config, self.server.bucket))
        self.addCleanup(store.close)
        return store

    async def create(self) -> None:
        """Make the disk."""
        await create_disk(await self.store(), self.prefix, SIZE, BLOCK)

    async def open(self, deletes: bool = True) -> S3Blocks:
        """Open the disk with txtcmu."""

        async def honours_delete() -> bool:
            return deletes

        return await open_disk(
            await self.store(),
            self.prefix,
            owner=Owner.process("here", os.getpid()),
            takeover=False,
            now=reactor.seconds,
            log=Logger(),
            make="",
            honours_delete=honours_delete,
            closed=lambda: None,
        )

    def mount(self, *options: str) -> S3Backer:
        """Mount the disk with s3backer; unmounted at the latest when the test ends."""
        self.mounts += 1
        mounted = S3Backer(self.server, self.directory / str(self.mounts), self.prefix, *options)
        self.addCleanup(mounted.kill)
        return mounted

    async def write(self, disk: S3Blocks, offset: int, data: bytes) -> None:
        """Write with txtcmu."""
        self.content[offset : offset + len(data)] = data
        await disk.write(offset, memoryview(data))

    def write_there(self, mounted: S3Backer, offset: int, data: bytes) -> None:
        """Write with s3backer."""
        self.content[offset : offset + len(data)] = data
        mounted.write(offset, data)

    def block(self, number: int) -> bytes:
        """Return what a block holds."""
        return bytes(self.content[number * BLOCK : (number + 1) * BLOCK])

    def junk(self, length: int) -> bytes:
        """Return bytes that are not zeroes."""
        return self.random.randbytes(length)

    async def blocks(self) -> set[int]:
        """Return the blocks that have an object."""
        page = await (await self.store()).list(self.prefix)
        return {int(each.key.removeprefix(self.prefix), 16) for each in page if "-" not in each.key}

    async def assert_same(self, disk: S3Blocks) -> None:
        """Assert that txtcmu reads what was written."""
        self.assertTrue(bytes(await disk.read(0, SIZE)) == self.content)

    async def test_back_and_forth(self) -> None:
        """Whoever writes, whole blocks or parts, data or zeroes, at the edges of the disk: the other one reads it."""
        await self.create()
        for _ in range(2):
            disk = await self.open()
            await self.assert_same(disk)
            await self.write(disk, 0, self.junk(512))
            await self.write(disk, 2 * BLOCK, self.junk(4 * BLOCK))
            await self.write(disk, 9 * BLOCK + 1024, self.junk(BLOCK))
            await self.write(disk, SIZE - 512, self.junk(512))
            await self.write(disk, 3 * BLOCK, bytes(BLOCK))
            await self.write(disk, 4 * BLOCK + 512, bytes(512))
            self.content[20 * BLOCK : 39 * BLOCK] = bytes(19 * BLOCK)
            await disk.discard(20 * BLOCK, 19 * BLOCK)
            await disk.close()
            self.assertEqual(await self.blocks(), {0} | {at for at in range(40) if any(self.block(at))})

            mounted = self.mount()  # it finds out block size and size by itself
            self.assertEqual(mounted.file.stat().st_size, SIZE)
            self.assertTrue(mounted.read() == self.content)
            self.write_there(mounted, 100, self.junk(100))
            self.write_there(mounted, 2 * BLOCK, bytes(BLOCK))
            self.write_there(mounted, 15 * BLOCK - 7, self.junk(BLOCK))
            self.write_there(mounted, 25 * BLOCK, self.junk(2 * BLOCK))
            self.write_there(mounted, SIZE - 5000, self.junk(5000))
            mounted.stop()
            self.assertNotIn(2, await self.blocks())
        disk = await self.open()
        await self.assert_same(disk)
        await disk.close()

    async def test_disk_of_s3backer(self) -> None:
        """A disk that s3backer made is opened with its block size and size, which are in its first block."""
        mounted = self.mount(f"--blockSize={BLOCK}", f"--size={SIZE}")
        self.write_there(mounted, BLOCK, self.junk(BLOCK))
        with self.assertRaisesRegex(ConfigError, "00000001; mount the disk with s3backer and write to its first block"):
            await self.open()
        self.write_there(mounted, 0, self.junk(3 * BLOCK + 1))
        mounted.stop()
        disk = await self.open()
        self.assertEqual((disk.size, disk.physical_block_size), (SIZE, BLOCK))
        await self.assert_same(disk)
        await disk.close()

    async def test_marker(self) -> None:
        """Neither opens what the other has open; what a dead one left is cleared as each one's line says."""
        await self.create()
        mounted = self.mount()
        with self.assertRaisesRegex(ConfigError, "s3backer has this disk mounted; unmount it, .*--reset-mounted-flag"):
            await self.open()
        mounted.kill()
        with self.assertRaisesRegex(ConfigError, "--reset-mounted-flag"):
            await self.open()
        S3Backer.reset_mounted_flag(self.server, self.directory, self.prefix)
        disk = await self.open()
        await self.write(disk, BLOCK, self.junk(BLOCK))
        with self.assertRaisesRegex(ServerError, "already mounted"):
            self.mount()
        # The daemon dies: nothing of it is left but the marker.
        S3Backer.reset_mounted_flag(self.server, self.directory, self.prefix)
        mounted = self.mount()
        self.assertTrue(mounted.read() == self.content)
        mounted.stop()

    async def test_traces_of_doubts(self) -> None:
        """A hole, left where it could not be removed, is an I/O error to s3backer until the block is written anew."""
        await self.create()
        disk = await self.open(deletes=False)
        await self.write(disk, 5 * BLOCK, self.junk(BLOCK))
        await self.write(disk, 5 * BLOCK, bytes(BLOCK))
        await disk.close()
        mounted = self.mount("--initialRetryPause=1", "--maxRetryPause=1")
        with self.assertRaises(OSError):
            mounted.read()
        mounted.stop()
        disk = await self.open()
        await self.assert_same(disk)
        await self.write(disk, 5 * BLOCK + 512, self.junk(512))
        await disk.close()
        mounted = self.mount()
        self.assertTrue(mounted.read() == self.content)
        mounted.stop()

    async def test_other_formats(self) -> None:
        """s3backer's disks of hashed names, compressed or encrypted, are refused, and no new one is made over them."""
        for option in ("--blockHashPrefix", "--compress"):
            mounted = self.mount(f"--blockSize={BLOCK}", f"--size={SIZE}", option)
            mounted.write(0, self.junk(BLOCK // 2) + bytes(BLOCK))
            mounted.stop()
            with self.assertRaises(ConfigError) as opening:
                await self.open()
            with self.assertRaises(ConfigError) as creating:
                await self.create()
            self.assertRegex(str(opening.exception), "blockHashPrefix" if "Hash" in option else "compressed")
            self.assertRegex(str(creating.exception), "exists")
            self.prefix += "next/"
