"""The kernel's side of a device, as far as it is made of configfs."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.unit_kernel.fake_configfs import FakeConfigFS
from txtcmu.kernel.configfs import Backstore
from txtcmu.kernel.sysfs import UIODevice
from txtcmu.lun.target import KernelTarget


class IdentityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.backstore = Backstore.create("vol", {"dev_config": "s3/bucket/vol"}, FakeConfigFS(Path(self.mktemp())))

    def serial(self, dev_config: str, name: str = "vol") -> str:
        uio = UIODevice(0, "/dev/uio0", self.backstore.hba, name, dev_config, 4096)
        return KernelTarget(uio, self.backstore).identity().serial

    def test_own_serial(self) -> None:
        """A serial number that the operator gave is the one."""
        self.backstore.serial = "0123-4567"
        self.assertEqual(self.serial("s3/bucket/vol"), "0123-4567")

    def test_stable(self) -> None:
        """Without one, options do not make a disk another one: they may change while it lives."""
        serial = self.serial("s3/bucket/vol")
        self.assertEqual(
            {self.serial(f"s3/bucket/vol{options}") for options in (";profile=a", ";cache=1M;profile=b")}, {serial}
        )
        self.assertNotIn("bucket", serial)

    def test_apart(self) -> None:
        """Two disks are not taken for one another."""
        serials = {self.serial("s3/bucket/vol"), self.serial("s3/bucket/vol2"), self.serial("s3/bucket/vol", "other")}
        self.assertEqual(len(serials), 3)
