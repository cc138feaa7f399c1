"""Handlers by name, from drop-ins and entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

from twisted.logger import ILogObserver, globalLogPublisher
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import classImplements, implementer

import txtcmu.plugins
from txtcmu import registry
from txtcmu.errors import ConfigError
from txtcmu.factory import Factory
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.testing.rig import OneBackstore

DROP_IN = """
from twisted.plugin import IPlugin
from zope.interface import classImplements, implementer
from txtcmu.interfaces import IBackstoreFactory
from txtcmu.testing.rig import OneBackstore

@implementer(IPlugin)
class {class_name}(OneBackstore):
    name = {name!r}

plugin = {class_name}(None)
"""


@implementer(IPlugin)
class Tape(OneBackstore):
    name: Any = "tape"

    def __init__(self) -> None:
        super().__init__(None)


@implementer(IPlugin)
class OtherTape(Tape):
    pass


class Exploding(Tape):
    @property
    def summary(self) -> str:  # type: ignore[override]
        raise RuntimeError("no summary")


class Incomplete:
    name = "incomplete"


classImplements(Incomplete, IBackstoreFactory)  # type: ignore[misc]


instance = Tape()


def wind(_: Any) -> None: ...


def rewind(_: Any) -> None: ...


reel = Factory(name="reel", summary="a reel", opener=wind)
reel_again = Factory(name="reel", summary="a reel", opener=wind)
other_reel = Factory(name="reel", summary="another reel", opener=rewind)
not_a_factory = 3


class RegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.errors: list[str] = []
        observer = cast(ILogObserver, self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.entries: list[EntryPoint] = []
        self.patch(registry, "entry_points", lambda group: [each for each in self.entries if each.group == group])

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "txtcmu.registry":
            self.errors.append(event["log_format"].format(**event))

    def entry(self, name: str, module: str = __name__, group: str = registry.GROUP) -> None:
        self.entries.append(EntryPoint(name, f"{module}:{name}", group))

    def drop_in(self, content: str) -> None:
        """Put a module into a plugin directory of its own."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / f"dropin_{directory.parent.parent.name.replace('.', '_').lower()}.py").write_text(content)
        self.patch(txtcmu.plugins, "__path__", [*txtcmu.plugins.__path__, str(directory)])

    def names(self) -> list[str]:
        return [factory.name for factory in registry.all_factories()]

    def test_own(self) -> None:
        """The handlers that come with txtcmu are found, by name, in order."""
        names = self.names()
        self.assertEqual(names, sorted(names))
        self.assertLessEqual({"file", "memory"}, set(names))
        self.assertEqual(registry.find("memory").name, "memory")
        self.assertEqual(self.errors, [])

    def test_entry_points(self) -> None:
        """An entry point names a factory, or a class that makes one; those of other groups are not ours."""
        self.entry("Tape")
        self.assertIsInstance(registry.find("tape"), Tape)
        self.entries.clear()
        self.entry("instance")
        self.assertIs(registry.find("tape"), instance)
        self.entries.clear()
        self.entry("Tape", group="txtcmu.other")
        self.assertNotIn("tape", self.names())

    def test_drop_in(self) -> None:
        """A file in a plugin directory is a handler."""
        self.drop_in(DROP_IN.format(class_name="Nfs", name="nfs"))
        self.assertEqual(registry.find("nfs").name, "nfs")

    def test_broken_drop_in(self) -> None:
        """A drop-in that cannot be imported costs itself only."""
        self.drop_in("raise RuntimeError('broken')")
        self.assertIn("memory", self.names())
        self.flushLoggedErrors(RuntimeError)

    def test_broken_entry_points(self) -> None:
        """Entry points that cannot be loaded, and factories that are none, are logged and left out."""
        for name in ("Missing", "not_a_factory", "Incomplete", "Exploding"):
            self.entry(name)
        self.entry("Tape", module="no.such.module")
        before = self.names()
        self.assertIn("memory", before)
        self.assertEqual({"tape", "incomplete"} & set(before), set())
        self.assertEqual(len(self.errors), 5)
        self.flushLoggedErrors()

    def test_impossible_names(self) -> None:
        """A factory whose name could not be the beginning of a dev_config is left out."""
        for name in ("Tape", "a/b", "", None, 3, "tape\n"):
            self.patch(Tape, "name", name)
            self.entries.clear()
            self.entry("Tape")
            self.errors.clear()
            self.assertNotIn(name, self.names())
            self.assertEqual(len(self.errors), 1)

    def test_unknown(self) -> None:
        """A name that nobody has is refused with those there are."""
        with self.assertRaisesRegex(ConfigError, "no handler is called 'memroy'; there are: .*memory"):
            registry.find("memroy")

    def test_duplicates(self) -> None:
        """Two handlers of one name are refused when it is asked for, with where they come from, and only then."""
        self.entry("Tape")
        self.entry("OtherTape")
        with self.assertRaisesRegex(ConfigError, f"'tape', {__name__}:Tape and {__name__}:OtherTape: remove"):
            registry.find("tape")
        self.assertEqual(registry.find("memory").name, "memory")
        self.assertEqual(self.names().count("tape"), 2)

    def test_duplicates_of_functions(self) -> None:
        """Two handlers made of functions are two, though they are of one class; one of them found twice is one."""
        self.entry("reel")
        self.entry("reel_again")
        self.assertEqual(self.names().count("reel"), 1)
        self.entry("other_reel")
        with self.assertRaisesRegex(ConfigError, f"'reel', {__name__}:reel and {__name__}:other_reel: remove"):
            registry.find("reel")

    def test_found_twice(self) -> None:
        """One handler found in both ways is one."""
        self.entry("Tape")
        self.entry("instance")
        self.assertEqual(self.names().count("tape"), 1)
        self.assertIsInstance(registry.find("tape"), Tape)
