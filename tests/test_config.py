"""The configuration file, and ``--handler``."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu import config
from txtcmu.config import Configuration
from txtcmu.errors import ConfigError

FILE = """
[profiles.minio]
endpoint = "https://minio.example:9000"
port = 9000
patience = 2.5
tls = true
path_style = false

[profiles.aws]
region = "eu-1"

[handlers.s3]
profile = "minio"
region = "us-1"
"""


class LoadTests(SynchronousTestCase):
    def load(self, content: str | bytes) -> Configuration:
        path = Path(self.mktemp())
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return config.load(path)

    def refusal(self, content: str | bytes) -> str:
        with self.assertRaises(ConfigError) as caught:
            self.load(content)
        message = str(caught.exception)
        self.assertNotIn("\n", message)
        return message

    def test_values(self) -> None:
        """Numbers and truth values become the texts that dev_config would have."""
        profile = self.load(FILE).profiles["minio"]
        self.assertEqual(
            profile,
            {
                "endpoint": "https://minio.example:9000",
                "port": "9000",
                "patience": "2.5",
                "tls": "yes",
                "path_style": "no",
            },
        )

    def test_precedence(self) -> None:
        """dev_config goes before --handler, this before the handler's table, and this before the profile."""
        loaded = self.load(FILE).with_handler("s3", {"region": "command line", "a": "command line"})
        device = loaded.device_config("s3/bucket/vol;a=device")
        self.assertEqual((device.options["a"], device.options["region"]), ("device", "command line"))
        self.assertEqual(device.options["endpoint"], "https://minio.example:9000")
        self.assertNotIn("profile", device.options)

    def test_profile_of_device(self) -> None:
        """A device's own profile replaces its handler's."""
        device = self.load(FILE).device_config("s3/bucket/vol;profile=aws")
        self.assertEqual(dict(device.options), {"region": "us-1"})

    def test_other_handlers(self) -> None:
        """What is set for one handler is nothing to another."""
        loaded = self.load(FILE).with_handler("s3", {"a": "b"})
        self.assertEqual(dict(loaded.device_config("file/disk.img").options), {})

    def test_unknown_profile(self) -> None:
        """A profile that is not there is refused, with those that are."""
        with self.assertRaisesRegex(ConfigError, "no profile 'minoi'; the configuration file has: aws, minio"):
            self.load(FILE).device_config("s3/bucket/vol;profile=minoi")
        with self.assertRaisesRegex(ConfigError, "has: none"):
            Configuration().device_config("s3/bucket/vol;profile=minio")

    def test_missing(self) -> None:
        """The default file may be absent, a given one may not."""
        self.patch(config, "DEFAULT_PATH", Path(self.mktemp()))
        self.assertEqual(config.load(), Configuration())
        with self.assertRaisesRegex(ConfigError, "does not exist"):
            config.load(Path(self.mktemp()))

    def test_default(self) -> None:
        """The default file is read when it is there."""
        path = Path(self.mktemp())
        path.write_text(FILE)
        self.patch(config, "DEFAULT_PATH", path)
        self.assertIn("aws", config.load().profiles)

    def test_unreadable(self) -> None:
        """What cannot be read, or is not TOML, or not UTF-8, is refused in one line."""
        directory = self.mktemp()
        os.mkdir(directory)
        with self.assertRaisesRegex(ConfigError, "cannot be read: Is a directory"):
            config.load(Path(directory))
        self.assertIn("is not TOML", self.refusal("[profiles"))
        self.assertIn("is not TOML", self.refusal(b"\xff\xfe"))

    def test_utf_8(self) -> None:
        """TOML is UTF-8, whatever the locale."""
        self.assertEqual(self.load('[profiles.a]\nb = "\u00e9"').profiles["a"]["b"], "\u00e9")

    def test_meaningless(self) -> None:
        """Sections and values that mean nothing are refused by name, not ignored."""
        self.assertIn("[profile] means nothing", self.refusal('[profile.minio]\na = "b"'))
        self.assertIn("profiles must be tables", self.refusal('profiles = "x"'))
        self.assertIn("handlers must be tables", self.refusal('[handlers]\ns3 = "x"'))
        self.assertIn("profiles.a.b must be text", self.refusal("[profiles.a]\nb = [1]"))
        self.assertIn("profiles.a.b must be text", self.refusal("[profiles.a]\nb = 1979-05-27"))


class ParseHandlerTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """A handler is a name, with options behind colons; a colon in a value is escaped."""
        for text, parsed in (
            ("s3", ("s3", {})),
            ("s3:profile=minio", ("s3", {"profile": "minio"})),
            (r"s3:endpoint=https\://h\:9000:a=b=c", ("s3", {"endpoint": "https://h:9000", "a": "b=c"})),
            ("s3:a=", ("s3", {"a": ""})),
        ):
            self.assertEqual(config.parse_handler(text), parsed)

    def test_malformed(self) -> None:
        """What is neither is refused."""
        for text in ("", ":a=b", "s3:", "s3:a", "s3:=b", "s3:a=b:", r"s3:endpoint=https://host"):
            with self.assertRaises(ConfigError):
                config.parse_handler(text)

    @given(
        options=st.dictionaries(
            st.text("abc_", min_size=1), st.text(st.characters(blacklist_characters="\0\\", codec="utf-8"))
        )
    )
    def test_round_trip(self, options: dict[str, str]) -> None:
        """Any value can be given."""
        text = "".join(f":{key}=" + value.replace(":", r"\:") for key, value in options.items())
        self.assertEqual(config.parse_handler(f"s3{text}"), ("s3", options))
