"""Where credentials come from, and what is said when they do not come."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

from botocore.credentials import Credentials
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tests.objectstore.finish import finish
from txtcmu.backstores.s3 import S3Factory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, NotReadyError, ObjectStoreError, StoreUnavailable
from txtcmu.objectstore import instance
from txtcmu.objectstore.credentials import load
from txtcmu.objectstore.settings import S3Settings
from txtcmu.results import as_deferred
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault
from txtcmu.testing.reactor import FakeReactor

ROLE = b"disks"
CREDENTIALS = b"""{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "id", "SecretAccessKey": "secret",
 "Token": "token", "Expiration": "2099-01-01T00:00:00Z"}"""


class MetadataService:
    """An instance's metadata service; ``answers`` gives status and body of what is asked."""

    def __init__(self, answers: Callable[[str, str], tuple[int, bytes]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                status, body = answers(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = reply  # noqa: N815 - as http.server calls it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, args=[0.01])
        self.thread.start()

    def stop(self) -> None:
        """End it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class CredentialsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Leave this machine's own configuration out."""
        nowhere = {"AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}
        patcher = mock.patch.dict(os.environ, nowhere, clear=True)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.patch(instance, "_is_instance", lambda: False)

    def configure(self, text: str) -> None:
        """Write AWS's configuration file."""
        path = Path(self.mktemp())
        path.write_text(text)
        os.environ["AWS_CONFIG_FILE"] = str(path)

    def serve(self, answers: Callable[[str, str], tuple[int, bytes]]) -> None:
        """Run a metadata service, and point at it."""
        service = MetadataService(answers)
        self.addCleanup(service.stop)
        os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = service.endpoint

    def load(self) -> None:
        """Look for credentials."""
        load(FakeReactor(), S3Settings("disks"))

    def test_none_at_all(self) -> None:
        """Without any, the line says how to give some."""
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        with self.assertRaisesRegex(ConfigError, "no credentials; put access_key_id"):
            self.load()

    def test_instance(self) -> None:
        """An instance with a role has credentials."""

        def answers(method: str, path: str) -> tuple[int, bytes]:
            if method == "PUT":
                return 200, b"token"
            return 200, CREDENTIALS if path.endswith("/disks") else ROLE

        self.serve(answers)
        self.load()

    def test_instance_without_a_role(self) -> None:
        """An instance that has none is told to get some: waiting is vain."""
        self.serve(lambda method, path: (200, b"token") if method == "PUT" else (404, b""))
        with self.assertRaisesRegex(ConfigError, "no credentials"):
            self.load()

    def test_instance_whose_service_is_in_trouble(self) -> None:
        """A service that answers errors may be better in a moment."""
        self.serve(lambda method, path: (200, b"token") if method == "PUT" else (503, b""))
        with self.assertRaisesRegex(StoreUnavailable, "metadata service does not answer .status 503"):
            self.load()

    def test_instance_whose_service_is_away(self) -> None:
        """So may one that does not answer at all; the disk waits for it."""
        service = MetadataService(lambda method, path: (200, b""))
        service.stop()
        os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = service.endpoint
        reactor = FakeReactor()
        config = DeviceConfig.parse("s3/disks/x")
        parameters = DeviceParameters(config, 1 << 20, 512, reactor, Logger())
        opening = self.failureResultOf(as_deferred(S3Factory("here").open(parameters)))
        self.assertIsInstance(opening.value, NotReadyError)
        self.assertRegex(str(opening.value), "metadata service does not answer .*refused")
        creating = self.failureResultOf(as_deferred(S3Factory("here").create(parameters)))
        self.assertIsInstance(creating.value, ConfigError)

    def test_which_machines_are_asked(self) -> None:
        """EC2 tells by its firmware, or its hypervisor; nobody else is asked."""
        self.patch(instance, "_is_instance", _is_instance)
        for vendor, hypervisor, expected in (
            ("Amazon EC2\n", "", True),
            ("Xen\n", "ec2e1916-9099-7caf-fd21-012345abcdef\n", True),
            ("QEMU\n", "", False),
        ):
            paths = [Path(self.mktemp()) for _ in range(2)]
            for path, text in zip(paths, (vendor, hypervisor), strict=True):
                if text:
                    path.write_text(text)
            self.patch(instance, "_VENDOR", paths[0])
            self.patch(instance, "_HYPERVISOR", paths[1])
            self.assertEqual(instance._is_instance(), expected)

    def test_process(self) -> None:
        """A credential_process that fails may succeed the next time; one that is not there is mended by its name."""
        self.configure("[default]\ncredential_process = /bin/false\n")
        with self.assertRaisesRegex(StoreUnavailable, "custom-process"):
            self.load()
        self.configure("[default]\ncredential_process = /nowhere/at/all\n")
        with self.assertRaisesRegex(ConfigError, "/nowhere/at/all"):
            self.load()

    def test_container(self) -> None:
        """So may a container's service."""
        service = MetadataService(lambda method, path: (200, b""))
        service.stop()
        os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = service.endpoint + "/credentials"
        with (
            mock.patch("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0),
            self.assertRaisesRegex(StoreUnavailable, "container-role"),
        ):
            self.load()

    def test_unknown_profile(self) -> None:
        """What no waiting mends is said at once."""
        with self.assertRaisesRegex(ConfigError, "nobody"):
            load(FakeReactor(), S3Settings("disks", aws_profile="nobody"))
        self.configure("[default\n")
        with self.assertRaisesRegex(ConfigError, "correct AWS's files"):
            self.load()

    def test_outages_of_this_host(self) -> None:
        """That no process can be started now is not the fault of AWS's files."""
        trouble = BlockingIOError(11, "Resource temporarily unavailable")
        with (
            mock.patch("botocore.session.Session.get_credentials", side_effect=trouble),
            self.assertRaisesRegex(StoreUnavailable, "temporarily unavailable; see whether this host is well"),
        ):
            self.load()

    def test_expired_at_the_source(self) -> None:
        """Nor that what comes is over already: its source may have better ones soon."""
        with (
            mock.patch("botocore.session.Session.get_credentials", side_effect=RuntimeError("still expired")),
            self.assertRaisesRegex(StoreUnavailable, "still expired"),
        ):
            self.load()


class RenewalTests(SynchronousTestCase):
    """Credentials that the store refuses in the middle of a run."""

    def setUp(self) -> None:
        """Serve a disk with temporary credentials."""
        self.reactor = FakeReactor()
        self.fake = FakeS3(self.reactor)
        self.found: list[Credentials | Exception] = [Credentials("fake-key", "fake-secret", "first")]
        self.searches = 0
        self.takes = 0.0  # seconds
        self.store = self.fake.connect(find=self.find)
        self.finish(self.store.put("key", b"data"))

    def find(self) -> Credentials:
        """Look the credentials up."""
        self.searches += 1
        self.reactor.rightNow += self.takes
        latest = self.found[-1]
        if isinstance(latest, Exception):
            raise latest
        return latest

    def finish(self, result: object) -> Any:
        """Let time pass until a result is there; return it, or raise its failure."""
        return finish(self.reactor, result)

    def statuses(self, action: Callable[[], object]) -> list[int]:
        """Return the statuses of the requests that an action causes."""
        before = len(self.fake.requests)
        action()
        return [status for _, _, status in self.fake.requests[before:]]

    def read(self) -> None:
        """Read."""
        self.assertEqual(self.finish(self.store.get("key")).data, b"data")

    def test_expired_token(self) -> None:
        """A token that the store calls expired costs one more request, and a look at where the new one is."""
        self.fake.expired.add("first")
        self.found.append(Credentials("fake-key", "fake-secret", "second"))
        self.assertEqual(self.statuses(self.read), [400, 200])
        self.assertEqual(self.statuses(self.read), [200])
        self.assertEqual(self.searches, 2)

    def test_many_at_once(self) -> None:
        """Whoever is refused at the same time looks up nothing for himself."""
        self.fake.expired.add("first")
        self.found.append(Credentials("fake-key", "fake-secret", "second"))
        self.fake.faults.append(Fault(answered=1.0, times=5))
        reads = [self.store.get("key") for _ in range(5)]
        self.assertEqual([self.finish(each).data for each in reads], [b"data"] * 5)
        self.assertEqual((self.searches, self.fake.count("GET")), (2, 10))

    def test_exchanged_keys(self) -> None:
        """So do keys that somebody has exchanged."""
        self.fake.secret_key = "new"
        self.found.append(Credentials("fake-key", "new"))
        self.assertEqual(self.statuses(self.read), [403, 200])
        self.fake.access_key = "newer"
        self.found.append(Credentials("newer", "new"))
        self.reactor.advance(10)
        self.assertEqual(self.statuses(self.read), [403, 200])

    def test_late_renewal(self) -> None:
        """A token whose successor comes late is an outage that passes, asked about now and then only."""
        self.fake.expired.add("first")
        reading = as_deferred(self.store.get("key"))
        self.reactor.pump([0.1] * 200)
        self.assertNoResult(reading)
        self.assertLess(self.searches, 7)
        self.found.append(Credentials("fake-key", "fake-secret", "second"))
        self.assertEqual(self.finish(reading).data, b"data")

    def test_source_away(self) -> None:
        """So is a source that does not answer when it is asked again, or whose files are being written."""
        for error in (StoreUnavailable("credentials: nobody there"), ConfigError("s3: no credentials")):
            self.fake.expired.add("first")
            self.found.append(error)
            with self.assertRaisesRegex(StoreUnavailable, "nobody there|ExpiredToken"):
                self.finish(self.store.get("key"))
        self.flushLoggedErrors()

    def test_source_away_from_many(self) -> None:
        """All requests wait for it that are refused meanwhile, however many, and nobody asks it for each of them."""
        self.fake.access_key = "newer"
        self.found.append(StoreUnavailable("credentials: nobody there"))
        self.takes = 6.0
        self.fake.faults.append(Fault(answered=1.0, times=5))
        reads = [as_deferred(self.store.get("key")) for _ in range(5)]
        self.reactor.pump([0.1] * 80)
        for each in reads:
            self.assertNoResult(each)
        self.assertLess(self.searches, 4)
        self.found.append(Credentials("newer", "fake-secret"))
        self.assertEqual([self.finish(each).data for each in reads], [b"data"] * 5)

    def test_cancelled_while_looked_up(self) -> None:
        """A request that is cancelled while a thread looks for credentials ends at once, and is never sent again."""
        self.fake.expired.add("first")
        self.found.append(Credentials("fake-key", "fake-secret", "second"))
        self.reactor.hold_threads()
        writing = as_deferred(self.store.put("key", b"never"))
        writing.cancel()
        self.failureResultOf(writing, CancelledError)
        self.reactor.release_threads()
        self.reactor.pump([1.0] * 10)
        self.assertEqual(self.fake.count("PUT"), 2)
        self.read()

    def test_nothing_better(self) -> None:
        """Keys that are refused, and are all there are, end in the line that says what is wrong."""
        self.fake.secret_key = "new"
        with self.assertRaisesRegex(ObjectStoreError, "correct secret_access_key"):
            self.finish(self.store.get("key"))

    def test_tokens_from_the_profile(self) -> None:
        """A token that a person has put into the profile waits for that person, and says so."""
        self.fake.expired.add("first")
        store = self.fake.connect(find=self.find, session_token="first")
        with self.assertRaisesRegex(ObjectStoreError, "ExpiredToken: the session token has expired; put new"):
            self.finish(store.get("key"))


_is_instance = instance._is_instance
