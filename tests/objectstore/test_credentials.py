"""Where credentials come from, and what is said when they do not come."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.backstores.s3 import S3Factory
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError, NotReadyError, StoreUnavailable
from txtcmu.objectstore import instance
from txtcmu.objectstore.credentials import load
from txtcmu.objectstore.settings import S3Settings
from txtcmu.results import as_deferred
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


_is_instance = instance._is_instance
