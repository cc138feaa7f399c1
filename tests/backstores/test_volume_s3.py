"""Volumes on real S3 servers: the contract, and ``txtcmu volume`` in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from tools.servers.radosgw import RadosGW
from tools.servers.s3server import S3Server
from tools.servers.seaweedfs import SeaweedFS
from txtcmu.backstores import volumes
from txtcmu.backstores.s3 import S3Factory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.interfaces import IDiscard, IResizable, IVectoredBackstore, IWriteZeroes
from txtcmu.testing.contract import BackstoreContract

BLOCK = 4096


if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class OnServer(_Base):
    factory = S3Factory("here")  # for all tests: each bucket is probed once
    server: S3Server

    def parameters(self, size: int) -> DeviceParameters:
        """Return what the service would pass."""
        config = DeviceConfig("s3", f"{self.server.bucket}/{self.id()}", {"batch": "256K", "cache": "256K"})
        return DeviceParameters(config.with_defaults(self.server.options), size, 512, reactor, Logger())


class OnSeaweedFS(OnServer):
    @pytest.fixture(autouse=True)
    def _start(self, seaweedfs: SeaweedFS) -> None:
        self.server = seaweedfs


class OnRadosGW(OnServer):
    @pytest.fixture(autouse=True)
    def _start(self, radosgw: RadosGW) -> None:
        self.server = radosgw


class VolumeContract(BackstoreContract, OnServer):
    companions = frozenset({IVectoredBackstore, IDiscard, IWriteZeroes, IResizable})
    size = 2 << 20
    rounds = 20

    async def make_backstore(self, size: int) -> Any:
        """Return a new disk."""
        return await self.factory.open(self.parameters(size))

    async def reopen(self, backstore: Any) -> Any:
        """Close and open."""
        await backstore.close()
        return await self.factory.open(self.parameters(backstore.size))

    async def crash(self, backstore: Any) -> Any:
        """Open without closing, as another daemon would; its idle connections must end with the test all the same."""
        backstore.abandon()
        self.addCleanup(backstore._closed)
        volumes._open.clear()
        return await self.factory.open(self.parameters(backstore.size))


class SeaweedFSTests(VolumeContract, OnSeaweedFS, TestCase):
    pass


class RadosGWTests(VolumeContract, OnRadosGW, TestCase):
    pass


class Life(OnServer):
    def txtcmu(self, *arguments: str, status: int = 0) -> str:
        """Run a verb of ``txtcmu volume`` while nothing else runs here."""
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                "from txtcmu.cli import main; main()",
                "volume",
                *arguments,
                "--config",
                str(self.file),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(result.returncode, status, result.stderr)
        return result.stdout + result.stderr

    async def test_life(self) -> None:
        """A volume is made, served, checked while its daemon is dead, mended, and removed."""
        self.file = Path(self.mktemp())
        options = "\n".join(f'{key} = "{value}"' for key, value in self.server.options.items())
        self.file.write_text(f"[handlers.s3]\n{options}\n")
        self.file.chmod(0o600)
        where = f"s3/{self.server.bucket}/{self.id()}"
        self.txtcmu("create", f"{where};batch=256K", "--size", "1M")
        self.assertIn("there is a volume at", self.txtcmu("create", where, "--size", "1M", status=1))
        disk = await self.factory.open(self.parameters(1 << 20))
        for block in range(1, 4):
            await _done(disk.write(block * BLOCK, memoryview(bytes([block]) * BLOCK)))
            await disk.flush()
        disk.abandon()
        volumes._open.clear()
        await disk._closed()
        facts = json.loads(self.txtcmu("stat", where, "--json"))
        self.assertEqual((facts["live_blocks"], facts["replayable"], facts["writer"]["closed"]), (3, 3, False))
        self.assertIn("clean: 3 blocks", self.txtcmu("fsck", where, "--data"))
        self.assertIn("in use by", self.txtcmu("fsck", where, "--drop-from", "4", "--yes", status=1))
        self.assertIn("clean: 2 blocks", self.txtcmu("fsck", where, "--drop-from", "4", "--yes", "--take-over"))
        self.assertEqual(self.txtcmu("dump", where).count("\ndata  "), 3)
        disk = await self.factory.open(self.parameters(1 << 20))
        self.assertEqual(bytes(await _done(disk.read(0, 4 * BLOCK)))[::BLOCK], b"\0\1\2\0")
        await disk.close()
        self.assertIn(f"{where} ", self.txtcmu("ls", f"s3/{self.server.bucket}"))
        self.assertIn("objects removed", self.txtcmu("rm", where, "--yes"))
        self.assertNotIn(f"{where} ", self.txtcmu("ls", f"s3/{self.server.bucket}"))


class SeaweedFSLifeTests(Life, OnSeaweedFS, TestCase):
    pass


class RadosGWLifeTests(Life, OnRadosGW, TestCase):
    pass


async def _done(result: Any) -> Any:
    return await result if isinstance(result, Deferred) else result
