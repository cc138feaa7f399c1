"""The ring against the fake kernel, in every order that hypothesis can think of."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from txtcmu.errors import RingError
from txtcmu.iovec import scatter
from txtcmu.kernel.ring import Command, Ring, TaskManagement
from txtcmu.testing.fakekernel import FakeCommand, FakeKernel

Thing = TypeVar("Thing")

PAGE = 4096
PAGES = 8  # of the data area; a ring of 416 bytes holds twice an entry of as many iovecs

GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL, TASK_ABORTED = 0x00, 0x02, 0x08, 0x28, 0x40
ABORT_TASK, LUN_RESET = 1, 5

FIXED_SENSE = bytes([0x70, 0, 3, 0, 0, 0, 9, 10, 0, 0, 0, 0, 0x11, 0, 0, 0x80, 0, 7])
DESCRIPTOR_SENSE = bytes([0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xC0, 0, 2, 0])
KERNEL_SENSE = bytes([0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0])

NONE, IN, OUT = "none", "in", "out"


class Answer(NamedTuple):
    """What the initiator is to see."""

    status: int
    sense: bytes = b""
    data: bytes = b""
    residual: int = 0


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([6, 10, 12, 16, 32]),
        st.sampled_from([NONE, IN, OUT]),
        st.one_of(st.integers(1, 3 * PAGE), st.sampled_from([512, PAGE, 2 * PAGE, PAGES * PAGE])),
    ),
    max_size=6,
)
ENDINGS = st.lists(
    st.tuples(
        st.integers(0, 100),
        st.sampled_from(["good", "good", "good", "short", "fixed", "descriptor", "stream", "busy", "aborted"]),
        st.sampled_from([False, False, True]),
    ),
    max_size=6,
)
PUBLISH = st.sampled_from(["store and ring", "store and ring", "store", "ring", ""])
COMMUNICATION_FAILURE = Answer(CHECK_CONDITION, KERNEL_SENSE)


@dataclass(eq=False)
class Task:
    """One command's way from submission to its end."""

    serial: int
    direction: str
    length: int
    fake: FakeCommand = field(init=False)
    #: What the user side gave to the ring.
    given: Answer | None = None
    keep: bool = False
    #: What the initiator must have by now.
    expected: Answer | None = None

    def check(self) -> None:
        """Compare what the initiator has with what it must have."""
        fake = self.fake
        assert fake.done == (self.expected is not None), (
            f"{fake} is done: {fake.done}, {fake.status:#x} {fake.sense_code}"
        )
        if self.expected is None:
            return
        status, sense, data, residual = self.expected
        assert (fake.status, fake.sense, fake.residual) == (status, sense, residual), str(fake)
        # The kernel hands all of the slot's sense buffer on.
        assert fake.sense_buffer.rstrip(b"\0") == sense.rstrip(b"\0"), str(fake)
        if status in (GOOD, CHECK_CONDITION):
            assert fake.data == data, str(fake)


def pick(things: list[Thing], which: int) -> Thing:
    return things[which % len(things)]


