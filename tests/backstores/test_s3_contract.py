"""Disks in a bucket keep the contract of backstores: in memory, on the fake S3, on a real server."""

from __future__ import annotations

import os
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from tests.backstores.s3support import PREFIX
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.s3 import S3Factory
from txtcmu.backstores.s3blocks import S3Blocks
from txtcmu.backstores.s3disk import create_disk, open_disk
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.interfaces import IDiscard, IForceUnitAccess, IVectoredBackstore, IWriteZeroes
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.fakes3 import FakeS3


class DiskContract(BackstoreContract):
    companions = frozenset({IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes})


class MemoryTests(DiskContract, TestCase):
    object_size = 16 << 10

    def setUp(self) -> None:
        """Start with an empty store."""
        self.store: Any = MemoryObjectStore()

    async def make_backstore(self, size: int) -> S3Blocks:
        """Return a new disk."""
        await create_disk(self.store, PREFIX, size, self.object_size)
        return await self.open()

    async def open(self) -> S3Blocks:
        """Open the disk."""
        return await open_disk(
            self.store,
            PREFIX,
            owner=Owner.process("here", os.getpid()),
            takeover=False,
            now=reactor.seconds,
            log=Logger(),
            make="",
            honours_delete=self.honours_delete,
            closed=lambda: None,
        )

    async def honours_delete(self) -> bool:
        """Both stores do."""
        return True

    async def reopen(self, backstore: S3Blocks) -> S3Blocks:
        """Close and open."""
        await backstore.close()
        return await self.open()

    async def crash(self, backstore: S3Blocks) -> S3Blocks:
        """Open without closing: nothing is kept in memory."""
        return await self.open()


class FakeTests(MemoryTests):
    size = 1 << 20
    object_size = 64 << 10

    def setUp(self) -> None:
        """Start with an empty store."""
        self.store = FakeS3(Clock()).connect()


class SeaweedFSTests(DiskContract, TestCase):
    factory = S3Factory("here")  # for all tests: the bucket is probed once
    size = 2 << 20
    rounds = 40

    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs

    def parameters(self, size: int) -> DeviceParameters:
        """Return what the service would pass."""
        config = DeviceConfig("s3", f"{self.server.bucket}/{self.id()}", {"object_size": "64K"})
        config = config.with_defaults(self.server.options)
        return DeviceParameters(config, size, 512, reactor, Logger())

    async def make_backstore(self, size: int) -> S3Blocks:
        """Return a new disk."""
        await self.factory.create(self.parameters(size))
        disk: S3Blocks = await self.factory.open(self.parameters(size))
        return disk

    async def reopen(self, backstore: S3Blocks) -> S3Blocks:
        """Close and open."""
        await backstore.close()
        disk: S3Blocks = await self.factory.open(self.parameters(backstore.size))
        return disk

    async def crash(self, backstore: S3Blocks) -> S3Blocks:
        """Open without closing, as another daemon would; its idle connections must end with the test all the same."""
        self.addCleanup(backstore.close)
        self.factory._open.clear()
        disk: S3Blocks = await self.factory.open(self.parameters(backstore.size))
        return disk
