"""``txtcmu volume``: create, ls, stat and rm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import click
from rich.console import Console
from twisted.internet.defer import fail

from tests.cli.volumesupport import SIZE, VolumeTestCase, run
from txtcmu.cli.volumestores import bars
from txtcmu.errors import ObjectStoreError, StoreUnavailable
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.volume.surveys import survey, trees_at


def nothing(*_: object) -> None:
    """Tell nobody."""


class UsageTests(VolumeTestCase):
    def test_help(self) -> None:
        """The verbs are listed, without anything being loaded that takes long or may not be installed."""
        program = (
            "import sys, txtcmu.cli.volume, txtcmu.plugins.builtin; print({'numpy', 'treq', 'rich'} & set(sys.modules))"
        )
        loaded = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
        self.assertEqual(loaded.stdout, "set()\n")
        self.assertIn("fsck", self.done("--help"))

    def test_usage(self) -> None:
        """Mistakes of usage are one line and status 2."""
        for arguments, word in (
            (("create", "mem/a"), "--size"),
            (("create", "mem/a", "--size", "many"), "is not a size"),
            (("fsck", "mem/a", "--drop-from", "0"), "--drop-from"),
            (("fsck",), "Missing argument"),
            (("frobnicate",), "No such command"),
        ):
            result = self.volume(*arguments)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(word, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_configuration(self) -> None:
        """What is wrong with a dev_config is said in one line, whatever the verb."""
        for verb in (("create", "--size", "1M"), ("ls",), ("stat",), ("fsck",), ("dump",), ("rm", "--yes")):
            self.assertIn("HANDLER/PATH", self.refused(*verb, "mem"))
            self.assertIn("no handler s4", self.refused(*verb, "s4/a"))
            self.assertIn("has no option 'colour'", self.refused(*verb, "mem/a;colour=red"))
            self.assertIn("handler test are no volumes; those of these are: mem, dir", self.refused(*verb, "test/a"))

    def test_nothing_there(self) -> None:
        """Where there is no volume, that is what they say."""
        for verb in ("stat", "fsck", "dump", "rm"):
            self.assertIn("there is no volume at", self.refused(verb, "mem/a"))
            self.assertIn("does not exist", self.refused(verb, f"dir{self.folder}"))
        self.assertIn("there is no volume at", self.refused("fsck", "mem/a", "--drop-from", "1"))
        self.assertEqual(self.store.objects, {})

    def test_store_away(self) -> None:
        """A store that refuses, or does not answer for all its patience, ends the command with its line."""
        self.write("a/", {1: b"x"}, close=False)
        for error in (StoreUnavailable("nobody answers"), ObjectStoreError("you may not")):
            for method in ("get", "list"):
                for verb in (("ls",), ("stat",), ("fsck",), ("fsck", "--data"), ("dump",), ("rm", "--take-over")):
                    if (method, verb[0]) != ("list", "rm"):
                        with mock.patch.object(self.store, method, lambda *_, e=error, **__: fail(e)):
                            result = self.volume(*verb, "mem/a")
                        self.assertEqual(result.exit_code, 1)
                        self.assertEqual(result.stderr.splitlines()[-1], f"txtcmu: {error}")


class CreateTests(VolumeTestCase):
    def test_create(self) -> None:
        """A volume is made, with the geometry that its options say; what is there is not touched."""
        self.done("create", "mem/a;batch=1M", "--size", "10M")
        facts = json.loads(self.done("stat", "mem/a", "--json"))
        self.assertEqual((facts["size"], facts["batch_blocks"], facts["writer"]["closed"]), (10 << 20, 256, True))
        before = dict(self.store.objects)
        self.assertIn("there is a volume at mem/a already", self.refused("create", "mem/a", "--size", "1M"))
        self.assertEqual(self.store.objects, before)

    def test_sizes(self) -> None:
        """A size that no volume can have is refused, and the next one named."""
        self.assertIn(
            "multiple of 4096 bytes long, not 10000: give 8192", self.refused("create", "mem/a", "--size", "10000")
        )
        self.assertIn("not 100: give 4096", self.refused("create", "mem/a", "--size", "100"))

    def test_layout(self) -> None:
        """A layout that makes no volume is refused."""
        self.assertIn("layout=blocks makes no volume", self.refused("create", "mem/a;layout=blocks", "--size", "1M"))
        self.done("create", "mem/a;layout=log", "--size", "1M")

    def test_directory(self) -> None:
        """In a directory, which is made as well."""
        self.done("create", f"dir{self.folder}/x/y", "--size", "1M")
        self.assertIn("closed", self.done("ls", f"dir{self.folder}"))
        self.assertIn("there is a volume at", self.refused("create", f"dir{self.folder}/x/y", "--size", "1M"))


class ListTests(VolumeTestCase):
    def test_nothing(self) -> None:
        """Where there is nothing, nothing is printed."""
        self.assertEqual(self.done("ls", "mem/."), "")
        self.assertEqual(self.done("ls", "mem/a", "--json"), "[]\n")

    def test_volumes(self) -> None:
        """All volumes at a path and below it, with their state; what is none is passed over."""
        self.write("", {1: b"x"})
        self.write("a/", {1: b"x"}, close=False, host="nowhere")
        self.write("a/b/c/", {1: b"x"})
        self.replace("ab/head", b"nothing of ours")
        self.replace("z/head", b"{}")
        lines = self.done("ls", "mem/.").splitlines()
        self.assertEqual(
            [line.split()[:3] for line in lines[1:]],
            [["mem/.", "1M", "closed"], ["mem/./a", "1M", "in"], ["mem/./a/b/c", "1M", "closed"]],
        )
        self.assertRegex(lines[2], "in use by process [0-9]+ on nowhere, since ")
        rows = json.loads(self.done("ls", "mem/a", "--json"))
        self.assertEqual(
            [(row["volume"], row["size"], row["closed"]) for row in rows],
            [("mem/a", SIZE, False), ("mem/a/b/c", SIZE, True)],
        )

    def test_damaged(self) -> None:
        """A volume whose head is damaged is listed as such."""
        self.write("a/", {1: b"x"})
        self.damage_head("a/head")
        self.assertRegex(self.done("ls", "mem/a"), "mem/a +- +object a/head is damaged: ")
        [row] = json.loads(self.done("ls", "mem/a", "--json"))
        self.assertEqual((row["size"], row["uuid"]), (None, None))

    def test_directories(self) -> None:
        """In a file system each volume is a directory of its own."""
        for name in ("b", "a/deep", "a-1"):
            self.done("create", f"dir{self.folder}/{name}", "--size", "1M")
        rows = json.loads(self.done("ls", f"dir{self.folder}", "--json"))
        self.assertEqual(
            [row["volume"] for row in rows], [f"dir{self.folder}/{name}" for name in ("a-1", "a/deep", "b")]
        )
        self.assertIn("No such file", self.refused("ls", f"dir{self.folder}/none"))

    def test_large_volumes_are_skipped(self) -> None:
        """What a volume consists of is not listed: two requests for each, and none for its thousands of objects."""
        self.store.page = 10
        for name in ("a/", "b/"):
            self.write(name, *({number: b"x"} for number in range(1, 60)), close=False)
        requests = mock.Mock(side_effect=self.store.list)
        with mock.patch.object(self.store, "list", requests):
            found = run(lambda _: survey(self.store, "", nothing))
        self.assertEqual(found.heads, ["a/", "b/"])
        self.assertEqual([tree.prefix for tree in found.trees], ["a/", "b/"])
        self.assertLess(requests.call_count, 7)

    def test_trees_here(self) -> None:
        """Trees of the prefix itself are found without a look into the folders beside them."""
        self.store.page = 10
        for name in ("x/", "x/00/", "x/zz/"):
            self.write(name, *({number: b"x"} for number in range(1, 30)))
        for number in range(100):
            self.replace(f"x/folder/{number}", b"")
        requests = mock.Mock(side_effect=self.store.list)
        with mock.patch.object(self.store, "list", requests):
            [tree] = run(lambda _: trees_at(self.store, "x/", nothing))
        self.assertEqual(tree.prefix, "x/")
        self.assertLess(requests.call_count, 8)


class StatTests(VolumeTestCase):
    def test_words(self) -> None:
        """The head and the figures, in words."""
        self.write("a/", {1: b"x", 2: b"y"}, {2: b"z"}, {9: b"q"}, {9: b""})
        self.write("a/", {3: b"x"}, close=False, host="nowhere")
        text = self.done("stat", "mem/a")
        for line in (
            r"disk +1M \(1048576 bytes\)",
            r"data +3 blocks, 12K, ",
            r"checkpoint +after object 5",
            r"to replay +1 objects",
            r"epoch +3, head ",
            r"writer +in use by process [0-9]+ on nowhere, since ",
        ):
            self.assertRegex(text, line)

    def test_json(self) -> None:
        """The same for programs; what died is not counted, though the map was not loaded."""
        self.write("a/", dict.fromkeys(range(8), b"x"), {70: b"y"})
        self.write("a/", dict.fromkeys(range(6), b""), {70: b"z"}, close=False)
        facts = json.loads(self.done("stat", "mem/a", "--json"))
        self.assertEqual((facts["live_blocks"], facts["objects"], facts["replayable"]), (3, 4, 2))
        sizes = [self.store.objects[key].size for key in self.keys("/d/")]
        self.assertEqual(facts["bytes"], sum(sizes) - 2 * 4112)  # without the seals

    def test_damaged(self) -> None:
        """What cannot be counted is said in one line."""
        self.write("a/", {1: b"x"}, {2: b"y"}, close=False)
        self.flip(self.keys("/d/")[2], 20)
        self.assertIn("is damaged", self.refused("stat", "mem/a"))
        self.write("b/", {1: b"x"})
        del self.store.objects[self.keys("/c/")[0]]
        self.assertIn("is missing: see `txtcmu volume fsck`", self.refused("stat", "mem/b"))


class RemoveTests(VolumeTestCase):
    def test_remove(self) -> None:
        """Head first, then all that is below the UUID, and nothing else."""
        self.write("a/", {1: b"x"}, {2: b"x"})
        self.write("a/b/", {1: b"x"})
        self.replace("a/note", b"mine")
        log: list[str] = []
        with self.watching("delete", log):
            result = self.volume("rm", "mem/a", "--yes")
        self.assertEqual((result.exit_code, result.stdout), (0, ""), result.output)
        mine = [key for key in log if "txtcmu-probe" not in key]
        self.assertEqual(mine[0], "a/head")
        self.assertIn(f"{len(mine) - 1} objects removed", result.stderr)
        self.assertEqual([key for key in self.keys() if not key.startswith("a/b/")], ["a/note"])
        self.assertEqual(self.read("a/b/", 1), b"x")

    def watching(self, method: str, log: list[str]) -> Any:
        """Note the keys of requests."""
        original = getattr(self.store, method)

        def watched(key: str, *args: Any, **options: Any) -> Any:
            log.append(key)
            return original(key, *args, **options)

        return mock.patch.object(self.store, method, watched)

    def test_asks(self) -> None:
        """Without a yes nothing is changed, and neither if there is nobody to say it."""
        self.write("a/", {1: b"x"})
        before = dict(self.store.objects)
        for answer in ("n\n", "\n", ""):
            self.assertIn("nothing was changed; --yes", self.refused("rm", "mem/a", answer=answer))
            self.assertEqual(self.store.objects, before)
        self.assertEqual(self.volume("rm", "mem/a", answer="y\n").exit_code, 0)
        self.assertEqual(self.store.objects, {})

    def test_ctrl_c(self) -> None:
        """Ctrl-C at the question is a no, at once, whatever the reactor does with it otherwise."""
        self.write("a/", {1: b"x"})

        def interrupted(*_: object, **__: object) -> bool:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise click.Abort from None  # as click does
            return True

        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        with mock.patch("click.confirm", interrupted):
            self.assertIn("nothing was changed", self.refused("rm", "mem/a"))
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        self.assertEqual(self.read("a/", 1), b"x")

    def test_in_use(self) -> None:
        """A volume in use is refused; taken over, its writer finds a seal and cannot acknowledge anything more."""
        self.write("a/", {1: b"x"}, close=False, host="nowhere")
        before = dict(self.store.objects)
        self.assertRegex(self.refused("rm", "mem/a", "--yes"), "in use by process .* on nowhere.*--take-over")
        self.assertEqual(self.store.objects, before)
        log: list[str] = []
        with self.watching("put", log):
            self.done("rm", "mem/a", "--yes", "--take-over")
        end = [key for key in log if "/d/" in key]
        self.assertEqual(len(end), 1)
        self.assertTrue(end[0].endswith("/d/00000002/0000000000000003"), end)
        self.assertEqual(self.store.objects, {})

    def test_in_use_with_deleted_objects(self) -> None:
        """The seal goes behind the last object, not where a dead one was."""
        self.write("a/", {1: b"x"}, {1: b"y"}, {1: b"z"}, close=False, checkpoint=True)
        self.assertEqual(len(self.keys("/d/00000002")), 1)
        log: list[str] = []
        with self.watching("put", log):
            self.done("rm", "mem/a", "--yes", "--take-over")
        self.assertEqual([key[-16:] for key in log if "/d/" in key], ["0000000000000005"])

    def test_interrupted(self) -> None:
        """Wherever a removal ends: run again, it removes the rest; or what is there is a volume still."""
        self.write("a/", {1: b"x"}, {2: b"x"}, close=False)
        start = dict(self.store.objects)
        for steps in range(200):
            self.store.objects = dict(start)
            count = steps
            original = {name: getattr(MemoryObjectStore, name) for name in ("put", "delete")}

            def dying(name: str) -> Any:
                def request(*args: Any, **options: Any) -> Any:
                    nonlocal count
                    if any("txtcmu-probe" in str(each) for each in args):
                        return original[name](self.store, *args, **options)  # noqa: B023
                    count -= 1
                    if count < 0:
                        return fail(KeyboardInterrupt())
                    return original[name](self.store, *args, **options)  # noqa: B023

                return request

            with (
                mock.patch.object(self.store, "put", dying("put")),
                mock.patch.object(self.store, "delete", dying("delete")),
            ):
                result = self.volume("rm", "mem/a", "--yes", "--take-over")
            if result.exit_code == 0:
                break
            self.assertEqual(result.exit_code, 130, result.output)
            if "a/head" in self.store.objects:
                self.assertEqual((self.read("a/", 1), self.read("a/", 2)), (b"x", b"x"))
            elif self.store.objects:
                self.assertIn("without a head", self.refused("create", "mem/a", "--size", "1M"))
                self.assertIn("nothing was changed", self.refused("rm", "mem/a", answer="n\n"))
            if self.store.objects:
                self.done("rm", "mem/a", "--yes", "--take-over")
            self.assertEqual(self.store.objects, {})
        else:
            self.fail("it never ends")
        self.assertGreater(steps, 5)

    def test_left_beside_a_volume(self) -> None:
        """What a removed volume has left at the prefix of another goes with that one, and the other only when asked."""
        self.write("a/", {1: b"x"})
        stray = self.keys("/d/")[0].replace(self.keys("/d/")[0].split("/")[1], "00000000-0000-4000-8000-000000000000")
        self.replace(stray, b"late")
        self.done("rm", "mem/a", "--yes")
        self.assertEqual(self.store.objects, {})

    def test_opened_meanwhile(self) -> None:
        """Somebody who opens the volume while the question is being thought about keeps it."""
        self.write("a/", {1: b"x"})

        def opened(*_: object, **__: object) -> bool:
            self.write("a/", {2: b"y"}, close=False, host="nowhere")
            return True

        with mock.patch("click.confirm", opened):
            self.assertIn("in use by", self.refused("rm", "mem/a"))
        self.assertEqual(self.read("a/", 2), b"y")

    def test_opened_at_the_last_moment(self) -> None:
        """The head is removed only as it was read."""
        self.write("a/", {1: b"x"})
        original = self.store.delete

        def delete(key: str, **options: Any) -> Any:
            if key == "a/head":
                self.write("a/", {2: b"y"}, close=False)
            return original(key, **options)

        with mock.patch.object(self.store, "delete", delete):
            self.assertIn("a/head", self.refused("rm", "mem/a", "--yes"))
        self.assertEqual(self.read("a/", 2), b"y")

    def test_damaged_head(self) -> None:
        """Of a damaged head nobody can tell whose it is: --take-over removes it all the same."""
        self.write("a/", {1: b"x"})
        self.damage_head("a/head")
        self.assertRegex(self.refused("rm", "mem/a", "--yes"), "a/head is damaged: .*--take-over")
        self.done("rm", "mem/a", "--yes", "--take-over")
        self.assertEqual(self.store.objects, {})

    def test_not_ours(self) -> None:
        """What is no head of a volume is not removed, nor that of a later version."""
        self.replace("a/head", b'{"format": "another"}')
        for flag in ("--yes", "--take-over"):
            self.assertIn("something else than a volume", self.refused("rm", "mem/a", "--yes", flag))
        self.assertEqual(self.keys(), ["a/head"])

    def test_directory(self) -> None:
        """In a directory; the directory itself stays."""
        where = f"dir{self.folder}/disk"
        self.done("create", where, "--size", "1M")
        self.done("rm", where, "--yes")
        self.assertIn("there is no volume at", self.refused("rm", where, "--yes"))
        self.assertEqual(list(Path(self.folder).rglob("*.object")), [])


class ProgressTests(VolumeTestCase):
    def test_bars(self) -> None:
        """On a terminal each kind of work has a bar; elsewhere nobody is told."""
        shown = StringIO()
        with bars(Console(file=shown, force_terminal=True, width=80)) as progress:
            progress("reading the map", 3, 7)
            progress("listing", 1000, 0)
            progress("reading the map", 7, 7)
        self.assertIn("reading the map", shown.getvalue())
        self.assertIn("7/7", shown.getvalue())
        self.assertIn("listing", shown.getvalue())
        self.assertIn("1000/?", shown.getvalue())
        result = self.volume("ls", "mem/a")
        self.assertEqual(result.output, "")
