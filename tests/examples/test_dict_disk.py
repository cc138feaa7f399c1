"""The example of the README works as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

import examples.dict_disk
from examples.dict_disk import DictDisk, dictionary
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.testing.contract import BackstoreContract
from txtcmu.testing.rig import Rig


def _open(size: int) -> Any:
    return dictionary.open(DeviceParameters(DeviceConfig("dict", "disk"), size, 512, None, Logger()))


class DictDiskTests(SynchronousTestCase):
    def test_it_is_short(self) -> None:
        """A complete handler takes at most 25 lines."""
        lines = Path(examples.dict_disk.__file__).read_text().splitlines()
        self.assertLessEqual(len(lines), 25)

    def test_it_is_a_disk(self) -> None:
        """What is written through ring and SCSI is read back, on the fake kernel."""
        rig = Rig(_open(1 << 20), fragment=True)
        written = rig.initiator.write(8, b"txtcmu".ljust(8192, b"."))
        rig.settle()
        read = rig.initiator.read(7, 18)
        rig.settle()
        self.assertEqual((written.status, read.status), (0, 0))
        self.assertEqual(read.data, bytes(512) + b"txtcmu".ljust(8192, b".") + bytes(512))
        rig.close()


class DictDiskContractTests(BackstoreContract, TestCase):
    async def make_backstore(self, size: int) -> DictDisk:
        backstore: DictDisk = _open(size)
        return backstore