class RingMachine(RuleBasedStateMachine):
    """Submits, takes, completes, aborts and restarts; the model is a list of tasks and what each must end with."""

    @initialize(
        cmdr_size=st.integers(416 // 8, 1200 // 8).map(lambda words: words * 8),
        fragment=st.booleans(),
        poison=st.booleans(),
        requests=REQUESTS,
    )
    def start(self, cmdr_size: int, fragment: bool, poison: bool, requests: list[tuple[int, str, int]]) -> None:
        """Make a device with a tiny ring, of any size, and attach to it."""
        self.kernel = FakeKernel(cmdr_size, PAGES * PAGE, fragment=fragment)
        self.kernel.tmr_notification = True
        if poison:
            self.kernel.poison_free_pages()
        self.uio = self.kernel.open()
        self.ring = Ring(self.uio.memory)
        self.random = Random(cmdr_size)
        self.blocked = False
        self.serial = 0
        self.last_taken = 0
        self.tasks: list[Task] = []
        self.taken: dict[Command, Task] = {}
        #: Given to the ring and not yet seen by the kernel, in order; of these the first ones are published.
        self.completed: list[tuple[Command, Task]] = []
        self.published = 0
        self.kept: list[Command] = []
        self.over: list[Command] = []
        #: Kind and ids of the task management entries that are to come.
        self.requests: list[tuple[int, list[int]]] = []
        for request in requests:
            self.submit(*request)

    # One rule for all of the ordinary: hypothesis leaves whole rules out of many runs, and nothing moves without it.

    @rule(requests=REQUESTS, plugged=st.booleans(), take=st.integers(0, 8), endings=ENDINGS, publish=PUBLISH)
    def go_on(
        self,
        requests: list[tuple[int, str, int]],
        plugged: bool,
        take: int,
        endings: list[tuple[int, str, bool]],
        publish: str,
    ) -> None:
        """The initiator sends, the user side takes some, ends some in any order, and tells the kernel, or not."""
        with self.kernel.plugged() if plugged else nullcontext():
            for request in requests:
                self.submit(*request)
        self.take(take)
        for ending in endings:
            if self.taken:
                self.complete(*ending)
        if "store" in publish:
            self.publish()
        if "ring" in publish:
            self.ring_doorbell()

    # The initiator.

    def submit(self, cdb_length: int, direction: str, length: int) -> None:
        """Any command; its serial number is in the CDB."""
        self.serial += 1
        task = Task(self.serial, direction, 0 if direction == NONE else length)
        opcode = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88, 32: 0x7F}[cdb_length]
        cdb = bytearray(self.random.randbytes(cdb_length))
        cdb[0], cdb[2:6] = opcode, self.serial.to_bytes(4)
        if opcode == 0x7F:
            cdb[7] = cdb_length - 8
        out = self.random.randbytes(length) if direction == OUT else b""
        task.fake = self.kernel.submit(bytes(cdb), out, length if direction == IN else 0)
        if self.blocked:
            task.expected = Answer(BUSY)
        self.tasks.append(task)

    @precondition(lambda self: self.unfinished())
    @rule(which=st.integers(0, 100))
    def abort(self, which: int) -> None:
        """ABORT TASK."""
        task = pick(self.unfinished(), which)
        self.expect_aborted(ABORT_TASK, [task])
        self.kernel.abort(task.fake)

    @rule()
    def reset_lun(self) -> None:
        """LOGICAL UNIT RESET."""
        self.expect_aborted(LUN_RESET, self.unfinished())
        self.kernel.lun_reset()

    @precondition(lambda self: self.unfinished())
    @rule(which=st.integers(0, 100))
    def time_out(self, which: int) -> None:
        """The kernel gives a command up, wherever it is."""
        task = pick(self.unfinished(), which)
        task.expected = COMMUNICATION_FAILURE if task.fake.cmd_id else Answer(TASK_SET_FULL)
        self.kernel.time_out(task.fake)

    # The administrator.

    @rule()
    def block(self) -> None:
        """Toggle block_dev: the kernel looks at the ring without a doorbell."""
        self.blocked = not self.blocked
        waiting = [task for task in self.unfinished() if not task.fake.cmd_id]
        if self.blocked:
            self.expect_published()
            for task in waiting:
                task.expected = Answer(BUSY)
        self.kernel.block_dev(self.blocked)

    @rule(size=st.sampled_from([8, 16, 64]))
    def unknown_entry(self, size: int) -> None:
        """An entry to refuse."""
        with suppress(ValueError):  # no room
            self.kernel.unknown_entry(size=size)

    # The user side.

    def take(self, count: int) -> None:
        """Read on, but not always to the end."""
        for _ in range(count):
            entry = self.ring.take()
            if entry is None:
                return
            if isinstance(entry, TaskManagement):
                self.requested(entry)
            else:
                self.received(entry)

    def received(self, command: Command) -> None:
        """A command must arrive as it was sent, and in order."""
        serial = int.from_bytes(command.cdb[2:6])
        assert self.last_taken < serial, "commands come in the order in which they were submitted"
        self.last_taken = serial
        task = next(task for task in self.tasks if task.serial == serial)
        assert command.cdb == task.fake.cdb
        assert command.cmd_id == task.fake.cmd_id
        assert command.length == sum(map(len, command.buffers)) == task.length
        if task.direction == OUT:
            assert b"".join(command.buffers) == task.fake.data_out
        self.taken[command] = task

    def requested(self, request: TaskManagement) -> None:
        """A task management entry must name what of it is outstanding."""
        kind, ids = self.requests.pop(0)
        outstanding = {command.cmd_id: command for command in self.taken}
        assert request.kind == kind
        assert request.commands == [outstanding[each] for each in ids if each in outstanding]

    def complete(self, which: int, how: str, keep: bool) -> None:
        """End any command taken, in any way; release its windows unless it is kept."""
        command = pick(list(self.taken), which)
        task = self.taken.pop(command)
        if task.direction == OUT:
            assert b"".join(command.buffers) == task.fake.data_out, "nobody else writes into the buffer"
        read_len = 0
        data = self.random.randbytes(task.length) if task.direction == IN else b""
        if data and how in ("short", "stream"):
            read_len = self.random.randint(1, task.length)
            data = data[:read_len]
            at = 0
            for buffer in command.buffers:  # what lies behind read_len stays as it is
                piece = data[at : at + len(buffer)]
                buffer[: len(piece)] = piece
                at += len(piece)
        elif data:
            scatter(data, command.buffers)
        residual = task.length - read_len if read_len else 0
        if how in ("good", "short"):
            given = Answer(GOOD, b"", data, residual)
        elif how in ("fixed", "stream"):
            given = Answer(CHECK_CONDITION, FIXED_SENSE, data if read_len else b"", residual)
        elif how == "descriptor":
            given = Answer(CHECK_CONDITION, DESCRIPTOR_SENSE)
        else:
            given = Answer(BUSY if how == "busy" else TASK_ABORTED)
        buffers = list(command.buffers)
        command.read_len = read_len
        self.ring.complete(command, given.status, given.sense, keep=keep)
        if keep:
            assert command.buffers == buffers
        else:
            assert not command.buffers
            for buffer in buffers:
                with pytest.raises(ValueError, match="released"):
                    buffer[0]
        task.given, task.keep = given, keep
        self.completed.append((command, task))
        self.over.append(command)

    def publish(self) -> None:
        """Store cmd_tail, without a doorbell."""
        moved = self.ring.publish()
        assert moved or len(self.completed) == self.published
        self.published = len(self.completed)
        assert not self.ring.publish(), "nothing is new the second time"

    def ring_doorbell(self) -> None:
        """Ring, called for or not."""
        self.expect_published()
        self.uio.doorbell()

    def publish_and_ring(self) -> None:
        """What a reader does at the end of a batch."""
        self.publish()
        self.ring_doorbell()

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 100))
    def free_kept_buffer(self, which: int) -> None:
        """The background work on a kept buffer is over."""
        command = pick(self.kept, which)
        self.kept.remove(command)
        for buffer in command.buffers:
            buffer[:] = bytes(len(buffer))  # still this command's
        self.ring.kept_freed(command)
        assert not command.buffers
        self.kernel.free_kept_buf(command.cmd_id)

    @precondition(lambda self: self.over)
    @rule(which=st.integers(0, 100))
    def complete_again(self, which: int) -> None:
        """A second, late or foreign completion is refused, and the kernel never sees it."""
        before = bytes(self.uio.memory)
        with pytest.raises(RingError):
            self.ring.complete(pick(self.over, which), GOOD)
        assert bytes(self.uio.memory) == before

    @rule(kind=st.sampled_from([1, 2]))
    def restart_after_crash(self, kind: int) -> None:
        """The daemon died: the next one resets the ring before it opens it."""
        self.hang_up()  # which may free kept buffers, and so let waiting commands onto the ring
        for task in self.unfinished():
            if task.fake.cmd_id:
                task.expected = Answer(BUSY) if kind == 1 else COMMUNICATION_FAILURE
        self.requests.clear()
        self.completed.clear()
        self.published = 0
        self.kernel.reset_ring(kind)
        self.pick_up()

    @precondition(lambda self: not self.taken)
    @rule()
    def hand_over(self) -> None:
        """A daemon without outstanding commands leaves the ring to the next one as it is."""
        self.publish_and_ring()
        self.hang_up()
        self.pick_up()

    # The model.

    def unfinished(self) -> list[Task]:
        """Tasks whose initiator still waits."""
        return [task for task in self.tasks if task.expected is None]

    def expect_aborted(self, kind: int, tasks: list[Task]) -> None:
        """Commands that wait for room end at once; of the others the user side hears."""
        ids = []
        for task in tasks:
            if task.fake.cmd_id:
                ids.append(task.fake.cmd_id)
            else:
                task.expected = Answer(TASK_ABORTED)
        self.requests.append((kind, ids))

    def expect_published(self) -> None:
        """The kernel is about to see what was published."""
        for command, task in self.completed[: self.published]:
            if task.expected is None:
                task.expected = task.given
            if task.keep:
                self.kept.append(command)
        del self.completed[: self.published]
        self.published = 0

    def hang_up(self) -> None:
        """Close the device."""
        self.ring.close()
        self.uio.close()
        self.over += self.taken
        self.taken.clear()
        self.kept.clear()

    def pick_up(self) -> None:
        """Open the device again."""
        self.uio = self.kernel.open()
        self.ring = Ring(self.uio.memory)

    @invariant()
    def answers_are_right(self) -> None:
        """Every command is done if and only if it should be, with the answer that it was given."""
        for task in self.tasks:
            task.check()

    @invariant()
    def nothing_broken(self) -> None:
        """The fake kernel has seen no rule broken."""
        self.kernel.verify(drained=False)

    def teardown(self) -> None:
        """Whatever happened, the ring drains."""
        if not hasattr(self, "kernel"):
            return
        for _ in range(100):
            while self.kept:
                self.free_kept_buffer(0)
            self.take(100)
            if not (self.kernel.in_flight or self.kernel.waiting or self.requests or self.completed):
                break
            for _ in list(self.taken):
                self.complete(0, "good", False)
            self.publish_and_ring()
            self.answers_are_right()
        self.publish_and_ring()
        assert not self.ring.outstanding
        assert self.kernel.cmd_head == self.kernel.cmd_tail
        self.kernel.verify()
        self.hang_up()


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=200, stateful_step_count=50
)
