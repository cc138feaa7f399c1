"""Commands that wait: completion, abort, deadline, kept buffers."""

from __future__ import annotations

from typing import Any

from tests.lun.support import BUSY, GOOD, TASK_ABORTED, Held, Later, RigTestCase, ScriptedBackstore
from txtcmu.kernel import abi
from txtcmu.testing.rig import Rig

_NO_KEEP_BUF = abi.FLAG_OUT_OF_ORDER | abi.FLAG_TMR
BLOCK = b"x" * 512


class AbortTests(RigTestCase):
    def test_lets_go(self) -> None:
        """An aborted command whose Deferred fires when cancelled ends at once with TASK ABORTED, nothing kept."""
        rig = self.rig(ScriptedBackstore(write=Later()))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        self.assertFalse(command.done)
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((command.status, command.kept), (TASK_ABORTED, False))
        self.assertNotIn("free_kept_buf", rig.target.calls)

    def test_kept(self) -> None:
        """One whose backstore holds on ends at once all the same; its buffer is kept until the backstore lets go.

        It is freed exactly once, and only when the kernel has seen the completion.
        """
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((command.status, command.kept), (TASK_ABORTED, True))
        self.assertEqual(rig.kernel.pages_in_use, 1)
        rig.kernel.abort(command)  # the initiator asks again
        rig.settle()
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.target.calls.count("free_kept_buf"), 1)
        self.assertEqual(rig.kernel.pages_in_use, 0)

    def test_lets_go_before_the_doorbell(self) -> None:
        """A backstore that lets go between the completion and its doorbell: the kernel hears of both, in order."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        first, second = rig.initiator.write(0, BLOCK), rig.initiator.write(1, BLOCK)
        rig.settle()
        # Both are aborted in one turn; the second's canceller has the first let go before the batch is published.
        write.made[0].cancel = lambda: write.made[1].callback(None)  # type: ignore[method-assign]
        rig.kernel.lun_reset()
        rig.settle()
        self.assertEqual((first.status, second.status), (TASK_ABORTED, TASK_ABORTED))
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.target.calls.count("free_kept_buf"), 2)

    def test_kept_data_in(self) -> None:
        """Data-In that arrives for a kept command goes to its own buffer, and to no later command's."""
        read = Later(Held)
        rig = self.rig(ScriptedBackstore(read=read))
        rig.kernel.poison_free_pages()
        command = rig.initiator.read(0, 8)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        read.made[0].callback(b"late" * 1024)
        rig.settle()
        rig.kernel.verify()

    def test_without_keep_buf(self) -> None:
        """Where the kernel keeps no buffers, the command ends when the backstore lets go, and not before."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write), flags=_NO_KEEP_BUF)
        failing, succeeding = rig.initiator.write(0, BLOCK), rig.initiator.write(1, BLOCK)
        rig.settle()
        rig.kernel.lun_reset()
        rig.settle()
        self.assertFalse(failing.done or succeeding.done)
        write.made[0].errback(OSError("too late"))
        write.made[1].callback(None)
        rig.settle()
        self.assertEqual((failing.status, succeeding.status), (TASK_ABORTED, GOOD))

    def test_newest_first(self) -> None:
        """What waits for an older command of the same reset never reaches the backstore."""
        backstore = ScriptedBackstore(write=Later())
        rig = self.rig(backstore)
        commands = [rig.initiator.write(0, BLOCK) for _ in range(3)]
        rig.settle()
        rig.kernel.lun_reset()
        rig.settle()
        self.assertEqual([command.status for command in commands], [TASK_ABORTED] * 3)
        self.assertEqual(backstore.names, ["write"])

    def test_write_waits_for_aborted_one(self) -> None:
        """A write to blocks that an aborted one still holds waits until the backstore has let go of them."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        aborted = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(aborted)
        rig.settle()
        retried = rig.initiator.write(0, BLOCK)
        elsewhere = rig.initiator.write(1, BLOCK)
        rig.settle()
        self.assertEqual(len(write.made), 2)
        write.made[0].errback(OSError("whatever"))
        rig.settle()
        self.assertEqual(len(write.made), 3)
        write.made[1].callback(None)
        write.made[2].callback(None)
        rig.settle()
        self.assertEqual((retried.status, elsewhere.status), (GOOD, GOOD))

    def test_canceller_raises(self) -> None:
        """A Deferred whose canceller raises is as good as one that does not let go."""

        class Broken(Held):
            def cancel(self) -> None:
                raise LookupError("no such request")

        write = Later(Broken)
        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual(command.status, TASK_ABORTED)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        write.made[0].callback(None)

    def test_coroutine_is_cancelled(self) -> None:
        """A coroutine sees the abort as CancelledError at its await, and may clean up before it lets go."""
        cleaning = Held()
        steps = []

        async def write(offset: int, data: memoryview) -> None:
            try:
                await Later()()
            finally:
                steps.append("cancelled")
                await cleaning

        rig = self.rig(ScriptedBackstore(write=write))
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual((steps, command.status, command.kept), (["cancelled"], TASK_ABORTED, True))
        cleaning.callback(None)
        rig.settle()
        self.assertEqual(rig.kernel.pages_in_use, 0)


