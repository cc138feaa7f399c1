"""Any command on a whole disk: what holds whatever an initiator sends.

One command ends exactly once, with a status of SAM's and, if that is CHECK CONDITION, with sense data of SPC's.  Of
the backstore only the blocks that the CDB names may change, of the data area only the command's own windows; no rule of
the ring is broken, nothing is logged as a failure of ours, and the disk goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import pack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.interfaces import IBackstore
from txtcmu.lun.device import State
from txtcmu.scsi.opcodes import ROWS
from txtcmu.scsi.table import Direction
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig

__all__ = ["BLOCKS", "BLOCK_SIZE", "KINDS", "LARGEST", "FuzzedDisk", "Later"]

BLOCK_SIZE = 512
BLOCKS = 128
SIZE = BLOCKS * BLOCK_SIZE
LARGEST = 256 << 10  # bytes of the longest command: the data area
GOOD, CHECK_CONDITION, CONDITION_MET, BUSY = 0x00, 0x02, 0x04, 0x08
#: What a disk may say of itself; TASK ABORTED and the like need somebody who aborts.
STATUSES = {GOOD, CHECK_CONDITION, CONDITION_MET, BUSY}
#: Without BLANK CHECK, VENDOR SPECIFIC and COPY ABORTED, which no disk says, and the reserved one.
SENSE_KEYS = {0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xD, 0xE}
_UNMAP = 0x42
_WRITE_SAME = (0x41, 0x93)


@implementer(IBackstore)
class Later:
    """A disk without companions, whose results come when the reactor has turned."""

    read_only = False
    physical_block_size = 4096
    size = SIZE

    def __init__(self, reactor: Any = None) -> None:
        self.reactor = reactor
        self._inner = MemoryBackstore(SIZE)

    def _later(self, result: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.reactor.callLater(0, deferred.callback, result)
        return deferred

    def read(self, offset: int, length: int) -> Deferred[Any]:
        return self._later(self._inner.read(offset, length))

    def write(self, offset: int, data: memoryview) -> Deferred[Any]:
        self._inner.write(offset, data)
        return self._later(None)

    def flush(self) -> Deferred[Any]:
        return self._later(None)

    def close(self) -> None:
        self._inner.close()


@implementer(ILogObserver)
class _Complaints:
    """What is logged meanwhile: a traceback is a mistake of ours, whatever the initiator sent."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, event: Any) -> None:
        if "log_failure" in event or event.get("log_level") is LogLevel.critical:
            self.found.append(event["log_failure"].getTraceback() if "log_failure" in event else str(event))


def _memory(read_only: bool = False) -> MemoryBackstore:
    backstore = MemoryBackstore(SIZE)
    backstore.read_only = read_only
    return backstore


#: What makes the backstores of the disks to send commands to.
KINDS: dict[str, Callable[[], Any]] = {
    "at once": _memory,
    "later": Later,
    "read-only": lambda: _memory(read_only=True),
}


