"""The file backstore on a real block device."""

from __future__ import annotations

import subprocess

from twisted.trial.unittest import TestCase

from tests.backstores.filesupport import DeviceContract
from txtcmu.backstores.image import open_image
from txtcmu.errors import ConfigError


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class LoopDeviceTests(DeviceContract, TestCase):
    """The contract on a loop device."""

    size = 2 << 20
    rounds = 30

    def setUp(self) -> None:
        """Have loop devices."""
        _run("modprobe", "loop")

    def storage(self, size: int) -> str:
        """Attach a loop device to a new file."""
        device = _run("losetup", "--find", "--show", super().storage(size))
        self.addCleanup(_run, "losetup", "--detach", device)
        return device

    async def test_exclusive(self) -> None:
        """A block device that is open for writing is refused to a second device."""
        await self.open_backstore()
        error = self.assertRaises(ConfigError, open_image, self.path)
        self.assertIn("in use by the kernel or another device", str(error))