class DeadlineTests(RigTestCase):
    def start(self, rig: Rig, *blocks: int, step: float = 1.0) -> list[Any]:
        commands = []
        for block in blocks:
            commands.append(rig.initiator.write(block, BLOCK))
            rig.settle()
            rig.reactor.advance(step)
        return commands

    def statuses(self, commands: list[Any]) -> list[int]:
        return [command.status for command in commands]

    def test_busy_before_the_kernel_gives_up(self) -> None:
        """A command gets BUSY, and is aborted, when four fifths of the kernel's cmd_time_out are over."""
        rig = self.rig(ScriptedBackstore(write=Later()), cmd_time_out=10)
        first, second = self.start(rig, 0, 1)
        rig.reactor.advance(5.9)
        rig.settle()
        self.assertFalse(first.done)
        rig.reactor.advance(0.2)
        rig.settle()
        self.assertEqual(self.statuses([first, second]), [BUSY, -1])
        rig.reactor.advance(1)
        rig.settle()
        self.assertEqual(second.status, BUSY)

    def test_never(self) -> None:
        """Where the kernel never gives a command up, neither does the daemon."""
        write = Later()
        rig = self.rig(ScriptedBackstore(write=write), cmd_time_out=0)
        (command,) = self.start(rig, 0)
        rig.reactor.advance(100_000)
        rig.settle()
        self.assertFalse(command.done)
        write.made[0].callback(None)

    def test_abort_that_ends_the_next(self) -> None:
        """When the abort of one command ends the next one, those after it keep their deadlines."""
        write = Later()
        rig = self.rig(ScriptedBackstore(write=write), cmd_time_out=10)
        first, second, third = self.start(rig, 0, 1, 2)
        write.made[0].addBoth(lambda _: write.made[1].callback(None))
        rig.reactor.advance(5.1)
        rig.settle()
        self.assertEqual((second.status, third.done), (GOOD, False))
        self.assertTrue(first.done)
        rig.reactor.advance(2)
        rig.settle()
        self.assertEqual(third.status, BUSY)

    def test_timers_at_odd_times(self) -> None:
        """Deadlines come whatever the clock reads: rounding of its seconds makes no timer spin."""
        rig = self.rig(ScriptedBackstore(write=Later()), cmd_time_out=30)
        commands = self.start(rig, *range(40), step=0.1)
        for _ in range(400):
            rig.reactor.advance(0.07)
            rig.settle()
        self.assertEqual(self.statuses(commands), [BUSY] * 40)

    def test_kept_past_the_deadline(self) -> None:
        """A command kept by its deadline is freed when the backstore lets go; later ones have theirs."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write), cmd_time_out=10)
        (first,) = self.start(rig, 0)
        rig.reactor.advance(8)
        (second,) = self.start(rig, 1)
        self.assertEqual((first.status, first.kept, second.done), (BUSY, True, False))
        rig.reactor.advance(8)
        rig.settle()
        self.assertEqual((second.status, second.kept), (BUSY, True))
        for made in write.made:
            made.callback(None)
        rig.settle()
        self.assertEqual(rig.kernel.pages_in_use, 0)

    def test_expired_in_the_kernel(self) -> None:
        """A command that the kernel has given up already is completed all the same, and nothing breaks."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write), flags=_NO_KEEP_BUF)
        (command,) = self.start(rig, 0)
        rig.kernel.time_out(command)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual(rig.kernel.in_flight, [])


class IdleTests(RigTestCase):
    def test_idle(self) -> None:
        """Idle is when the handler has let go of every command, those already answered included."""
        write = Later(Held)
        rig = self.rig(ScriptedBackstore(write=write))
        tasks = rig.device.tasks
        self.successResultOf(tasks.idle())
        kept, waiting = rig.initiator.write(0, BLOCK), rig.initiator.write(1, BLOCK)
        rig.settle()
        rig.kernel.abort(kept)
        rig.settle()
        idle = tasks.idle()
        write.made[1].callback(None)
        self.assertNoResult(idle)
        write.made[0].callback(None)
        self.successResultOf(idle)
        self.assertEqual((len(tasks), waiting.status), (0, GOOD))

    def test_one_timer(self) -> None:
        """However many commands come and go there is one timer, and none once the device is closed."""
        write = Later()
        rig = self.rig(ScriptedBackstore(write=write))
        for block in range(10):
            rig.initiator.write(block, BLOCK)
            rig.settle()
            self.assertEqual(len(rig.reactor.getDelayedCalls()), 1)
            write.made[block].callback(None)
            rig.settle()
        rig.close()
        self.assertEqual(rig.reactor.getDelayedCalls(), [])
