"""A whole disk on a kernel that speaks version 1 of the ABI."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from tests.lun.support import BUSY, GOOD, Held, Later, RigTestCase, ScriptedBackstore
from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.testing.fakekernel import FakeKernel
from txtcmu.testing.rig import Rig


class DiskTests(RigTestCase):
    def device(self, backstore: Any, **options: Any) -> Rig:
        rig = self.rig(backstore, version=1, **options)
        rig.kernel.poison_free_pages()
        return rig

    def test_reads_and_writes(self) -> None:
        """What is written is read, however often ring and data area wrap."""
        rig = self.device(MemoryBackstore(1 << 20))
        model, random = bytearray(1 << 20), Random(1)
        for _ in range(100):
            lba, blocks = random.randrange(1600), random.randrange(1, 400)
            data = random.randbytes(blocks * 512)
            wrote, read = rig.initiator.write(lba, data), rig.initiator.read(lba, blocks)
            model[lba * 512 : (lba + blocks) * 512] = data
            synced = rig.initiator.sync()
            rig.settle()
            self.assertEqual((wrote.status, read.status, synced.status), (GOOD, GOOD, GOOD))
            self.assertEqual(read.data, model[lba * 512 : (lba + blocks) * 512])

    def test_inquiry(self) -> None:
        """A short reply is zero-filled: there is no READ_LEN."""
        rig = self.device(ScriptedBackstore())
        command = rig.initiator.inquiry(0x80)
        rig.settle()
        self.assertEqual((command.status, len(command.data), command.residual), (GOOD, 255, 0))
        self.assertEqual(command.data[36:], bytes(255 - 36))

    def test_deferreds_out_of_order(self) -> None:
        """Deferreds that fire in any order end their commands in the order of the ring, each with its own data."""
        later = Later()
        rig = self.device(ScriptedBackstore(read=later))
        commands = [rig.initiator.read(8 * number, 8) for number in range(5)]
        rig.settle()
        for number in (3, 4, 1, 0, 2):
            later.made[number].callback(bytes([number + 1]) * 4096)
            rig.settle()
            done = [command.done for command in commands]
            self.assertEqual(done, sorted(done, reverse=True))
        self.assertEqual([command.data for command in commands], [bytes([n + 1]) * 4096 for n in range(5)])

    def hang(self, kind: type[Deferred[Any]]) -> tuple[Rig, Later, list[Any]]:
        later = Later(kind)
        rig = self.device(ScriptedBackstore(read=later), cmd_time_out=30)
        commands = [rig.initiator.read(0, 8), rig.initiator.test_unit_ready()]
        rig.settle()
        self.assertEqual([command.done for command in commands], [False, False])
        rig.reactor.advance(24.1)  # below the kernel's 30, with room for the way back
        rig.settle()
        return rig, later, commands

    def test_deadline(self) -> None:
        """A command that takes too long is cancelled, and when its backstore lets go all behind it end, too."""
        rig, _, commands = self.hang(Deferred)
        self.assertEqual([command.status for command in commands], [BUSY, GOOD])
        again = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertEqual(again.status, GOOD)

    def test_deadline_of_who_holds_on(self) -> None:
        """Without KEEP_BUF a command whose backstore holds on ends when that lets go, and so do those behind it."""
        rig, later, commands = self.hang(Held)
        held = later.made[0]
        assert isinstance(held, Held)
        self.assertTrue(held.cancelled)
        self.assertEqual([command.done for command in commands], [False, False])
        held.callback(b"r" * 4096)
        rig.settle()
        self.assertEqual([command.status for command in commands], [GOOD, GOOD])
        self.assertEqual(commands[0].data, b"r" * 4096)

    def test_abort_is_not_heard(self) -> None:
        """An abort of the initiator's waits for the command's end: version 1 tells of none."""
        later = Later()
        rig = self.device(ScriptedBackstore(read=later))
        command = rig.initiator.read(0, 8)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertFalse(command.done)
        later.made[0].callback(b"r" * 4096)
        rig.settle()
        self.assertEqual(command.status, GOOD)

    def test_drain(self) -> None:
        """Closing answers what was taken, in order, and leaves the ring empty."""
        later = Later()
        rig = self.device(ScriptedBackstore(read=later))
        commands = [rig.initiator.read(0, 8) for _ in range(3)]
        rig.settle()
        closed = rig.device.close(5.0)
        for deferred in reversed(later.made):
            deferred.callback(bytes(4096))
        rig.settle()
        self.assertEqual(([command.status for command in commands], self.successResultOf(closed)), ([GOOD] * 3, True))


class FakeKernelTests(RigTestCase):
    def test_what_there_is_not(self) -> None:
        """A kernel of version 1 has no action files, and sends nothing bidirectional."""
        kernel = FakeKernel(version=1)
        for action in (lambda: kernel.block_dev(True), lambda: kernel.reset_ring(1), lambda: kernel.free_kept_buf(0)):
            self.assertRaises(FileNotFoundError, action)
        self.assertRaises(ValueError, kernel.submit, bytes(10), b"x", 1)
        self.assertRaises(ValueError, FakeKernel, version=3)
