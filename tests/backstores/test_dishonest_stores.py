"""Real servers that do not honour conditions get no volume: they are refused with a line, and nothing stays there.

rclone and JuiceFS ignore conditions.  Apache's mod_dav honours them while nobody races.  It does not speak S3, so
handler s3 meets it at the first request, and the probe through a store of WebDAV.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from tests.objectstore.davstore import DAVStore
from tools.servers.apache import Apache
from tools.servers.juicefs import JuiceFS
from tools.servers.rclone import Rclone
from tools.servers.s3server import S3Server
from txtcmu.backstores.s3 import S3Factory
from txtcmu.backstores.volumes import new_writer
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, ObjectStoreError, StoreUnavailable
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.probe import probe
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Geometry

SIZE = 1 << 20
DISHONEST = (
    r"the store does not honour If-(None-)?Match on PUT \([2-8] of 8 writers won a race for one object\), so two"
    " writers would destroy each other's data; use a store that does, such as AWS S3, SeaweedFS or Ceph's radosgw, or a"
    " directory"
)

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class Refused(_Base):
    """What is refused; mixed into a test case."""

    kind: type[S3Server]
    line = DISHONEST

    def setUp(self) -> None:
        """Start the server."""
        self.folder = Path(self.mktemp()).absolute()
        self.server = self.kind(self.folder)
        self.addCleanup(self.server.stop, 0)

    def parameters(self, path: str) -> DeviceParameters:
        """Return what the service would pass."""
        config = DeviceConfig("s3", f"{self.server.bucket}/{path}").with_defaults(self.server.options)
        return DeviceParameters(config, SIZE, 512, reactor, Logger())

    def test_command(self) -> None:
        """``txtcmu volume create`` ends with status 1 and the line."""
        file = self.folder / "txtcmu.toml"
        options = "\n".join(f'{key} = "{value}"' for key, value in self.server.options.items())
        file.touch(0o600)
        file.write_text(f"[handlers.s3]\n{options}\n")
        command = ["create", f"s3/{self.server.bucket}/place", "--size", "1M", "--config", str(file)]
        code = "from txtcmu.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "volume", *command], capture_output=True, text=True, check=False, timeout=120
        )
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertRegex(done.stderr, rf"\Atxtcmu: s3: {self.line}\n\Z")
        self.assertEqual(self.stored(), set())

    async def test_opening(self) -> None:
        """A daemon neither makes a volume there nor opens one that was copied there."""
        with self.assertRaisesRegex(ConfigError, rf"\As3: {self.line}\Z"):
            await S3Factory("here").open(self.parameters("place"))
        self.assertEqual(self.stored(), set())
        copied = MemoryObjectStore()
        await create_volume(copied, "place/", SIZE, new_writer(), os.urandom, Geometry())
        for key, each in copied.objects.items():
            self.copy(key, each.data)
        before = self.stored()
        self.assertEqual(len(before), len(copied.objects))
        with self.assertRaisesRegex(ConfigError, rf"\As3: {self.line}\Z"):
            await S3Factory("here").open(self.parameters("place"))
        self.assertEqual(self.stored(), before)

    def copy(self, key: str, data: bytes) -> None:
        """Store an object."""
        self.assertEqual(self.server.request("PUT", f"/{self.server.bucket}/{key}", data)[0], 200)

    def stored(self) -> set[str]:
        """Return the keys of what is there."""
        status, body = self.server.request("GET", f"/{self.server.bucket}?list-type=2")
        self.assertEqual(status, 200)
        return set(re.findall(r"<Key>(.*?[^/])</Key>", body.decode()))  # not directories that stay


class OnFiles(Refused):
    """A server of a directory."""

    def stored(self) -> set[str]:
        """Return the names of the files that are there; after a race rclone lists what is not."""
        (bucket,) = (self.folder / "data").rglob(self.server.bucket)
        return {str(each.relative_to(bucket)) for each in bucket.rglob("*") if each.is_file()}


class RcloneTests(OnFiles, TestCase):
    kind = Rclone


class JuiceFSTests(Refused, TestCase):
    kind = JuiceFS


class ApacheTests(OnFiles, TestCase):
    kind = Apache
    line = r"bucket disks at http://127.0.0.1:\d+: 404: see whether the endpoint is that of an S3 service"

    def copy(self, key: str, data: bytes) -> None:
        """Store an object, in collections."""
        path = f"/{self.server.bucket}"
        for part in key.split("/")[:-1]:
            path += f"/{part}"
            self.server.request("MKCOL", path)
        self.assertEqual(self.server.request("PUT", f"/{self.server.bucket}/{key}", data)[0], 201)

    async def test_the_probe(self) -> None:
        """One writer after the other is told the truth; of a race the probe says what is wrong, and nothing stays."""
        store: Any = DAVStore(reactor, f"{self.server.endpoint}/{self.server.bucket}/")
        self.addCleanup(store.close)
        etag = (await store.put("key", b"one", absent=True)).etag
        with self.assertRaises(ObjectStoreError):
            await store.put("key", b"two", absent=True)
        with self.assertRaises(ObjectStoreError):
            await store.put("key", b"two", if_match="another")
        await store.put("key", b"two", if_match=etag)
        before = self.stored()
        with self.assertRaisesRegex(ObjectStoreError, rf"\A{DISHONEST}\Z") as caught:
            await probe(store, "")
        self.assertNotIsInstance(caught.exception, StoreUnavailable)
        self.assertEqual(self.stored(), before)
