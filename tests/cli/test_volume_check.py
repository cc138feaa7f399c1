"""``txtcmu volume fsck`` and ``dump``: damage of every kind is found, and the end of a log can be given up."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock
from uuid import UUID

from attrs import evolve
from twisted.internet.defer import Deferred, fail

from tests.cli.volumesupport import BLOCK, VolumeTestCase, run
from txtcmu.backstores.volumes import new_writer
from txtcmu.errors import FencedError
from txtcmu.objectstore.directory import connect
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.objectstore.objects import ObjectDamaged
from txtcmu.testing.reactor import FakeReactor
from txtcmu.volume.head import Head
from txtcmu.volume.logobject import decode_header, encode_header
from txtcmu.volume.names import log_place, part_place
from txtcmu.volume.root import Root
from txtcmu.volume.slots import SLOT
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume


class CheckTestCase(VolumeTestCase):
    """A volume ``mem/a`` whose first writer died after three objects, and whose second one after two."""

    def setUp(self) -> None:
        """Write: objects 2 to 4 in epoch 2, 6 and 7 in epoch 3; 1 and 5 are seals."""
        super().setUp()
        self.write("a/", {1: b"1", 2: b"2"}, {3: b"3"}, {1: b"4"}, close=False)
        self.write("a/", {5: b"5"}, {6: b"6"}, close=False)

    def log(self, seq: int) -> str:
        """Return the key of an object of the log, or of a seal."""
        return next(key for key in self.keys("/d/") if log_place(key)[1] == seq)  # type: ignore[index]

    def checkpointed(self) -> None:
        """Close the volume: the checkpoint is at 8, the seal of the second writer."""
        self.write("a/")
        self.assertIn("clean", self.done("fsck", "mem/a", "--data"))

    def part(self, number: int) -> str:
        """Return the key of a part of the checkpoint; 0 is the root."""
        [key] = [key for key in self.keys("/c/") if part_place(key)[2] == number]  # type: ignore[index]
        return key

    def found(self, *options: str) -> list[str]:
        """Return the problems that a check finds."""
        before = dict(self.store.objects)
        lines = self.done("fsck", "mem/a", *options, status=1).splitlines()
        self.assertEqual(self.store.objects, before)
        return [line for line in lines if "nothing refers to" not in line]


class CleanTests(CheckTestCase):
    def test_clean(self) -> None:
        """A volume that is whole is said to be; one in use is, too, with a remark."""
        result = self.volume("fsck", "mem/a", "--data")
        self.assertEqual(result.exit_code, 0)
        self.assertRegex(result.stdout, "^clean: 5 blocks in 5 objects, [0-9.]+K\n$")
        self.assertIn("in use by process", result.stderr)
        self.checkpointed()
        self.assertEqual(self.volume("fsck", "mem/a").stderr, "")

    def test_orphans(self) -> None:
        """What nothing refers to is counted, and does not make the volume bad; seals are not."""
        stray = self.log(7)[:-16]
        self.replace(f"{stray}{9:016x}", b"too late")
        self.replace(f"{stray}{10:016x}", self.store.objects[self.log(8 - 1)].data)
        self.replace(f"{stray}what is this", b"")
        self.assertIn("3 objects that nothing refers to", self.done("fsck", "mem/a"))

    def test_changes_meanwhile(self) -> None:
        """What is wrong in a volume that changed while it was looked at may never have been so."""
        original = self.store.list
        self.flip(self.log(6), 20)

        def changing(*args: Any) -> Any:
            self.store.list = original
            self.done("fsck", "mem/a", "--drop-from", "6", "--yes", "--take-over")
            return original(*args)

        with mock.patch.object(self.store, "list", changing):
            self.assertIn("has changed while it was checked", self.refused("fsck", "mem/a"))
        self.assertIn("clean", self.done("fsck", "mem/a"))


class DamageTests(CheckTestCase):
    def test_log_objects(self) -> None:
        """An object of the log that is not what was written, however, is named, and what giving up would cost."""
        start = dict(self.store.objects)
        key = self.log(3)
        for damage, word in (
            (lambda: self.flip(key, 2), "does not begin with a header"),
            (lambda: self.flip(key, 20), "wrong checksum"),
            (lambda: self.flip(key, 115), "wrong checksum"),
            (lambda: self.truncate(key, SLOT), f"{SLOT} bytes"),
            (lambda: self.truncate(key, 50), "too short"),
            (lambda: self.truncate(key, 0), "too short"),
            (lambda: self.replace(key, self.store.objects[self.log(4)].data), "it is object 4 of epoch 2"),
            (lambda: self.store.objects.pop(key), "is missing"),
        ):
            self.store.objects = dict(start)
            damage()
            [problem] = self.found()
            self.assertIn(f"object {key} is ", problem)
            self.assertIn(word, problem)
            behind = 3 + (key in self.store.objects)
            self.assertIn(f"`txtcmu volume fsck --drop-from 3` gives up {behind} objects", problem)

    def test_block(self) -> None:
        """A block that is damaged is found when blocks are read, and named."""
        self.flip(self.log(3), SLOT + 100)
        self.assertIn("clean", self.done("fsck", "mem/a"))
        self.assertEqual(self.found("--data"), [f"block 3 (byte {3 * BLOCK}) is damaged in object {self.log(3)}"])
        self.checkpointed_with_damage()
        self.assertEqual(self.found("--data"), [f"block 3 (byte {3 * BLOCK}) is damaged in object {self.log(3)}"])

    def test_flips_on_the_way(self) -> None:
        """A bit that flips once, on its way from the store, is no damage: not of a block, a header or a root."""
        self.checkpointed()
        original, met = self.store.get, set[str]()

        async def flipping(key: str, *args: Any, **options: Any) -> Any:
            found = await original(key, *args, **options)
            if key in met or key == "a/head" or "probe" in key:
                return found
            met.add(key)
            data = bytearray(found.data)
            data[30] ^= 0x10
            return evolve(found, data=bytes(data))

        with mock.patch.object(self.store, "get", lambda *a, **o: Deferred.fromCoroutine(flipping(*a, **o))):
            self.assertIn("clean", self.done("fsck", "mem/a", "--data"))
            self.assertTrue({self.log(2), self.part(0)} <= met)
            met.clear()
            self.assertNotIn("DAMAGED", self.done("dump", "mem/a"))
            self.assertTrue({self.log(2), self.part(0)} <= met)

    def checkpointed_with_damage(self) -> None:
        """Close the volume as it is."""
        self.write("a/")

    def test_unreadable(self) -> None:
        """What the store itself calls damaged is reported in its words."""
        key, original = self.log(3), self.store.get

        def get(asked: str, *args: Any, **options: Any) -> Any:
            if asked == key:
                return fail(ObjectDamaged(f"{asked}: the disk beneath"))
            return original(asked, *args, **options)

        with mock.patch.object(self.store, "get", get):
            [problem] = self.found()
            self.assertIn("the disk beneath: `txtcmu volume fsck --drop-from 3`", problem)
        self.checkpointed()
        with mock.patch.object(self.store, "get", get):
            self.assertEqual(self.found("--data"), [f"{key}: the disk beneath"])

    def test_checkpointed_objects(self) -> None:
        """An object that blocks live in is missed, and its size compared; one without live blocks is neither."""
        self.checkpointed()
        key = self.log(2)
        self.truncate(key, SLOT)
        self.assertEqual(self.found(), [f"object {key} has {SLOT} bytes instead of {3 * SLOT}"])
        del self.store.objects[key]
        self.assertEqual(self.found("--data"), [f"object {key} is missing: 1 blocks are lost"])

    def test_root(self) -> None:
        """Without the root of the checkpoint there is no disk, and no log that could bring it back."""
        self.checkpointed()
        key = self.part(0)
        self.flip(key, 30)
        [problem] = self.found("--data")
        self.assertRegex(problem, f"object {key} is damaged: it has a wrong checksum: the disk is lost")
        self.truncate(key, 20)
        self.assertIn("too short", self.found()[0])
        del self.store.objects[key]
        self.assertIn(f"object {key} is missing: the disk is lost", self.found()[0])

    def test_leaves(self) -> None:
        """A leaf of the map that is damaged or missing costs the blocks that it speaks of."""
        self.write("a/", {200: b"far"})
        key = self.part(1)
        self.flip(key, 5)
        [problem] = self.found("--data")
        self.assertIn(f"blocks from 0 on are lost: object {key} is damaged: leaf 0", problem)
        del self.store.objects[key]
        problems = self.found("--data")
        self.assertEqual(
            [problem.partition(":")[0] for problem in problems],
            ["blocks from 0 on are lost", "blocks from 192 on are lost"],
        )

    def test_accounts(self) -> None:
        """A checkpoint that contradicts itself is found out."""
        self.checkpointed()
        place = part_place(self.part(0))
        assert place is not None
        [uuid] = {key.split("/")[1] for key in self.keys("/c/")}

        def rewritten(**changes: Any) -> None:
            root = Root.decode(data, UUID(uuid), *place[:2])
            self.replace(
                self.part(0), evolve(root, **{name: change(root) for name, change in changes.items()}).encode()
            )

        data = self.store.objects[self.part(0)].data

        def counted(root: Root) -> Any:
            objects = root.objects.copy()
            objects["live"][0] += 1
            return objects

        rewritten(objects=counted)
        self.assertEqual(self.found(), [f"1 blocks live in object {self.log(2)}, not 2"])
        rewritten(objects=lambda root: root.objects[1:])
        self.assertIn("the map refers to object 2, which there never was", self.found())

    def test_head(self) -> None:
        """Without a head nothing can be told of a volume."""
        self.damage_head("a/head")
        self.assertIn("object a/head is damaged: it has a wrong checksum", self.refused("fsck", "mem/a"))
        self.truncate("a/head", 100)
        self.assertIn("object a/head is damaged: it is no JSON", self.refused("fsck", "mem/a"))

    def test_gap(self) -> None:
        """More objects behind a missing one than can have been under way: they were flushed, and are lost."""
        self.write("a/", *({number: b"x"} for number in range(20, 40)), close=False)
        key = self.log(15)
        del self.store.objects[key]
        [problem] = self.found()
        self.assertRegex(problem, f"object {key} is missing, and 13 objects that were written after it count no more")
        for seq in range(22, 29):
            del self.store.objects[self.log(seq)]
        self.assertIn("6 objects that nothing refers to", self.done("fsck", "mem/a"))

    def test_newer(self) -> None:
        """What a later version wrote is not taken for damage, nor given up."""
        key = self.log(3)
        header = decode_header(self.store.objects[key].data, self.uuid(), 2, 3, self.store.objects[key].size)
        with mock.patch("txtcmu.volume.logobject.VERSION", 2):
            data = encode_header(header)
        self.replace(key, data + self.store.objects[key].data[len(data) :])
        self.assertIn("needs a newer txtcmu", self.refused("fsck", "mem/a"))

    def uuid(self) -> Any:
        """Return the volume's UUID."""
        return Head.decode(self.store.objects["a/head"].data).uuid


