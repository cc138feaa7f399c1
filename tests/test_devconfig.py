"""dev_config strings and sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.devconfig import MAX_LENGTH, DeviceConfig, parse_size
from txtcmu.errors import ConfigError

_TEXT = "abcdefghijklmnopqrstuvwxyzABCXYZ0189_.-/@%+=\u00e4\u20ac"
names = st.text("abcxyz019_-.", min_size=1, max_size=12)
keys = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
values = st.text(_TEXT, max_size=12)


class ParseTests(SynchronousTestCase):
    def problem(self, text: str) -> str:
        """Return the line of the refusal."""
        message = str(self.assertRaises(ConfigError, DeviceConfig.parse, text))
        self.assertNotIn("\n", message)
        return message

    def test_parts(self) -> None:
        """Subtype, path and options are told apart; an option's value may hold an equals sign."""
        config = DeviceConfig.parse("s3/bucket/a/vol0;profile=minio;tag=a=b;empty=")
        self.assertEqual((config.handler, config.path), ("s3", "bucket/a/vol0"))
        self.assertEqual(config.options, {"profile": "minio", "tag": "a=b", "empty": ""})

    @given(names, st.text(_TEXT, min_size=1, max_size=40), st.dictionaries(keys, values, max_size=4))
    def test_round_trip(self, handler: str, path: str, options: dict[str, str]) -> None:
        """What is written out is read back the same."""
        config = DeviceConfig(handler, path, options)
        self.assertEqual(DeviceConfig.parse(str(config)), config)

    @given(st.text(max_size=300))
    def test_anything(self, text: str) -> None:
        """Any text is either understood, and then written out as it was, or refused in one line."""
        try:
            config = DeviceConfig.parse(text)
        except ConfigError as error:
            self.assertNotIn("\n", str(error))
        else:
            self.assertEqual(str(config), text)

    def test_refused(self) -> None:
        """What targetcli or the kernel would break is refused."""
        for text in ("file/a:b", "file/a b", "file/a,b", "file/a\nb", "file/a\x00", "file/a\x7f"):
            self.assertIn("rename it", self.problem(text))
        for text in ("", "file", "file/", "/path", "fi le/x".replace(" ", "+"), "file;a=b"):
            self.assertIn("is not HANDLER/PATH", self.problem(text))
        for text in ("file/x;", "file/x;a", "file/x;=b", "file/x;A=b", "file/x;;a=b"):
            self.assertIn("is not key=value", self.problem(text))
        self.assertIn("given twice", self.problem("file/x;a=1;a=2"))

    def test_length(self) -> None:
        """The limit is the kernel's, in bytes: characters outside of ASCII count as many."""
        DeviceConfig.parse("file/" + "x" * (MAX_LENGTH - 5))
        self.assertIn("shorten", self.problem("file/" + "x" * (MAX_LENGTH - 4)))
        DeviceConfig.parse("file/" + "ä" * 125)
        self.assertIn("256", self.problem("file/x" + "ä" * 125))

    def test_undecodable(self) -> None:
        """A path that is not UTF-8 is kept as the file system gave it, and counted right."""
        path = (b"\xff" * 250).decode("utf-8", "surrogateescape")
        self.assertEqual(DeviceConfig.parse(f"file/{path}").path, path)
        self.problem(f"file/{path}x")


class OptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a configuration with some options."""
        self.config = DeviceConfig.parse("file/x;cache=64M;mode=fast;depth=7;bad=1.5")

    def test_defaults(self) -> None:
        """Options of dev_config win over defaults; the original stays as it is."""
        config = self.config.with_defaults({"mode": "slow", "extra": "1"})
        self.assertEqual((config.options["mode"], config.options["extra"]), ("fast", "1"))
        self.assertNotIn("extra", self.config.options)

    def test_unknown(self) -> None:
        """An unknown option is refused by a line that lists the known ones."""
        self.config.refuse_unknown(frozenset({"cache", "mode", "depth", "bad"}))
        error = self.assertRaises(ConfigError, self.config.refuse_unknown, frozenset({"mode", "cache", "depth"}))
        self.assertIn("'bad'; it knows: cache, depth, mode", str(error))
        error = self.assertRaises(ConfigError, self.config.refuse_unknown, frozenset())
        self.assertIn("none", str(error))

    def test_size(self) -> None:
        """A size is bytes, by default the default; a wrong one names its option."""
        self.assertEqual((self.config.size("cache", 1), self.config.size("other", 1)), (64 << 20, 1))
        self.assertIn("option bad", str(self.assertRaises(ConfigError, self.config.size, "bad", 1)))

    def test_choice(self) -> None:
        """A choice is one of its values, by default the first."""
        self.assertEqual(self.config.choice("mode", ("slow", "fast")), "fast")
        self.assertEqual(self.config.choice("other", ("slow", "fast")), "slow")
        self.assertIn("a, b", str(self.assertRaises(ConfigError, self.config.choice, "mode", ("a", "b"))))

    def test_integer(self) -> None:
        """A number is inside its limits, both included."""
        self.assertEqual((self.config.integer("depth", 1, 7, 7), self.config.integer("other", 5, 1, 9)), (7, 5))
        for config in (
            self.config,
            self.config.with_defaults({"n": "\u0663"}),
            DeviceConfig("f", "x", {"depth": "-7"}),
        ):
            for low, high in ((8, 9), (1, 6)):
                self.assertRaises(ConfigError, config.integer, "depth", 1, low, high)
        for value in ("", "-1", "1e3", "\u0663", "7" * 5000, " 7"):
            self.assertRaises(ConfigError, DeviceConfig("f", "x", {"n": value}).integer, "n", 1, 0, 1 << 40)

    def test_defaults_are_not_shown(self) -> None:
        """Text made of a configuration holds what dev_config holds: no credentials of a profile reach a log."""
        config = DeviceConfig.parse("s3/bucket/vol;region=eu").with_defaults(
            {"secret_access_key": "hush", "region": "x"}
        )
        self.assertEqual(config.options, {"secret_access_key": "hush", "region": "eu"})
        self.assertEqual(str(config), "s3/bucket/vol;region=eu")
        self.assertEqual(config.own_options, {"region"})
        self.assertNotIn("hush", repr(config.with_defaults({"more": "hush"})))


class SizeTests(SynchronousTestCase):
    def test_sizes(self) -> None:
        """Sizes are bytes or powers of 1024."""
        for text, size in (
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("10G", 10 << 30),
            ("1TiB", 1 << 40),
            ("2P", 2 << 50),
            ("1E", 1 << 60),
            (" 7M ", 7 << 20),
        ):
            self.assertEqual(parse_size(text), size, text)

    def test_refused(self) -> None:
        """Anything else is refused by a line that shows what would do."""
        for text in ("", "G", "-1", "1.5G", "10X", "10 G", "0x10", "1GB2", "1\u212a", "\u0663", "9" * 5000):
            self.assertIn("10G", str(self.assertRaises(ConfigError, parse_size, text)), text)
