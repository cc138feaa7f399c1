"""Keys as paths."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.errors import ObjectStoreError
from txtcmu.objectstore.filenames import path_of, walk

PARTS = st.sampled_from(["", ".", "..", "a", "a.object", "a.more", "%", "%41", "ü", "\0", "-", "0", "x" * 79, "x" * 80])
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(st.characters(codec="utf-8"), max_size=99)
KEYS = (KEYS | st.tuples(KEYS, KEYS).map("".join)).filter(bool)


class Tree:
    """Paths without files."""

    def __init__(self, paths: list[str]) -> None:
        self.folders: dict[str, set[str]] = {"": set()}
        for path in paths:
            names = path.split("/")
            for depth, name in enumerate(names):
                self.folders.setdefault("".join(f"{each}/" for each in names[:depth]), set()).add(name)

    def names_in(self, folder: str) -> set[str]:
        """Return the names in a directory."""
        return self.folders[folder]


class NameTests(SynchronousTestCase):
    @given(st.lists(KEYS, max_size=12), KEYS | st.just(""), KEYS | st.just(""))
    def test_walk_is_a_sorted_list(self, keys: list[str], prefix: str, after: str) -> None:
        """Whatever the keys are, walking the paths yields them as S3 lists them."""
        tree = Tree([path_of(key) for key in keys])
        for start in {prefix, prefix[:1], "".join(keys[:1])[:-1], ""}:
            expected = sorted({key for key in keys if key.startswith(start) and key > after}, key=str.encode)
            walked = list(walk(tree.names_in, start.encode(), after.encode()))
            self.assertEqual([key for _, key in walked], expected)
            self.assertEqual([path for path, _ in walked], [path_of(key) for key in expected])

    @given(KEYS)
    def test_paths_can_be_made(self, key: str) -> None:
        """No path leaves the directory, and no name in it is too long or hides from a shell."""
        for name in path_of(key).split("/"):
            self.assertNotIn(name, ("", ".", ".."))
            self.assertLessEqual(len(name), 255)
            self.assertRegex(name, r"\A[A-Za-z0-9_~%-]+(\.object|\.more)?\Z")

    def test_longest(self) -> None:
        """The path of a key of 1024 bytes fits, whatever the bytes are."""
        for unit in ("/", "ü", "ü/", "\x01/", "x", ".", "/\x01"):
            key = (unit * 1024).encode()[:1024].decode(errors="ignore")
            self.assertLess(len("objects/" + path_of(key)), os.pathconf("/", "PC_PATH_MAX") - 1, repr(unit))

    def test_impossible_keys(self) -> None:
        """What is no key is refused with one line that says why."""
        for key, word in (("", "1 to 1024"), ("x" * 1025, "1025"), ("ü" * 513, "1026"), ("a\udc80", "not Unicode")):
            with self.assertRaisesRegex(ObjectStoreError, word):
                path_of(key)

    def test_foreign_names(self) -> None:
        """Names that are nobody's key are passed over."""
        names = {
            "a.object",
            "lost+found",
            "a.object~",
            ".a.object.swp",
            "%4a.object",
            "%41.object",
            "x.more",
            "é",
            "b.o",
        }
        tree = Tree([f"d/{name}" for name in names] + ["lost+found/a.object"])
        self.assertEqual(list(walk(tree.names_in, b"", b"")), [("d/a.object", "d/a")])
