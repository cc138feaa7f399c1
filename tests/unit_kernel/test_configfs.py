"""configfs, read while others change it."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from txtcmu.kernel.configfs import ConfigFS


class LinkTests(SynchronousTestCase):
    def test_taken_away_meanwhile(self) -> None:
        """A link that somebody takes away between two looks at it is not there; the others are."""
        root = Path(self.mktemp())
        goal = root / "goal"
        goal.mkdir(parents=True)
        names = ["first", "second", "third"]
        for name in names:
            (root / name).symlink_to("goal")
        readlink = os.readlink

        def overtaken(path: str) -> str:
            if os.path.basename(path) == "second":
                os.unlink(path)
            return readlink(path)

        with mock.patch("os.readlink", overtaken):
            found = ConfigFS(root).links(root)
        self.assertEqual(found, [(root / name, goal.resolve()) for name in ("first", "third")])
        self.assertEqual(ConfigFS(root).links(root / "gone"), [])
