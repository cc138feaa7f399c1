"""The contract of backstores on an image, for files and block devices of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable

from txtcmu.backstores.file import FileBackstore
from txtcmu.backstores.fileio import SystemCalls
from txtcmu.backstores.image import create_image, open_image
from txtcmu.interfaces import (
    IBlockStatus,
    IDiscard,
    IForceUnitAccess,
    IResizable,
    IVectoredBackstore,
    IWriteZeroes,
)
from txtcmu.testing.contract import BackstoreContract


class FileContract(BackstoreContract):
    """The contract on an image file, with system calls to choose."""

    companions = frozenset({IVectoredBackstore, IForceUnitAccess, IDiscard, IWriteZeroes, IBlockStatus, IResizable})
    mktemp: Callable[[], str]

    def calls(self) -> SystemCalls:
        """Return the system calls to use."""
        return SystemCalls()

    async def make_backstore(self, size: int) -> FileBackstore:
        """Make an image of its own for each test."""
        from twisted.internet import reactor

        self.reactor, self.system = reactor, self.calls()
        self.path = self.storage(size)
        return self.open()

    def storage(self, size: int) -> str:
        """Make a place for ``size`` bytes; return its path."""
        path = os.path.abspath(self.mktemp())
        create_image(path, size)
        return path

    def open(self) -> FileBackstore:
        """Open the image of this test."""
        return FileBackstore(open_image(self.path, system=self.system), self.reactor)

    async def reopen(self, backstore: FileBackstore) -> FileBackstore:
        """Close and open."""
        await backstore.close()
        return self.open()


class DeviceContract(FileContract):
    """The contract on a block device, whose size is not ours to change."""

    companions = FileContract.companions - {IResizable}
