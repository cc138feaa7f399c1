"""The reactor's ring reader: budget, doorbell, and devices that go away."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.errors import KernelError, RingError
from txtcmu.kernel.ring import Command, Ring, TaskManagement
from txtcmu.kernel.uio import BYTES_PER_TURN, ENTRIES_PER_TURN, RingReader, UIOFile
from txtcmu.testing.fakekernel import FakeKernel
from txtcmu.testing.fakeuio import FakeUIO
from txtcmu.testing.reactor import FakeReactor


class Consumer:
    """Completes what it gets, at once or later."""

    def __init__(self, ring: Ring, at_once: bool) -> None:
        self.ring = ring
        self.at_once = at_once
        self.reader: Any = None
        self.commands: list[Command] = []
        self.requests: list[TaskManagement] = []
        self.lost = 0
        self.broken: list[RingError] = []
        self.on_command: Callable[[], None] = lambda: None

    def command_received(self, command: Command) -> None:
        self.commands.append(command)
        if self.at_once:
            self.complete(command)
        self.on_command()

    def complete(self, command: Command) -> None:
        self.ring.complete(command, 0)
        self.reader.completed()

    def task_management_received(self, request: TaskManagement) -> None:
        self.requests.append(request)

    def device_lost(self) -> None:
        self.lost += 1

    def ring_broken(self, error: RingError) -> None:
        self.broken.append(error)


class Bell:
    """A UIO device that counts its doorbells and acknowledgements."""

    def __init__(self, uio: FakeUIO) -> None:
        self.uio = uio
        self.memory = uio.memory
        self.fileno = uio.fileno
        self.close = uio.close
        self.rung = 0
        self.acknowledged = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1
        self.uio.acknowledge()

    def doorbell(self) -> None:
        self.rung += 1
        self.uio.doorbell()


class RingReaderTests(SynchronousTestCase):
    def start(self, *, at_once: bool = True, start: bool = True, data_size: int = 1 << 20) -> None:
        self.reactor = FakeReactor()
        self.kernel = FakeKernel(data_size=data_size)
        self.uio = Bell(self.kernel.open())
        self.ring = Ring(self.uio.memory)
        self.consumer = Consumer(self.ring, at_once)
        self.reader = RingReader(self.reactor, self.uio, self.ring, self.consumer)
        self.consumer.reader = self.reader
        if start:
            self.reader.start()

    def submit(self, count: int, length: int = 0) -> list[Any]:
        with self.kernel.plugged():
            return [self.kernel.submit(bytes(6), bytes(length)) for _ in range(count)]

    def finish(self) -> None:
        self.reactor.settle()
        self.kernel.verify()

    def test_one_doorbell_per_batch(self) -> None:
        """A batch that is completed at once is published with one tail store and one doorbell."""
        self.start()
        commands = self.submit(20)
        self.reactor.turn()
        self.assertEqual((self.uio.rung, [command.status for command in commands]), (1, [0] * 20))
        self.finish()

    def test_one_doorbell_per_turn(self) -> None:
        """Completions outside of a batch share a doorbell in the reactor's next turn."""
        self.start(at_once=False)
        self.submit(20)
        self.reactor.turn()
        self.assertEqual(self.uio.rung, 0)
        for command in list(self.consumer.commands):
            self.consumer.complete(command)
        self.assertEqual(self.uio.rung, 0)
        self.reactor.turn()
        self.assertEqual(self.uio.rung, 1)
        self.finish()

    def test_scan_at_start(self) -> None:
        """What was in the ring before the reader started needs no event."""
        self.start(start=False)
        command = self.kernel.submit(bytes(6))
        self.reader.start()
        self.assertEqual(command.status, 0)
        self.finish()

    def test_budget_of_commands(self) -> None:
        """A turn takes so many commands; the rest is taken in the next ones, without another event."""
        self.start()
        self.submit(3 * ENTRIES_PER_TURN + 1)
        taken = []
        for _ in range(5):
            self.reactor.turn()
            taken.append(len(self.consumer.commands))
        self.assertEqual(taken, [64, 128, 192, 193, 193])
        self.assertEqual(self.uio.acknowledged, 1)
        self.finish()

    def test_budget_of_bytes(self) -> None:
        """A turn moves so many bytes: of commands that carry a megabyte it takes only four."""
        self.start(data_size=8 << 20)
        self.submit(7, 1 << 20)
        self.reactor.turn()
        self.assertEqual(len(self.consumer.commands), BYTES_PER_TURN >> 20)
        self.reactor.turn()
        self.assertEqual(len(self.consumer.commands), 7)
        self.finish()

    def test_budget_of_aborts(self) -> None:
        """Task management counts as commands do."""
        self.start(at_once=False)
        self.kernel.tmr_notification = True
        command = self.kernel.submit(bytes(6))
        self.reactor.turn()
        for _ in range(100):
            self.kernel.abort(command)
        self.reactor.turn()
        self.assertEqual(len(self.consumer.requests), ENTRIES_PER_TURN)
        self.reactor.turn()
        self.assertEqual(len(self.consumer.requests), 100)
        self.consumer.complete(self.consumer.commands[0])
        self.finish()

    def test_budget_under_load(self) -> None:
        """Events that keep coming do not add up to more than one budget in a turn."""
        self.start()
        self.submit(100)
        counts = []
        for _ in range(20):
            before = len(self.consumer.commands)
            self.submit(70)
            self.reactor.turn()
            counts.append(len(self.consumer.commands) - before)
        self.assertEqual(counts, [ENTRIES_PER_TURN] * 20)
        self.finish()

    def test_others_get_their_turn(self) -> None:
        """Between two budgets of a busy device another one is served, and timers are called."""
        order: list[str] = []
        self.start()
        self.consumer.on_command = lambda: order.append("busy")
        busy = self.reader
        self.submit(2 * ENTRIES_PER_TURN)
        self.reactor.callLater(0, order.append, "timer")
        reactor = self.reactor
        self.start(start=False)
        other = RingReader(reactor, self.uio, self.ring, self.consumer)
        self.consumer.reader = other
        self.consumer.on_command = lambda: order.append("other")
        other.start()
        self.submit(1)
        reactor.turn(3)
        last = len(order) - 1 - order[::-1].index("busy")
        self.assertLess(order.index("other"), last)
        self.assertLess(order.index("timer"), last)
        busy.stop()

    def test_stopped_in_a_batch(self) -> None:
        """A reader that is stopped by a command takes none after it; what was completed is still published."""
        self.start()
        self.consumer.on_command = self.reader.stop
        first, second = self.submit(2)
        self.reactor.settle()
        self.assertEqual((first.status, second.done), (0, False))
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stopped_before_the_rest(self) -> None:
        """A reader stopped between two turns takes nothing in the second."""
        self.start()
        self.submit(ENTRIES_PER_TURN + 1)
        self.reactor.turn()
        self.reader.stop()
        self.reactor.settle()
        self.assertEqual(len(self.consumer.commands), ENTRIES_PER_TURN)

    def test_device_removed(self) -> None:
        """A removed device is reported once, and polled no more: its descriptor would be readable for ever."""
        self.start()
        self.kernel.remove()
        self.reactor.settle()
        self.assertEqual((self.consumer.lost, self.reactor.readers), (1, []))
        self.reader.doRead()
        self.reader.connectionLost(Failure(OSError(errno.EIO, "gone")))
        self.assertEqual(self.consumer.lost, 1)

    def test_doorbell_fails(self) -> None:
        """A doorbell that the kernel refuses means the same."""
        self.start(at_once=False)
        self.kernel.submit(bytes(6))
        self.reactor.turn()
        self.kernel.removed = True
        self.consumer.complete(self.consumer.commands[0])
        self.reactor.turn()
        self.assertEqual((self.consumer.lost, self.reactor.readers), (1, []))

    def test_error_condition(self) -> None:
        """So does an error condition that the reactor reports."""
        self.start()
        self.reader.connectionLost(Failure(OSError(errno.EIO, "gone")))
        self.assertEqual(self.consumer.lost, 1)

    def test_event_taken_by_another_turn(self) -> None:
        """An event with nothing behind it is none."""
        self.start()
        self.uio.uio.notify()
        self.reactor.settle()
        self.assertEqual((self.consumer.commands, self.consumer.lost, self.uio.rung), ([], 0, 0))
        self.finish()

    def test_broken_ring(self) -> None:
        """A ring that cannot be read is reported once and read no more; earlier completions reach the kernel."""
        self.start()
        take = self.ring.take

        def breaking() -> Any:
            if self.consumer.commands:
                raise RingError("impossible entry")
            return take()

        self.ring.take = breaking  # type: ignore[method-assign]
        first, _ = self.submit(2)
        self.reactor.settle()
        self.assertEqual((len(self.consumer.broken), first.status), (1, 0))
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), ([], []))

    def test_flush_after_close(self) -> None:
        """A flush that was due when the device was closed does nothing."""
        self.start(at_once=False)
        self.kernel.submit(bytes(6))
        self.reactor.turn()
        self.consumer.complete(self.consumer.commands[0])
        self.reader.stop()
        self.ring.close()
        self.uio.close()
        self.reactor.settle()
        self.assertEqual(self.uio.rung, 0)


class UIOFileTests(SynchronousTestCase):
    def refusal(self, path: str) -> str:
        before = os.listdir("/proc/self/fd")
        with self.assertRaises(KernelError) as caught:
            UIOFile(path, 4096)
        self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))
        return str(caught.exception)

    def test_missing(self) -> None:
        """A device that is not there is gone."""
        self.assertEqual(self.refusal("/dev/no/uio0"), "cannot open /dev/no/uio0: the device is gone")

    def test_regular_file(self) -> None:
        """A regular file is refused, and closed: epoll cannot poll it."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(bytes(4096))
        self.assertEqual(self.refusal(path), f"{path} is not a character device")

    def test_unmappable(self) -> None:
        """A character device that cannot be mapped is refused, and closed."""
        self.assertIn("cannot map 4096 bytes of /dev/null", self.refusal("/dev/null"))

    def test_close(self) -> None:
        """A closed device has no descriptor; closing it again is harmless; a kept window keeps the map only."""
        uio = UIOFile("/dev/zero", 4096)
        window = uio.memory[:8]
        with self.assertRaises(BufferError):
            uio.close()
        self.assertEqual(uio.fileno(), -1)
        uio.close()
        window.release()