class DropTests(CheckTestCase):
    def drop(self, seq: int, *options: str) -> str:
        """Give up a part of the log."""
        result = self.volume("fsck", "mem/a", "--data", "--drop-from", str(seq), "--yes", "--take-over", *options)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("clean", result.stdout)
        return result.stderr

    def blocks(self) -> list[bytes]:
        """Return what blocks 1 to 6 hold."""
        return [self.read("a/", block) for block in range(1, 7)]

    def test_damaged(self) -> None:
        """The disk is what it was before the object, for ever; and goes on from there."""
        self.flip(self.log(4), 20)
        self.assertIn("is damaged", self.refused("stat", "mem/a"))
        self.assertIn("3 objects of the log were given up", self.drop(4))
        self.assertEqual(self.blocks(), [b"1", b"2", b"3", b"", b"", b""])
        self.write("a/", {4: b"new"}, close=False)
        self.write("a/", {6: b"newer"})
        self.assertEqual(self.blocks(), [b"1", b"2", b"3", b"new", b"", b"newer"])
        self.assertIn("clean", self.done("fsck", "mem/a", "--data"))

    def test_wherever(self) -> None:
        """At each object, damaged, missing or whole, the rest is what was written before it."""
        start = dict(self.store.objects)
        states = {
            1: [b"", b"", b"", b"", b"", b""],
            2: [b"", b"", b"", b"", b"", b""],
            3: [b"1", b"2", b"", b"", b"", b""],
            4: [b"1", b"2", b"3", b"", b"", b""],
            5: [b"4", b"2", b"3", b"", b"", b""],
            6: [b"4", b"2", b"3", b"", b"", b""],
            7: [b"4", b"2", b"3", b"", b"5", b""],
        }
        for seq, expected in states.items():
            for damage in (self.damage, self.store_without, lambda _: None):
                self.store.objects = dict(start)
                damage(seq)
                if seq > 5 and self.log_missing(seq):
                    continue  # which ends the log of the present epoch, and is no damage
                self.drop(seq)
                self.assertEqual(self.blocks(), expected, (seq, damage))

    def damage(self, seq: int) -> None:
        """Damage an object."""
        self.flip(self.log(seq), 20)

    def store_without(self, seq: int) -> None:
        """Lose an object."""
        del self.store.objects[self.log(seq)]

    def log_missing(self, seq: int) -> bool:
        """Tell whether an object is missing."""
        return not any(log_place(key)[1] == seq for key in self.keys("/d/"))  # type: ignore[index]

    def test_asks(self) -> None:
        """What is lost is said first; without a yes nothing is changed."""
        before = dict(self.store.objects)
        result = self.volume("fsck", "mem/a", "--drop-from", "4", "--take-over", answer="n\n")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"gives up object 4 and all .*: 3 objects of the log with [0-9.]+K\.")
        kept = {key: each for key, each in self.store.objects.items() if "probe" not in key}
        self.assertEqual(kept, before)

    def test_refused(self) -> None:
        """What is in the checkpoint, or not there, cannot be given up; nor anything behind damage that stays."""
        self.assertIn("in use by process", self.refused("fsck", "mem/a", "--drop-from", "4", "--yes"))
        self.assertIn("the log ends before object 8", self.refused("fsck", "mem/a", "--drop-from", "8", "--take-over"))
        self.flip(self.log(3), 20)
        self.assertIn("--drop-from 3", self.refused("fsck", "mem/a", "--drop-from", "6", "--take-over", "--yes"))
        del self.store.objects[self.log(2)]
        self.assertIn(
            "only --drop-from 2 makes", self.refused("fsck", "mem/a", "--drop-from", "6", "--take-over", "--yes")
        )
        self.drop(2)
        head = self.store.objects["a/head"]
        self.assertIn("the checkpoint holds object 4 already", self.refused("fsck", "mem/a", "--drop-from", "4"))
        self.assertEqual(self.store.objects["a/head"], head)

    def test_closed(self) -> None:
        """A volume that was closed needs no force, but has nothing to give up."""
        self.checkpointed()
        self.assertIn("from 9 on can be given up", self.refused("fsck", "mem/a", "--drop-from", "8"))
        self.assertIn("the log ends before", self.refused("fsck", "mem/a", "--drop-from", "50"))

    def test_deposes_the_writer(self) -> None:
        """A writer that lives after all finds a seal where it means to write, and acknowledges nothing more."""

        async def written(reactor: Any) -> None:
            keeper, replay = await take_over(self.store, "a/", new_writer(), os.urandom, reactor, forced=True)
            volume = Volume(self.store, keeper, replay, reactor, Tuning())
            volume.write(9 * BLOCK, memoryview(b"a" * BLOCK))
            await volume.flush()
            self.drop(4)
            volume.write(9 * BLOCK, memoryview(b"b" * BLOCK))
            with self.assertRaisesRegex(FencedError, "process .* has taken the volume over"):
                await volume.flush()
            volume.abandon()

        run(written)
        self.assertEqual(self.blocks(), [b"1", b"2", b"3", b"", b"", b""])
        self.assertEqual(self.read("a/", 9), b"")

    def test_seal_of_another(self) -> None:
        """A seal whose writer died before it replaced the head is accepted."""
        original = self.store.put

        def dying(key: str, *args: Any, **options: Any) -> Any:
            return fail(KeyboardInterrupt()) if key == "a/head" else original(key, *args, **options)

        with mock.patch.object(self.store, "put", dying), self.assertRaises(KeyboardInterrupt):
            self.write("a/", {1: b"never"})
        self.assertTrue(self.log(8))
        objects = set(self.keys("/d/"))
        self.drop(7)
        self.assertEqual(set(self.keys("/d/")) - objects, set())
        self.assertEqual(self.blocks(), [b"4", b"2", b"3", b"", b"5", b""])

    def test_interrupted(self) -> None:
        """Wherever it ends, the volume is either as it was or without the writes; run again, it ends well."""
        self.flip(self.log(4), 20)
        start = dict(self.store.objects)
        puts, deletes = MemoryObjectStore.put, MemoryObjectStore.delete
        for steps in range(100):
            self.store.objects = dict(start)
            left = [steps]

            def dying(method: Any, left: list[int], *args: Any, **options: Any) -> Any:
                if "probe" not in args[0]:
                    left[0] -= 1
                    if left[0] < 0:
                        return fail(KeyboardInterrupt())
                return method(self.store, *args, **options)

            with (
                mock.patch.object(self.store, "put", lambda *a, left=left, **o: dying(puts, left, *a, **o)),
                mock.patch.object(self.store, "delete", lambda *a, left=left, **o: dying(deletes, left, *a, **o)),
            ):
                result = self.volume("fsck", "mem/a", "--drop-from", "4", "--yes", "--take-over")
            if result.exit_code == 0:
                break
            self.assertEqual(result.exit_code, 130, result.output)
            again = self.volume("fsck", "mem/a", "--drop-from", "4", "--yes", "--take-over")
            if again.exit_code:
                self.assertIn("the checkpoint holds object 4 already", again.stderr)
            self.assertEqual(self.blocks(), [b"1", b"2", b"3", b"", b"", b""])
            self.assertIn("clean", self.done("fsck", "mem/a"))
        else:
            self.fail("it never ends")
        self.assertGreater(steps, 3)

    def test_somebody_else(self) -> None:
        """Who changes the volume meanwhile keeps it: nothing was given up."""
        self.flip(self.log(7), 20)

        def opened(*_: object, **__: object) -> bool:
            self.drop(7)
            return True

        with mock.patch("click.confirm", opened):
            self.assertIn("quicker", self.refused("fsck", "mem/a", "--drop-from", "6", "--take-over"))
        self.assertEqual(self.blocks(), [b"4", b"2", b"3", b"", b"5", b""])

    def test_directory(self) -> None:
        """In a directory, where an object has lost its end."""
        where = f"dir{self.folder}/disk"
        self.done("create", where, "--size", "1M")
        reactor = FakeReactor()
        store = self.successResultOf(Deferred.fromCoroutine(connect(reactor, str(self.folder / "disk"))))
        memory, self.store = self.store, store
        self.write("", {1: b"1"}, {2: b"2"}, {3: b"3"}, close=False)
        self.store = memory
        file = sorted((self.folder / "disk").rglob("d/00000002/*.object"))[1]
        file.write_bytes(file.read_bytes()[:-10])
        self.assertRegex(self.done("fsck", where, status=1), "is damaged.*--drop-from 3` gives up 2 objects")
        self.assertIn("clean", self.done("fsck", where, "--drop-from", "3", "--yes", "--take-over"))
        self.assertIn("data        1 blocks", self.done("stat", where))