class FuzzedDisk:
    """A disk of 64 KiB full of a pattern, on a fake kernel that scatters buffers and poisons free pages."""

    def __init__(self, kind: str) -> None:
        backstore = KINDS[kind]()
        self._inner: MemoryBackstore = getattr(backstore, "_inner", backstore)
        self.model = bytearray(bytes(range(256)) * (SIZE // 256))
        self._inner.write(0, memoryview(self.model))
        self._complaints = _Complaints()
        globalLogPublisher.addObserver(self._complaints)
        self._rig = Rig(backstore, data_size=LARGEST, fragment=True, start=False)
        if isinstance(backstore, Later):
            backstore.reactor = self._rig.reactor
        self._rig.device.open()
        self._rig.settle()
        assert self._rig.device.state is State.SERVING
        self._rig.kernel.poison_free_pages()

    def send(self, cdb: bytes, data_out: bytes = b"", data_in_length: int = 0) -> FakeCommand:
        """Send one command, and judge its end and what became of the disk.

        What writes must send: TCMU tells no direction, and nobody can know that such a command's buffer is to be
        filled; the stale bytes in it go to the medium.
        """
        if any(row.operation_code == cdb[0] and row.direction is Direction.OUT for row in ROWS) and not data_out:
            data_out, data_in_length = bytes(data_in_length), 0
        command = self._rig.kernel.submit(cdb, data_out, data_in_length)
        self._rig.settle()
        self._judge(command)
        found = bytearray(self._inner.read(0, SIZE))
        changed = {at // BLOCK_SIZE for at in _differences(self.model, found)}
        allowed = set(self._addressed(command))
        assert changed <= allowed, f"{command} changed blocks {sorted(changed - allowed)}, which it does not name"
        self.model = found
        self._check_read(command)
        return command

    def _judge(self, command: FakeCommand) -> None:
        assert command.done, f"{command} was never completed"
        assert command.status in STATUSES, f"{command} ended with status {command.status:#x}"
        if command.status == CHECK_CONDITION:
            sense = command.sense_buffer
            assert sense[0] & 0x7F in (0x70, 0x72), f"{command}: sense data {sense[:18].hex()}"
            assert 8 + sense[7] <= 96
            assert not sense[8 + sense[7] :].strip(b"\0"), f"{command}: bytes behind the sense data"
            assert command.sense_code is not None
            assert command.sense_code[0] in SENSE_KEYS, f"{command}: sense {command.sense_code}"
            assert command.sense_code[0] != 4, f"{command}: HARDWARE ERROR, and the hardware is sound"
        assert self._rig.device.state is State.SERVING, f"{command} left the device {self._rig.device.state}"
        assert not self._complaints.found, f"{command}: {self._complaints.found}"
        assert not self._rig.kernel.violations  # what is slow to look for is looked for when the disk is closed

    def _addressed(self, command: FakeCommand) -> Iterator[int]:
        """Yield the blocks that a command may change."""
        cdb = command.cdb
        row = next((row for row in ROWS if row.operation_code == cdb[0] and row.writes), None)
        if row is None:
            return
        if cdb[0] == _UNMAP:
            for at in range(8, len(command.data_out) - 15, 16):
                lba = int.from_bytes(command.data_out[at : at + 8])
                yield from range(lba, min(BLOCKS, lba + int.from_bytes(command.data_out[at + 8 : at + 12])))
        else:
            _, lba, blocks = row.decode(cdb)
            if not blocks and cdb[0] in _WRITE_SAME:
                blocks = BLOCKS  # to the end of the medium
            yield from range(lba, min(BLOCKS, lba + blocks))

    def _check_read(self, command: FakeCommand) -> None:
        """A READ that is GOOD tells what is there."""
        if command.status == GOOD and command.cdb[0] in (0x08, 0x28, 0xA8, 0x88) and command.data_in_length:
            row = next(row for row in ROWS if row.operation_code == command.cdb[0])
            _, lba, blocks = row.decode(command.cdb)
            expected = self.model[lba * BLOCK_SIZE : (lba + blocks) * BLOCK_SIZE]
            assert command.data[: len(expected)] == expected, f"{command} did not read what is there"
            assert not command.data[len(expected) :].strip(b"\0"), f"{command} read more than there is"

    def go_on(self) -> None:
        """See that the disk still does what it did: start it, and read all of it."""
        for _ in range(4):  # a unit attention or two
            if self.send(bytes([0x1B, 0, 0, 0, 1, 0])).status == GOOD:
                break
        else:
            raise AssertionError("the disk does not start")
        read = self.send(pack(">BBQIBB", 0x88, 0, 0, BLOCKS, 0, 0), data_in_length=SIZE)
        assert (read.status, bytearray(read.data)) == (GOOD, self.model)

    def close(self) -> None:
        """Close the device; the ring is empty, and no window is left behind."""
        globalLogPublisher.removeObserver(self._complaints)
        self._rig.close()


def _differences(old: bytearray, new: bytearray) -> Iterator[int]:
    for at in range(0, len(old), BLOCK_SIZE):
        if old[at : at + BLOCK_SIZE] != new[at : at + BLOCK_SIZE]:
            yield at
