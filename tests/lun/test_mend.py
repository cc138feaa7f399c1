"""A ring that breaks: given up, emptied and begun anew, without a window in two hands and without haste."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.lun.support import BUSY, GOOD, Held, Later, RigTestCase, ScriptedBackstore
from txtcmu.errors import KernelError, NotReadyError, RingError
from txtcmu.lun.attachment import MEND_DELAYS
from txtcmu.lun.device import State
from txtcmu.testing.rig import Rig

BLOCK = b"x" * 512


class MendTests(RigTestCase):
    def broken(self, rig: Rig) -> None:
        """Have the kernel flag the ring, and the device told of it, as the service does."""
        rig.kernel.broken = True
        rig.device.ring_broken(RingError("cmd_id 7 not found"))

    def serves(self, rig: Rig) -> bool:
        command = rig.initiator.read(0, 1)
        rig.settle()
        return command.done and command.status == GOOD

    def test_mended(self) -> None:
        """What was outstanding ends with BUSY, through the kernel and once; what comes later is served."""
        write = Later()
        rig = self.rig(ScriptedBackstore(write=write))
        commands = [rig.initiator.write(lba, BLOCK) for lba in range(3)]
        rig.settle()
        self.broken(rig)
        rig.settle()
        self.assertEqual([command.status for command in commands], [BUSY] * 3)
        self.assertEqual((rig.device.state, rig.target.calls.count("reset_ring")), (State.SERVING, 1))
        self.assertTrue(self.serves(rig))

    def test_found_by_us(self) -> None:
        """A ring that holds what it cannot is mended just so, and what was queued behind it hears BUSY."""
        rig = self.rig(ScriptedBackstore())
        take, impossible = rig.device._attachment._ring.take, [RingError("impossible entry")]

        def once() -> Any:
            if impossible:
                raise impossible.pop()
            return take()

        rig.device._attachment._ring.take = once  # type: ignore[method-assign]
        command = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertEqual((command.status, rig.device.state), (BUSY, State.SERVING))
        self.assertTrue(self.serves(rig))

    def test_waits_for_the_backstore(self) -> None:
        """The ring is not emptied while a backstore holds a window: the kernel would give it to other commands."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        self.broken(rig)
        rig.reactor.advance(100)
        self.assertEqual((command.done, rig.device.state), (False, State.BROKEN))
        self.assertNotIn("reset_ring", rig.target.calls)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((command.status, rig.device.state), (BUSY, State.SERVING))
        self.assertTrue(self.serves(rig))

    def test_kept_buffers(self) -> None:
        """A buffer that was kept is waited for as well; nobody frees its id, which the new ring has for another."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertTrue(command.kept)
        self.broken(rig)
        self.assertEqual(rig.device.state, State.BROKEN)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.device.state, State.SERVING)
        self.assertNotIn("free_kept_buf", rig.target.calls)
        self.assertTrue(self.serves(rig))

    def test_late_free(self) -> None:
        """A buffer that is being freed in a thread when the ring breaks is freed before the ring is emptied."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        rig.reactor.hold_threads()
        write.made[0].callback(None)
        self.broken(rig)
        rig.settle()
        self.assertNotIn("reset_ring", rig.target.calls)
        rig.reactor.release_threads()
        rig.settle()
        self.assertEqual(rig.target.calls[-2:], ["free_kept_buf", "reset_ring"])
        self.assertTrue(self.serves(rig))

    def test_late_results(self) -> None:
        """Nothing that ends while the ring is broken is written into it, old or new."""
        write, read = Later(Held), Later(Held)
        rig = self.rig(ScriptedBackstore(write=write, read=read))
        commands = [rig.initiator.write(0, BLOCK), rig.initiator.read(8, 1), rig.initiator.write(16, BLOCK)]
        rig.settle()
        self.broken(rig)
        rig.reactor.hold_threads()
        write.made[0].callback(None)
        read.made[0].callback(bytes(512))
        write.made[1].errback(OSError("late"))
        rig.settle()
        self.assertEqual(rig.kernel.cmd_tail, 0)
        rig.reactor.release_threads()
        rig.settle()
        self.assertEqual([command.status for command in commands], [BUSY] * 3)
        rig.device.medium.backstore.script.clear()
        self.assertTrue(self.serves(rig))

    def test_again_and_again(self) -> None:
        """A ring that keeps breaking is mended later and later; one that was sound for long, at once again."""
        rig = self.rig(ScriptedBackstore())
        for delay in (*MEND_DELAYS, MEND_DELAYS[-1]):
            self.broken(rig)
            self.assertEqual(rig.device.state, State.BROKEN if delay else State.SERVING)
            rig.reactor.advance(delay)
            rig.settle()
            self.assertEqual(rig.device.state, State.SERVING)
        rig.reactor.advance(3600)
        self.broken(rig)
        self.assertTrue(self.serves(rig))
        rig.reactor.advance(3600)
        self.assertEqual(rig.target.calls.count("reset_ring"), len(MEND_DELAYS) + 2)

    def test_cannot_be_mended(self) -> None:
        """A reset that the kernel refuses is tried again."""
        rig = self.rig(ScriptedBackstore())
        reset, refusals = rig.target.reset_ring, [KernelError("no"), KernelError("not yet")]

        def refusing() -> None:
            if refusals:
                raise refusals.pop()
            reset()

        rig.target.reset_ring = refusing  # type: ignore[method-assign]
        self.broken(rig)
        rig.reactor.pump([1, 4])
        self.assertEqual(rig.device.state, State.BROKEN)
        rig.reactor.advance(1)
        rig.settle()
        self.assertTrue(self.serves(rig))

    def test_told_twice(self) -> None:
        """A ring that is being mended is not mended once more."""
        rig = self.rig(ScriptedBackstore(write=(write := Later(Held))))
        rig.initiator.write(0, BLOCK)
        rig.settle()
        for _ in range(3):
            self.broken(rig)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.target.calls.count("reset_ring"), 1)
        self.assertTrue(self.serves(rig))

    def test_lost_meanwhile(self) -> None:
        """A backstore that is lost while the ring is broken makes a device that is not ready, not a serving one."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        rig.initiator.write(0, BLOCK)
        rig.settle()
        self.broken(rig)
        rig.factory.backstore = NotReadyError("away")
        rig.device.medium.lose(NotReadyError("gone"))
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.device.state, State.DEGRADED)

    def close(self, rig: Rig) -> Deferred[bool]:
        closed = rig.device.close(1)
        rig.settle()
        return closed

    def test_closed_while_mending(self) -> None:
        """A device that is closed while it waits to mend, or for a backstore, closes, and resets nothing."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        rig.initiator.write(0, BLOCK)
        rig.settle()
        self.broken(rig)
        closed = self.close(rig)
        self.assertNoResult(closed)
        write.made[0].callback(None)
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertNotIn("reset_ring", rig.target.calls)
        rig.kernel.reset_ring(1)  # the next daemon
        rig = self.rig(ScriptedBackstore())
        for _ in range(2):
            self.broken(rig)
        self.assertEqual(rig.device.state, State.BROKEN)
        self.assertTrue(self.successResultOf(self.close(rig)))
        self.assertEqual((rig.target.calls.count("reset_ring"), rig.reactor.getDelayedCalls()), (1, []))

    def test_closed_during_the_reset(self) -> None:
        """Closed while a thread empties the ring: it is waited for, and nothing is read from the new ring."""
        rig = self.rig(ScriptedBackstore())
        rig.reactor.hold_threads()
        self.broken(rig)
        closed = self.close(rig)
        self.assertNoResult(closed)
        rig.reactor.release_threads()
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual(rig.reactor.readers, [])

    def test_removed_while_mending(self) -> None:
        """A device that is gone when it is to be mended is closed."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        rig.initiator.write(0, BLOCK)
        rig.settle()
        self.broken(rig)
        rig.kernel.removed = True
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.device.state, State.CLOSED)
        rig.kernel._commands.clear()
        rig.kernel._ring.reset()
