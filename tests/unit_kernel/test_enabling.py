"""Enabling in a child process.  A FIFO stands for an ``enable`` that waits for its daemon."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.unit_kernel.fake_configfs import FakeConfigFS
from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import Backstore
from txtcmu.kernel.enabling import enable


class EnablingTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a backstore that is not enabled."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        configfs = FakeConfigFS(Path(directory.name))
        self.backstore = Backstore.create("vol", {"dev_config": "test/vol", "dev_size": 4096}, configfs)
        self.notices = 0

    def notice(self) -> None:
        """Count."""
        self.notices += 1

    def block(self) -> Path:
        """Have ``enable`` wait for a reader."""
        path = self.backstore.path / "enable"
        path.unlink()
        os.mkfifo(path)
        return path

    def test_at_once(self) -> None:
        """What is answered at once needs no words."""
        enable(self.backstore, self.notice, patience=60)
        self.assertTrue(self.backstore.enabled)
        self.assertEqual(self.notices, 0)

    def test_slow(self) -> None:
        """What takes longer is explained, and still ends well."""
        fifo = self.block()
        written: list[str] = []
        reader = threading.Thread(target=lambda: written.append(fifo.read_text()))

        def notice() -> None:
            self.notice()
            reader.start()

        enable(self.backstore, notice, patience=0)
        reader.join()
        self.assertEqual((self.notices, written), (1, ["1"]))
        self.assertTrue(self.backstore.exists)

    def test_refused(self) -> None:
        """A refusal arrives as the same line that the write itself would have raised."""
        (self.backstore.path / "attrib" / "dev_size").write_text("0\n")
        with self.assertRaises(KernelError) as caught:
            enable(self.backstore, self.notice, patience=60)
        self.assertEqual(str(caught.exception), "vol has no dev_size: set it before enabling")
        self.assertTrue(self.backstore.exists)
