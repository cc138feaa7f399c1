"""A small SCSI initiator on a :class:`~txtcmu.testing.fakekernel.FakeKernel`, for tests of block devices."""

from __future__ import annotations

from struct import pack

from txtcmu.testing.fakekernel import FakeCommand, FakeKernel

__all__ = ["FakeInitiator"]

_FUA = 0x08


class FakeInitiator:
    """Sends the commands that a disk driver sends; each method returns at once with a command to look at.

    :param block_size: bytes of a logical block; addresses and lengths below are in blocks.
    """

    def __init__(self, kernel: FakeKernel, block_size: int = 512) -> None:
        self.kernel = kernel
        self.block_size = block_size

    def read(self, lba: int, blocks: int, *, fua: bool = False) -> FakeCommand:
        """READ (16)."""
        cdb = pack(">BBQIBB", 0x88, _FUA if fua else 0, lba, blocks, 0, 0)
        return self.kernel.submit(cdb, data_in_length=blocks * self.block_size)

    def write(self, lba: int, data: bytes, *, fua: bool = False) -> FakeCommand:
        """WRITE (16) of whole blocks."""
        blocks, rest = divmod(len(data), self.block_size)
        if rest:
            raise ValueError(f"{len(data)} bytes are no whole number of blocks of {self.block_size}")
        return self.kernel.submit(pack(">BBQIBB", 0x8A, _FUA if fua else 0, lba, blocks, 0, 0), data)

    def sync(self, lba: int = 0, blocks: int = 0) -> FakeCommand:
        """SYNCHRONIZE CACHE (16); all of the disk by default."""
        return self.kernel.submit(pack(">BBQIBB", 0x91, 0, lba, blocks, 0, 0))

    def unmap(self, *extents: tuple[int, int]) -> FakeCommand:
        """UNMAP of ``(lba, blocks)`` pairs."""
        descriptors = b"".join(pack(">QI4x", lba, blocks) for lba, blocks in extents)
        data = pack(">HH4x", 6 + len(descriptors), len(descriptors)) + descriptors
        return self.kernel.submit(pack(">BB5xHB", 0x42, 0, len(data), 0), data)

    def write_same(self, lba: int, blocks: int, pattern: bytes, *, unmap: bool = False) -> FakeCommand:
        """WRITE SAME (16) of one block."""
        return self.kernel.submit(pack(">BBQIBB", 0x93, 0x08 if unmap else 0, lba, blocks, 0, 0), pattern)

    def inquiry(self, page: int | None = None, allocation_length: int = 255) -> FakeCommand:
        """INQUIRY: the standard data, or a VPD page."""
        cdb = pack(">BBBHB", 0x12, page is not None, page or 0, allocation_length, 0)
        return self.kernel.submit(cdb, data_in_length=allocation_length)

    def read_capacity(self) -> FakeCommand:
        """READ CAPACITY (16)."""
        return self.kernel.submit(pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0), data_in_length=32)

    def test_unit_ready(self) -> FakeCommand:
        """TEST UNIT READY."""
        return self.kernel.submit(bytes(6))

    def verify(self, lba: int, blocks: int, data: bytes = b"", *, byte_check: int = 0) -> FakeCommand:
        """VERIFY (16); ``byte_check`` says what ``data`` is."""
        return self.kernel.submit(pack(">BBQIBB", 0x8F, byte_check << 1, lba, blocks, 0, 0), data)

    def compare_and_write(self, lba: int, expected: bytes, data: bytes, *, fua: bool = False) -> FakeCommand:
        """COMPARE AND WRITE of as many blocks as ``expected`` and ``data`` have."""
        cdb = pack(">BBQ3xBBB", 0x89, _FUA if fua else 0, lba, len(data) // self.block_size, 0, 0)
        return self.kernel.submit(cdb, expected + data)

    def get_lba_status(self, lba: int, allocation_length: int = 4096) -> FakeCommand:
        """GET LBA STATUS (16)."""
        cdb = pack(">BBQIBB", 0x9E, 0x12, lba, allocation_length, 0, 0)
        return self.kernel.submit(cdb, data_in_length=allocation_length)

    def cache_writes(self, on: bool) -> FakeCommand:
        """MODE SELECT (6) of the caching page: the write cache on or off (WCE)."""
        data = bytes((0, 0, 0, 0, 0x08, 0x12, 0x04 if on else 0, *bytes(17)))
        return self.kernel.submit(pack(">BBxxBB", 0x15, 0x10, len(data), 0), data)

    def mode_sense(self, page: int = 0x3F) -> FakeCommand:
        """MODE SENSE (6) of a page, without block descriptor."""
        return self.kernel.submit(pack(">BBBBBB", 0x1A, 0x08, page, 0, 255, 0), data_in_length=255)