class DumpTests(CheckTestCase):
    def test_all(self) -> None:
        """The head, the root and each object of the log are lines that say what they are."""
        self.checkpointed()
        text = self.done("dump", "mem/a")
        for line in (
            r"^head    a/head: [0-9]+ bytes$",
            r'^   "generation": [0-9]+,$',
            rf"^root    {self.part(0)}: [0-9]+ bytes, in the head; after object 8: disk of 1048576 bytes, 1 leaves in"
            " 1 parts, 5 objects with 5 live blocks; epochs 2 from 2, 3 from 6",
            rf"^part    {self.part(1)}: [0-9]+ bytes$",
            rf"^data    {self.log(2)}: 12336 bytes, 2 blocks in 1 runs, 0 holes in 0 runs from 1 to 2, writer"
            " [0-9a-f]{32}$",
            rf"^seal    {self.log(5)}: 4112 bytes, writer [0-9a-f]{{32}}$",
        ):
            self.assertRegex(text, f"(?m){line}")

    def test_damaged(self) -> None:
        """What is damaged is said to be, in its place, and the rest is read."""
        self.checkpointed()
        self.flip(self.log(3), 20)
        self.flip(self.part(0), 30)
        self.damage_head("a/head")
        self.replace(self.log(2)[:-16] + "note", b"")
        text = self.done("dump", "mem/a")
        for line in (
            "DAMAGED a/head: it has a wrong checksum",
            f"DAMAGED {self.part(0)}: it has a wrong checksum",
            f"DAMAGED {self.log(3)}: its header has a wrong checksum",
            "other   .*/note: 0 bytes",
            f"data    {self.log(4)}: ",
        ):
            self.assertRegex(text, f"(?m)^{line}")

    def test_without_a_head(self) -> None:
        """Without a head what is left is dumped."""
        del self.store.objects["a/head"]
        text = self.done("dump", "mem/a")
        self.assertIn("MISSING a/head\nvolume ", text)
        self.assertEqual(text.count("\ndata  "), 5)

    def test_unreadable(self) -> None:
        """Not even a store that cannot read an object ends it."""
        with mock.patch.object(self.store, "get", lambda key, *_, **__: fail(ObjectDamaged(f"{key} is gone"))):
            text = self.done("dump", "mem/a")
        self.assertEqual(text.count("DAMAGED"), len(self.keys()))
