"""Making and opening disks in a bucket: configuration, markers, what is refused and with which line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.backstores.s3support import BLOCK, PREFIX, Bench
from txtcmu.backstores import blockowner
from txtcmu.backstores.blockowner import Owner
from txtcmu.backstores.s3 import S3Factory
from txtcmu.backstores.s3disk import create_disk
from txtcmu.backstores.volumeoptions import VOLUME_OPTIONS
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, MediumError, WriteProtectedError
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.objectstore.objects import StoredObject
from txtcmu.objectstore.settings import CONNECTION_OPTIONS, SECRET_OPTIONS, S3Settings
from txtcmu.testing.faults import Fault

MARKER = PREFIX + "s3backer-mounted"


class FactoryTests(SynchronousTestCase):
    def check(self, dev_config: str, **options: str) -> str | None:
        """Return what the factory finds wrong."""
        return S3Factory().check(DeviceConfig.parse(dev_config).with_defaults(options))

    def test_interface(self) -> None:
        """It is a plugin, and knows the options of the connection."""
        factory = S3Factory()
        verifyObject(IBackstoreFactory, factory)
        verifyObject(IPlugin, factory)
        self.assertLess(CONNECTION_OPTIONS, factory.options)
        self.assertLess(SECRET_OPTIONS, CONNECTION_OPTIONS)
        self.assertEqual(factory.options - CONNECTION_OPTIONS - VOLUME_OPTIONS, {"layout", "object_size"})
        for option in factory.options:
            self.assertIn(option, factory.config_help)

    def test_good_configurations(self) -> None:
        """Endpoint and credentials come as options."""
        self.assertIsNone(self.check("s3/bucket/disk"))
        self.assertIsNone(self.check("s3/bucket/a/b/c;object_size=4K;layout=blocks"))
        self.assertIsNone(self.check("s3/bucket", endpoint="http://127.0.0.1:8333", connections="4"))

    def test_bad_configurations(self) -> None:
        """Each is refused with one line that names the option."""
        for dev_config, options, word in (
            ("s3/b_ä/disk", {}, "bucket name"),
            ("s3/bucket/disk;object_size=48K", {}, "power of two"),
            ("s3/bucket/disk;object_size=2K", {}, "object_size"),
            ("s3/bucket/disk;layout=tape", {}, "layout"),
            ("s3/bucket/disk;layout=log;object_size=64K", {}, "object_size is for layout=blocks"),
            ("s3/bucket/disk;batch=1K", {}, "batch"),
            ("s3/bucket/disk;wce=maybe", {}, "wce"),
            ("s3/bucket/disk", {"endpoint": "127.0.0.1"}, "URL"),
            ("s3/bucket/disk", {"endpoint": "http://[::1"}, "URL"),
            ("s3/bucket/disk", {"access_key_id": "x"}, "secret_access_key"),
            ("s3/bucket/disk", {"connections": "0"}, "connections"),
            ("s3/bucket/disk", {"addressing": "dns"}, "addressing"),
        ):
            problem = self.check(dev_config, **options)
            self.assertIn(word, problem or "")

    def test_secrets(self) -> None:
        """Credentials come from a profile, not from dev_config, and no line that refuses them repeats them."""
        profile = {"access_key_id": "id", "secret_access_key": "hush", "session_token": "hush"}
        self.assertEqual(S3Factory.secrets, profile.keys())
        self.assertIsNone(self.check("s3/bucket/disk", **profile))
        for option in profile:
            problem = self.check(f"s3/bucket/disk;{option}=hush", **profile) or ""
            self.assertRegex(problem, f"{option} does not belong .* profile")
            self.assertNotIn("hush", problem)
        for endpoint in ("https://user:hush@host", "https://hush@host/", "user:hush@host"):
            problem = self.check("s3/bucket/disk", endpoint=endpoint) or ""
            self.assertIn("leave them away", problem)
            self.assertNotIn("hush", problem)

    def test_addressing(self) -> None:
        """The bucket goes into the host name at AWS, into the path elsewhere."""
        for settings, base in (
            (S3Settings("disks", region="eu-1"), "https://disks.s3.eu-1.amazonaws.com"),
            (S3Settings("di.sks", region="eu-1"), "https://s3.eu-1.amazonaws.com/di.sks"),
            (S3Settings("disks", "http://host:8333"), "http://host:8333/disks"),
            (S3Settings("disks", "http://host:8333", addressing="virtual"), "http://disks.host:8333"),
        ):
            self.assertEqual(settings.base, base)


class CreateTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start with an empty store."""
        self.bench = Bench()

    def create(self, size: int | None) -> None:
        """Make a disk of 4 KiB blocks."""
        self.bench.run(create_disk(self.bench.fake.connect(), PREFIX, size, BLOCK))

    def test_creates_block_zero(self) -> None:
        """The disk is one object, whose metadata s3backer understands."""
        self.create(8 * BLOCK)
        stored = self.bench.stored(0)
        self.assertEqual(stored.data, bytes(BLOCK))
        self.assertEqual(stored.metadata["s3backer-filesize"], "32768")
        self.assertEqual(stored.metadata["s3backer-blocksize"], "4096")
        self.assertEqual(len(self.bench.fake.objects.objects), 1)

    def test_refuses_what_exists(self) -> None:
        """An existing disk is left alone, even if its block 0 is missing."""
        self.create(8 * BLOCK)
        with self.assertRaisesRegex(ConfigError, "exists"):
            self.create(16 * BLOCK)
        objects = self.bench.fake.objects.objects
        objects[PREFIX + "00000005"] = evolve(objects.pop(PREFIX + "00000000"), key=PREFIX + "00000005")
        with self.assertRaisesRegex(ConfigError, "00000005 exists"):
            self.create(16 * BLOCK)

    def test_refuses_sizes(self) -> None:
        """The size is a number of whole blocks."""
        for size in (None, 0, BLOCK + 512, BLOCK << 33):
            with self.assertRaisesRegex(ConfigError, "size"):
                self.create(size)

    def test_lost_reply(self) -> None:
        """A create whose reply is lost recognises its own work."""
        self.bench.fake.faults.append(Fault.lose_reply(method="PUT"))
        self.create(8 * BLOCK)
        self.assertEqual(self.bench.open().size, 8 * BLOCK)


class OpenTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a disk."""
        self.bench = Bench()
        self.bench.create()
        self.objects = self.bench.fake.objects.objects

    def assert_refused(self, word: str, **arguments: Any) -> None:
        """Assert that opening fails with a line that holds ``word``."""
        with self.assertRaisesRegex(ConfigError, word):
            self.bench.open(**arguments)

    def test_detects_sizes(self) -> None:
        """Size and block size come from the disk."""
        disk = self.bench.open()
        self.assertEqual((disk.size, disk.physical_block_size), (8 * BLOCK, BLOCK))

    def test_missing(self) -> None:
        """A disk that does not exist is not made."""
        self.objects.clear()
        self.assert_refused("txtcmu create")
        self.assertEqual(self.objects, {})

    def test_foreign_block_zero(self) -> None:
        """Other objects of that name, and s3backer's compressed or encrypted disks, are refused."""
        good = self.objects[PREFIX + "00000000"]
        for bad, word in (
            (evolve(good, encoding="deflate"), "compressed"),
            (evolve(good, metadata={**good.metadata, "s3backer-hmac": "1"}), "encrypted"),
            (evolve(good, metadata={}), "filesize"),
            (evolve(good, data=good.data[:100], size=100), "100 bytes"),
        ):
            self.objects[PREFIX + "00000000"] = bad
            self.assert_refused(word)

    def test_foreign_block(self) -> None:
        """A block of another length is a medium error at its place."""
        disk = self.bench.open()
        self.objects[PREFIX + "00000002"] = StoredObject(PREFIX + "00000002", "e", 9, b"too short")
        with self.assertRaises(MediumError) as caught:
            self.bench.read(disk, 2 * BLOCK + 512, 512)
        self.assertEqual(caught.exception.offset, 2 * BLOCK + 512)

    def test_mounted_by_s3backer(self) -> None:
        """s3backer's marker is respected, and left."""
        self.bench.run(self.bench.fake.objects.put(MARKER, b"host\n", metadata={"s3backer-mount-token": "00000001"}))
        self.assert_refused("reset-mounted-flag")
        self.assertEqual(self.objects[MARKER].data, b"host\n")

    def test_marker_life(self) -> None:
        """The marker, as s3backer reads it, is there while the disk is open."""
        disk = self.bench.open()
        self.assertRegex(self.objects[MARKER].metadata["s3backer-mount-token"], "^[0-9a-f]{8}$")
        self.bench.run(disk.close())
        self.assertEqual(list(self.objects), [PREFIX + "00000000"])

    def test_unclean_end(self) -> None:
        """The same host opens its disk again after it died; another one only when told to."""
        self.bench.kill(self.bench.open())
        self.assert_refused("takeover=yes", host="there")
        self.assertTrue(self.bench.open()._session.unclean)
        self.assertTrue(self.bench.open(host="there", takeover=True)._session.unclean)

    def test_open_in_another_process(self) -> None:
        """Another process of this host that runs keeps its disk, takeover or not; when it is dead it does not."""
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.addCleanup(child.communicate)
        owner = Owner.process("here", child.pid)
        disk = self.bench.open(owner=owner)
        for takeover in (False, True):
            self.assert_refused(f"process {child.pid} has this disk open", takeover=takeover)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(owner.has_ended(Owner.process("here", os.getpid())), "a zombie")
        self.bench.kill(disk)
        child.communicate()
        self.assertTrue(self.bench.open()._session.unclean)

    def test_same_number_but_another_process(self) -> None:
        """A PID that came again, or that is from before a restart of the host, is no owner."""
        for change in ({"started": "1"}, {"boot": "other"}, {"boot": ""}, {"pid": "nonsense"}, {"pid": "0"}):
            parent = Owner.process("here", os.getppid())
            self.bench.kill(self.bench.open(owner=evolve(parent, **change)))
            disk = self.bench.open()
            self.assertTrue(disk._session.unclean)
            self.bench.run(disk.close())

    def test_open_in_another_container(self) -> None:
        """A process that cannot be seen from here is replaced only when told to, whatever its host is called."""
        us = Owner.process("here", os.getpid())
        self.bench.open(owner=evolve(us, namespace="1", started="1"))
        self.assert_refused("another container.*takeover=yes")
        self.assertTrue(self.bench.open(takeover=True)._session.unclean)

    def test_process_of_another_user(self) -> None:
        """A process that may not be asked runs, and so does one that /proc does not tell of."""
        us = Owner.process("here", os.getpid())
        other = evolve(us, pid="99", started="7")
        self.patch(os, "kill", mock.Mock(side_effect=PermissionError))
        self.patch(blockowner, "_stat", lambda pid: ("S", "7"))
        self.assertIs(other.has_ended(us), False)
        self.patch(blockowner, "_stat", lambda pid: ("", ""))
        self.assertIs(other.has_ended(us), False)

    def test_read_only(self) -> None:
        """A disk opened for reading only leaves no trace, whoever else has it open, and refuses to write."""
        self.bench.write(self.bench.open(host="there"), 0, b"data" * 128)
        before = dict(self.objects)
        disk = self.bench.open(read_only=True)
        self.assertEqual((disk.size, disk.read_only), (8 * BLOCK, True))
        self.assertEqual(self.bench.read(disk, 0, 4), b"data")
        for change in (lambda: disk.write(0, memoryview(b"1")), lambda: disk.discard(0, 512)):
            self.assertRaises(WriteProtectedError, change)
        self.bench.run(disk.close())
        self.assertEqual(self.objects, before)

    def test_asking_for_the_size(self) -> None:
        """The factory opens a disk for reading only when no size is given, even if this daemon serves it."""
        factory = S3Factory("here")
        connect = mock.AsyncMock(side_effect=lambda *_: self.bench.fake.connect())
        config = DeviceConfig.parse(f"s3/{self.bench.fake.bucket}/{PREFIX}")
        serving, asking = (
            DeviceParameters(config, size, 512, self.bench.clock, Logger()) for size in (8 * BLOCK, None)
        )
        with mock.patch("txtcmu.objectstore.s3.connect", connect):
            served = self.bench.run(factory.open(serving))
            marker = self.objects[MARKER]
            for other in (factory, S3Factory("there")):
                asked = self.bench.run(other.open(asking))
                self.assertEqual((asked.size, asked.read_only), (8 * BLOCK, True))
                self.bench.run(asked.close())
            self.assertEqual(self.objects[MARKER], marker)
            with self.assertRaisesRegex(ConfigError, "open already"):
                self.bench.run(factory.open(serving))
            self.bench.run(served.close())
            self.bench.run(self.bench.run(factory.open(serving)).close())

    def test_repeated_requests(self) -> None:
        """A proxy that sends a request twice, and answers with what the second came to, prevents nothing."""
        for method in ("PUT", "DELETE"):
            self.bench.fake.faults.append(Fault.repeat(method=method, times=1000))
        self.bench.fake.objects.objects.clear()
        self.bench.create()
        disk = self.bench.open()
        self.bench.write(disk, 0, b"data" * 2048)
        self.bench.run(disk.discard(BLOCK, BLOCK))
        self.bench.run(disk.close())
        disk = self.bench.open()
        self.assertFalse(disk._session.unclean)
        self.assertEqual(self.bench.read(disk, 0, 2 * BLOCK), b"data" * 1024 + bytes(BLOCK))

    def test_marker_is_a_race(self) -> None:
        """Of two that open at the same time, one does."""
        self.bench.fake.faults.append(Fault.refuse(412, "PreconditionFailed", method="PUT", key="mounted"))
        self.assert_refused("somebody else")
