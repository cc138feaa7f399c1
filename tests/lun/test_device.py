"""The life of a device: every way to open, serve, lose, drain and close it."""

from __future__ import annotations

import asyncio
import errno
import gc
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from zope.interface import implementer

from tests.lun.support import (
    BECOMING_READY,
    BUSY,
    CHECK_CONDITION,
    GOOD,
    HARDWARE_ERROR,
    MANUAL_INTERVENTION,
    TASK_ABORTED,
    Held,
    Later,
    RigTestCase,
    ScriptedBackstore,
)
from txtcmu.backstores.memory import MemoryBackstore
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import (
    BusyError,
    CheckCondition,
    ConfigError,
    FencedError,
    KernelError,
    MediumError,
    NotReadyError,
    SpaceExhaustedError,
    TCMUError,
)
from txtcmu.interfaces import ICommandHandler
from txtcmu.iovec import scatter
from txtcmu.kernel import abi
from txtcmu.lun.attachment import BUSY_PATIENCE
from txtcmu.lun.device import COMMAND_PATIENCE, OPEN_PATIENCE, Device, State
from txtcmu.testing.rig import OneBackstore, Rig
from txtcmu.threads import Threads

SIZE = 1 << 20
BLOCK = b"x" * 512


class _TestCase(RigTestCase):
    def announced(self, backstore: Any, **options: Any) -> Rig:
        """Return a rig whose device is not opened yet."""
        return self.rig(backstore, size=SIZE, start=False, **options)

    def sense(self, rig: Rig) -> tuple[int, int, int] | None:
        """Return the sense of a TEST UNIT READY now, ``None`` for GOOD."""
        command = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertTrue(command.done, "not answered")
        return command.sense_code


class OpenTests(_TestCase):
    def test_new_device(self) -> None:
        """A device that is just being enabled is opened without a reset, and told of aborts."""
        rig = self.rig(ScriptedBackstore())
        self.successResultOf(rig.opened)
        self.assertEqual(rig.device.state, State.SERVING)
        self.assertEqual(rig.target.calls, ["settings", "open_uio", "keep_write_cache", "want_task_management"])
        self.assertIsNone(self.sense(rig))

    def test_returns_otherwise(self) -> None:
        """A backstore that was lost and is another when it returns: the initiator hears what has changed."""
        rig = self.rig(MemoryBackstore(SIZE))
        other = MemoryBackstore(SIZE)
        other.read_only, other.physical_block_size = True, 8192
        rig.factory.backstore = other
        rig.device.medium.lose(NotReadyError("away"))
        rig.reactor.advance(60)
        rig.settle()
        self.assertEqual(rig.device.state, State.SERVING)
        self.assertEqual([self.sense(rig) for _ in range(3)], [(6, 0x3F, 3), (6, 0x2A, 1), None])

    def test_device_from_before(self) -> None:
        """The ring of a device that was there before the daemon is reset, once nobody else can have it open."""
        rig = self.announced(ScriptedBackstore())
        left = rig.initiator.test_unit_ready()
        rig.target.enabled()
        rig.device.open()
        rig.settle()
        self.assertEqual(left.status, BUSY)
        self.assertEqual(rig.target.calls, ["settings", "open_uio", "reset_ring", "want_task_management"])
        self.assertIsNone(self.sense(rig))

    def test_commands_before_open(self) -> None:
        """What is in the ring of a new device when it is opened is served, without another event."""
        rig = self.announced(ScriptedBackstore())
        early = rig.initiator.test_unit_ready()
        rig.device.open()
        rig.settle()
        self.assertEqual(early.status, GOOD)

    def test_predecessor_drains(self) -> None:
        """A device that a dying predecessor still has open is waited for."""
        rig = self.announced(ScriptedBackstore())
        predecessor = rig.kernel.open()
        opened = rig.device.open()
        rig.reactor.pump([0.1] * 50)
        self.assertNoResult(opened)
        predecessor.close()
        rig.reactor.pump([0.1] * 2)
        self.successResultOf(opened)
        self.assertIsNone(self.sense(rig))

    def test_predecessor_stays(self) -> None:
        """It is waited for for so long; then the device is refused, and the cause says that it is busy."""
        rig = self.announced(ScriptedBackstore())
        predecessor = rig.kernel.open()
        self.addCleanup(predecessor.close)
        opened = rig.device.open()
        rig.reactor.pump([0.1] * int(BUSY_PATIENCE * 10 + 2))
        error = self.failureResultOf(opened, KernelError).value
        self.assertEqual(error.__cause__.errno, errno.EBUSY)
        self.assertEqual(rig.device.state, State.CLOSED)
        self.successResultOf(rig.device.closed())

    def test_close_while_waiting_for_predecessor(self) -> None:
        """A device that is closed while it waits for its predecessor opens no more."""
        rig = self.announced(ScriptedBackstore())
        self.addCleanup(rig.kernel.open().close)
        opened = rig.device.open()
        closed = rig.device.close(1)
        rig.reactor.pump([0.1] * 3)
        self.assertTrue(self.successResultOf(closed))
        self.failureResultOf(opened, KernelError)

    def test_opened_twice(self) -> None:
        """However often it is opened, it is opened once; everybody hears the end."""
        opening = Later()
        rig = self.announced(opening)
        rig.factory.backstore = opening()
        results = [rig.device.open() for _ in range(3)]
        opening.made[0].callback(ScriptedBackstore(SIZE))
        for result in (*results, rig.device.open()):
            self.successResultOf(result)
        self.assertEqual((rig.factory.opened, rig.target.calls.count("open_uio")), (1, 1))

    def test_slow(self) -> None:
        """Whoever enables a device waits for its backstore, commands wait longer; then they are NOT READY."""
        opening = Later()
        rig = self.announced(None)
        rig.factory.backstore = opening()
        opened = rig.device.open()
        waiting = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertFalse(waiting.done)
        rig.reactor.advance(OPEN_PATIENCE)
        rig.settle()
        self.successResultOf(opened)
        self.assertFalse(waiting.done)
        rig.reactor.advance(COMMAND_PATIENCE)
        rig.settle()
        self.assertEqual(waiting.sense_code, BECOMING_READY)
        self.assertEqual(self.sense(rig), BECOMING_READY)
        opening.made[0].callback(ScriptedBackstore(SIZE))
        self.assertEqual((self.sense(rig), rig.device.state), (None, State.SERVING))

    def test_identity_while_slow(self) -> None:
        """INQUIRY is answered while the backstore is away."""
        rig = self.announced(NotReadyError("away"))
        rig.device.open()
        inquiry = rig.initiator.inquiry(0x80)
        rig.settle()
        self.assertEqual(inquiry.status, GOOD)
        self.assertIn(b"0123456789abcdef0123456789abcdef", inquiry.data)

    def test_fails_and_comes_back(self) -> None:
        """A backstore that cannot be opened is tried again and again, later and later, until it can."""
        for error in (NotReadyError("away"), OSError(errno.ECONNREFUSED, "refused"), CancelledError(), KeyError("bug")):
            rig = self.announced(error)
            self.successResultOf(rig.device.open())
            self.assertEqual((self.sense(rig), rig.device.state), (BECOMING_READY, State.DEGRADED))
            for attempt, seconds in enumerate([1, 2, 5, 10, 30, 30], start=1):
                rig.reactor.advance(seconds - 0.01)
                self.assertEqual(rig.factory.opened, attempt)
                rig.reactor.advance(0.01)
                self.assertEqual(rig.factory.opened, attempt + 1)
            rig.factory.backstore = ScriptedBackstore(SIZE)
            rig.reactor.advance(30)
            self.assertEqual((self.sense(rig), rig.device.state), (None, State.SERVING))
        # A mistake has its traceback in the log, but once.
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_not_even_an_exception(self) -> None:
        """A factory that leaves by SystemExit or asyncio's CancelledError is one that failed."""
        for error in (SystemExit(3), asyncio.CancelledError()):
            rig = self.announced(error)
            self.successResultOf(rig.device.open())
            self.assertEqual(self.sense(rig), BECOMING_READY)
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_config_error_refuses_new_device(self) -> None:
        """A new device whose backstore can never work is refused, and nothing of it stays open."""
        rig = self.announced(ConfigError("no such file"))
        opened = rig.device.open()
        self.assertEqual(str(self.failureResultOf(opened, ConfigError).value), "no such file")
        self.assertEqual(rig.device.state, State.CLOSED)
        rig.kernel.open().close()  # not EBUSY
        self.assertEqual((rig.reactor.getDelayedCalls(), rig.reactor.readers), ([], []))
        self.assertTrue(self.successResultOf(rig.device.close(1)))

    def test_config_error_of_existing_device(self) -> None:
        """A device from before waits for the operator's mend: MANUAL INTERVENTION REQUIRED, and serving after it."""
        rig = self.announced(ConfigError("no such file"))
        rig.target.enabled()
        self.successResultOf(rig.device.open())
        self.assertEqual(self.sense(rig), MANUAL_INTERVENTION)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        rig.reactor.advance(1)
        self.assertIsNone(self.sense(rig))

    def test_fenced(self) -> None:
        """A backstore that another writer has is not opened again."""
        rig = self.announced(FencedError("taken"))
        self.successResultOf(rig.device.open())
        self.assertEqual((self.sense(rig), rig.device.state), (MANUAL_INTERVENTION, State.FENCED))
        rig.reactor.advance(1000)
        self.assertEqual(rig.factory.opened, 1)

    def test_size_mismatch(self) -> None:
        """A backstore of another size than the LUN is closed, unflushed, and the device refused with the mend."""
        backstore = ScriptedBackstore(2 * SIZE)
        rig = self.announced(backstore)
        error = self.failureResultOf(rig.device.open(), ConfigError).value
        self.assertIn(f"--size {2 * SIZE}", str(error))
        self.assertEqual(backstore.names, ["close"])

    def test_impossible_backstores(self) -> None:
        """A backstore that cannot make a disk is closed and its device refused, whenever that is found."""
        physical, granularity = ScriptedBackstore(SIZE), MemoryBackstore(SIZE)
        physical.physical_block_size = 1000
        granularity.discard_granularity = 0
        for backstore in (physical, granularity, object(), None):
            rig = self.announced(backstore)
            opened = rig.device.open()
            if backstore is granularity:
                # Not a ConfigError: it may be a passing mistake, so it is tried again.
                self.successResultOf(opened)
                self.assertEqual(self.sense(rig), BECOMING_READY)
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            else:
                self.failureResultOf(opened, ConfigError)
                self.assertEqual(rig.device.state, State.CLOSED)
        self.assertEqual(physical.names, ["close"])
        self.flushLoggedErrors(AttributeError)  # object() and None have no close

    def test_unknown_option(self) -> None:
        """An option that the handler does not know refuses the device before anything is opened."""
        rig = self.announced(ScriptedBackstore())
        rig.device.config = rig.device.config.with_defaults({"chache": "yes"})
        self.failureResultOf(rig.device.open(), ConfigError)
        self.assertEqual(rig.factory.opened, 0)

    def test_kernel_refuses(self) -> None:
        """A device whose attributes cannot be read, whose ring cannot be reset, or is none, is refused and left."""

        def refuse() -> None:
            raise KernelError("no such attribute")

        for method in ("settings", "reset_ring", "want_task_management"):
            rig = self.announced(ScriptedBackstore())
            rig.target.enabled()
            setattr(rig.target, method, refuse)
            self.failureResultOf(rig.device.open(), KernelError)
            rig.kernel.open().close()
        rig = self.rig(ScriptedBackstore(), start=False, flags=abi.FLAG_TMR)
        self.failureResultOf(rig.device.open(), KernelError)
        rig.kernel.open().close()


class ServeTests(_TestCase):
    def write(self, rig: Rig) -> Any:
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        return command

    def test_results(self) -> None:
        """A value, a Deferred that has fired, one that fires later, and a coroutine all end a command."""

        async def coroutine(*_: Any) -> None:
            await succeed(None)

        later = Later()
        for result in (lambda *_: None, lambda *_: "ignored", lambda *_: succeed("ignored"), coroutine, later):
            rig = self.rig(ScriptedBackstore(write=result))
            command = self.write(rig)
            for deferred in later.made:
                self.assertFalse(command.done)
                deferred.callback("ignored")
                rig.settle()
            self.assertEqual(command.status, GOOD)

    def test_errors(self) -> None:
        """Each error reaches the initiator as its sense, raised at once, by a Deferred or in a coroutine alike."""
        cases: list[tuple[BaseException, int, tuple[int, int, int] | None]] = [
            (MediumError("bad", 1024), CHECK_CONDITION, (3, 0x0C, 0)),
            (SpaceExhaustedError("full"), CHECK_CONDITION, (7, 0x27, 7)),
            (BusyError("later"), BUSY, None),
            (OSError(errno.EIO, "I/O error"), CHECK_CONDITION, (3, 0x0C, 0)),
            (CheckCondition(0xB, 0x47, 3), CHECK_CONDITION, (0xB, 0x47, 3)),
            (CheckCondition(300, -1, 1 << 20), CHECK_CONDITION, HARDWARE_ERROR),
            (MediumError("nonsense", -7), CHECK_CONDITION, HARDWARE_ERROR),
            (TCMUError("whatever"), CHECK_CONDITION, HARDWARE_ERROR),
            (RuntimeError("a bug"), CHECK_CONDITION, HARDWARE_ERROR),
            (SystemExit(1), CHECK_CONDITION, HARDWARE_ERROR),
            (asyncio.CancelledError(), CHECK_CONDITION, HARDWARE_ERROR),
            (CancelledError(), TASK_ABORTED, None),
        ]
        for error, status, sense in cases:

            def raising(*_: Any, error: BaseException = error) -> None:
                raise error

            def failing(*_: Any, error: BaseException = error) -> Deferred[None]:
                return fail(error)

            async def coroutine(*_: Any, error: BaseException = error) -> None:
                raise error

            for write in (raising, failing, coroutine):
                rig = Rig(ScriptedBackstore(write=write))
                command = self.write(rig)
                self.assertEqual((command.status, command.sense_code), (status, sense), f"{error!r} {write}")
                self.assertIsNone(self.sense(rig))
                rig.close()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
        self.flushLoggedErrors()

    def test_wrong_types(self) -> None:
        """What a backstore should not return is HARDWARE ERROR with a traceback, not the end of the device."""
        for result in (None, 3, "text", object(), succeed(None), succeed(object())):
            rig = self.rig(ScriptedBackstore(read=lambda *_, result=result: result))
            command = rig.initiator.read(0, 1)
            rig.settle()
            self.assertEqual(command.sense_code, HARDWARE_ERROR)
            self.assertIsNone(self.sense(rig))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 6)

    def test_lost(self) -> None:
        """A backstore that says NotReady is left alone, closed when idle, without a flush, and opened again."""
        slow = Later()
        lost = ScriptedBackstore(SIZE, read=slow, write=lambda *_: fail(NotReadyError("gone")))
        rig = self.rig(lost)
        reading = rig.initiator.read(0, 1)
        failed = self.write(rig)
        self.assertEqual((failed.sense_code, rig.device.state), (BECOMING_READY, State.DEGRADED))
        self.assertEqual(self.sense(rig), BECOMING_READY)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        rig.reactor.advance(10)
        self.assertEqual((rig.factory.opened, lost.names), (1, ["read", "write"]))
        slow.made[0].errback(NotReadyError("gone for me too"))
        rig.settle()
        self.assertEqual(reading.sense_code, BECOMING_READY)
        self.assertEqual((rig.factory.opened, lost.names[2:]), (2, ["close"]))
        self.assertIsNone(self.sense(rig))

    def test_lost_by_errno(self) -> None:
        """A backstore whose OSError means that it is away is opened again, like one that says so itself."""
        for number in (errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT):
            rig = self.rig(ScriptedBackstore(SIZE, write=lambda *_, number=number: fail(OSError(number, "away"))))
            failed = self.write(rig)
            self.assertEqual((failed.sense_code, rig.device.state), (BECOMING_READY, State.DEGRADED))
            rig.factory.backstore = ScriptedBackstore(SIZE)
            rig.reactor.advance(1)
            rig.settle()
            self.assertEqual((rig.factory.opened, self.sense(rig)), (2, None))

    def test_limits_before_ready(self) -> None:
        """The longest transfer that a disk tells before it was ever ready is the one that it takes when it is."""
        rig = self.announced(NotReadyError("away"), max_blocks=128)
        rig.device.open()
        limits = rig.initiator.inquiry(0xB0)
        rig.settle()
        self.assertEqual(int.from_bytes(limits.data[8:12], "big"), 128)

    def test_features_while_lost(self) -> None:
        """A disk that can discard says so, and NOT READY to UNMAP, while it is away, lest its initiator forgets."""
        rig = self.rig(MemoryBackstore(SIZE))
        before = rig.initiator.inquiry(0xB2)
        rig.settle()
        rig.factory.backstore = NotReadyError("away")
        rig.device.medium.lose(NotReadyError("gone"))
        unmap, after = rig.initiator.unmap((0, 8)), rig.initiator.inquiry(0xB2)
        rig.settle()
        self.assertEqual(unmap.sense_code, BECOMING_READY)
        self.assertEqual(after.data, before.data)

    def test_fenced(self) -> None:
        """A backstore that says Fenced is never opened again, and closed without a flush with its device."""
        backstore = ScriptedBackstore(SIZE, write=lambda *_: fail(FencedError("taken")))
        rig = self.rig(backstore)
        self.assertEqual(self.write(rig).sense_code, MANUAL_INTERVENTION)
        rig.reactor.advance(1000)
        self.assertEqual((self.sense(rig), rig.device.state), (MANUAL_INTERVENTION, State.FENCED))
        self.assertEqual(rig.factory.opened, 1)
        rig.close()
        self.assertEqual(backstore.names, ["write", "close"])

    def test_window_held_on_to(self) -> None:
        """A backstore whose export of a window outlives the command costs neither the command nor the device."""
        from ctypes import c_char

        exports = []

        def write(offset: int, data: memoryview) -> None:
            exports.append((c_char * len(data)).from_buffer(data))

        rig = Rig(ScriptedBackstore(write=write))
        self.assertEqual(self.write(rig).status, GOOD)
        self.assertIsNone(self.sense(rig))
        closed = rig.device.close(1)
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual(rig.device.state, State.CLOSED)


@implementer(ICommandHandler)
class Handler:
    """A raw SCSI device."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class CommandHandlerTests(_TestCase):
    def test_statuses(self) -> None:
        """A handler's status is the command's; ``None`` is GOOD."""
        for result, status in ((None, 0), (0, 0), (4, 4), (8, 8), (0x18, 0x18), (0x28, 0x28), (0x40, 0x40)):
            for given in (result, succeed(result)):
                rig = self.rig(Handler(lambda _, given=given: given), size=SIZE)
                command = rig.initiator.test_unit_ready()
                rig.settle()
                self.assertEqual(command.status, status)

    def test_nonsense(self) -> None:
        """What is no status, and CHECK CONDITION without its sense, is HARDWARE ERROR; the device goes on."""
        for result in (2, 1000, -1, 1, "GOOD", b"", [], 0.5, object()):
            for given in (result, succeed(result)):
                rig = self.rig(Handler(lambda _, given=given: given), size=SIZE)
                command = rig.initiator.read(0, 1)
                rig.settle()
                self.assertEqual(command.sense_code, HARDWARE_ERROR, repr(result))
        self.flushLoggedErrors(TypeError)

    def test_raw(self) -> None:
        """A handler gets every CDB as it is, INQUIRY included, with its buffers; it is closed once, never flushed."""
        seen = []

        def handle(command: Any) -> None:
            seen.append((bytes(command.cdb), command.length))
            scatter(b"tape", command.buffers)

        handler = Handler(handle)
        rig = self.rig(handler, size=SIZE)
        command = rig.initiator.inquiry(allocation_length=16)
        vendor = rig.kernel.submit(bytes([0xC7]))
        rig.settle()
        self.assertEqual((command.status, command.data, vendor.status), (GOOD, b"tape".ljust(16, b"\0"), GOOD))
        self.assertEqual(seen, [(bytes([0x12, 0, 0, 0, 16, 0]), 16), (bytes([0xC7] + [0] * 9), 0)])
        rig.close()
        self.assertEqual(handler.closed, 1)

    def test_own_sense(self) -> None:
        """A handler's CheckCondition is its sense data; its NotReadyError takes it away and brings it back."""

        def handle(command: Any) -> None:
            raise CheckCondition(8, 0, 5) if command.cdb[0] == 0 else NotReadyError("no tape")

        rig = self.rig(Handler(handle), size=SIZE)
        self.assertEqual(self.sense(rig), (8, 0, 5))
        rig.initiator.read(0, 1)
        self.assertEqual(self.sense(rig), BECOMING_READY)
        rig.reactor.advance(1)
        self.assertEqual(self.sense(rig), (8, 0, 5))


class CloseTests(_TestCase):
    def close(self, rig: Rig, patience: float = 5) -> Deferred[bool]:
        closed = rig.device.close(patience)
        rig.settle()
        return closed

    def test_order(self) -> None:
        """Outstanding commands end, then the backstore is flushed, then closed, each once; then the device is free."""
        write, flush, close = Later(), Later(), Later()
        backstore = ScriptedBackstore(SIZE, write=write, flush=flush, close=close)
        rig = Rig(backstore)
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        closed, again = self.close(rig), self.close(rig)
        late = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertEqual((backstore.names, rig.device.state), (["write"], State.DRAINING))
        write.made[0].callback(None)
        self.assertEqual((command.status, backstore.names), (GOOD, ["write", "flush"]))
        flush.made[0].callback(None)
        self.assertEqual(backstore.names, ["write", "flush", "close"])
        self.assertNoResult(closed)
        close.made[0].callback(None)
        self.assertEqual((self.successResultOf(closed), self.successResultOf(again)), (True, True))
        self.assertEqual(rig.device.state, State.CLOSED)
        self.assertFalse(late.done)  # the next daemon's
        rig.kernel.verify(drained=False)
        rig.kernel.open().close()

    def test_write_cache_is_kept(self) -> None:
        """What an initiator has made of the write cache is so for the next daemon, too."""
        for on in (False, True):
            rig = self.rig(MemoryBackstore(SIZE))
            commands = [rig.initiator.cache_writes(each) for each in (False, on)]
            rig.settle()
            self.assertEqual([command.status for command in commands], [GOOD, GOOD])
            self.assertTrue(self.successResultOf(self.close(rig)))
            rig.target.enabled()
            threads = Threads(rig.reactor, rig.reactor.getThreadPool())
            successor = Device(
                rig.reactor, rig.target, threads, OneBackstore(MemoryBackstore(SIZE)), DeviceConfig("fake", "disk")
            )
            successor.open()
            rig.settle()
            self.assertEqual((successor.state, successor.unit.write_cache), (State.SERVING, on))
            successor.close(1)
            rig.settle()

    def test_write_cache_cannot_be_kept(self) -> None:
        """A cache whose being on cannot be kept is off, and the initiator hears of it."""
        rig = self.rig(MemoryBackstore(SIZE))
        rig.initiator.cache_writes(False)
        rig.settle()

        def refuse(_on: bool) -> None:
            raise KernelError("no")

        self.patch(rig.target, "keep_write_cache", refuse)
        command = rig.initiator.cache_writes(True)
        rig.settle()
        self.assertEqual((command.status, rig.device.unit.write_cache), (CHECK_CONDITION, False))

    def test_cancelled_coroutine(self) -> None:
        """What the traceback of a cancelled coroutine still holds does not keep the device busy."""

        class Catching:
            """Holds an exception, and so a window, in a cycle."""

        async def write(_offset: int, data: memoryview) -> None:
            part, cycle = data[:512], Catching()
            try:
                await Deferred()
            except CancelledError as error:
                cycle.error, cycle.part, cycle.itself = error, part, cycle  # type: ignore[attr-defined]
                raise

        backstore = ScriptedBackstore(SIZE, write=write)
        rig = self.rig(backstore)
        gc.disable()
        self.addCleanup(gc.enable)
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.abort(command)
        rig.settle()
        self.assertEqual(command.status, TASK_ABORTED)
        self.assertTrue(self.successResultOf(self.close(rig)))
        rig.kernel.open().close()

    def test_errors(self) -> None:
        """A flush or close that fails is logged, and keeps nothing from being closed."""

        def refuse() -> None:
            raise OSError(errno.EIO, "I/O error")

        for result in (refuse, lambda: fail(OSError("later"))):
            backstore = ScriptedBackstore(SIZE, flush=result, close=result)
            rig = self.rig(backstore)
            self.assertTrue(self.successResultOf(self.close(rig)))
            self.assertEqual((backstore.names, rig.device.state), (["flush", "close"], State.CLOSED))
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_read_only(self) -> None:
        """A read-only backstore is not flushed."""
        backstore = ScriptedBackstore(SIZE)
        backstore.read_only = True
        self.close(self.rig(backstore))
        self.assertEqual(backstore.names, ["close"])

    def test_impatient(self) -> None:
        """What is outstanding when patience is at an end is aborted with BUSY, and the device closes."""
        backstore = ScriptedBackstore(SIZE, write=Later())
        rig = self.rig(backstore)
        commands = [rig.initiator.write(lba, BLOCK) for lba in (0, 0, 1)]
        rig.settle()
        closed = self.close(rig)
        rig.reactor.advance(5)
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual([command.status for command in commands], [BUSY] * 3)
        self.assertEqual(backstore.names, ["write", "write", "flush", "close"])

    def test_never_lets_go(self) -> None:
        """A backstore that holds on is given up after twice the patience; all is closed when it lets go."""
        write = Later(Held)
        backstore = ScriptedBackstore(SIZE, write=write)
        rig = self.rig(backstore)
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        closed = self.close(rig)
        rig.reactor.advance(5)
        rig.settle()
        self.assertEqual((command.status, command.kept), (BUSY, True))
        rig.reactor.advance(5)
        self.assertFalse(self.successResultOf(closed))
        self.assertNoResult(rig.device.closed())
        self.assertEqual(backstore.names, ["write"])
        write.made[0].callback(None)
        rig.settle()
        self.successResultOf(rig.device.closed())
        self.assertEqual(backstore.names, ["write", "flush", "close"])
        # A removal may be waiting for us, so configfs was left alone: the close has freed the buffer.
        self.assertNotIn("free_kept_buf", rig.target.calls)

    def test_patience_of_each(self) -> None:
        """Whoever closes a device that is being closed has his own patience, and hears the truth."""
        flush = Later()
        rig = self.rig(ScriptedBackstore(SIZE, flush=flush))
        hasty, patient = self.close(rig, 0), self.close(rig, 20)
        self.assertFalse(self.successResultOf(hasty))
        self.assertNoResult(patient)
        flush.made[0].callback(None)
        self.assertTrue(self.successResultOf(patient))

    def test_while_opening(self) -> None:
        """Closing cancels an opening backstore, quietly; nothing is opened afterwards."""
        opening = Later()
        rig = self.announced(None)
        rig.factory.backstore = opening()
        opened = rig.device.open()
        closed = self.close(rig)
        self.assertTrue(self.successResultOf(closed))
        self.successResultOf(opened)
        rig.reactor.advance(1000)
        self.assertEqual((rig.factory.opened, rig.reactor.getDelayedCalls()), (1, []))

    def test_while_opening_that_goes_on(self) -> None:
        """A backstore that opens although it was cancelled is flushed and closed."""
        opening = Later(Held)
        rig = self.announced(None)
        rig.factory.backstore = opening()
        rig.device.open()
        closed = self.close(rig)
        self.assertNoResult(closed)
        backstore = ScriptedBackstore(SIZE)
        opening.made[0].callback(backstore)
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual(backstore.names, ["flush", "close"])

    def test_while_attaching(self) -> None:
        """A device closed while a thread still reads its attributes closes when that is done, and opens nothing."""
        rig = self.announced(ScriptedBackstore())
        rig.reactor.hold_threads()
        opened = rig.device.open()
        closed = self.close(rig)
        self.assertNoResult(closed)
        rig.reactor.release_threads()
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.successResultOf(opened)
        self.assertEqual(rig.factory.opened, 0)

    def test_while_degraded(self) -> None:
        """A device that waits to open its backstore again waits no more once it is closed."""
        rig = self.announced(NotReadyError("away"))
        rig.device.open()
        self.assertTrue(self.successResultOf(self.close(rig)))
        rig.reactor.advance(1000)
        self.assertEqual(rig.factory.opened, 1)

    def test_while_reopening(self) -> None:
        """Closed while the lost backstore is being closed: that is not disturbed, and none is opened."""
        close = Later()
        lost = ScriptedBackstore(SIZE, close=close)
        rig = self.rig(lost)
        rig.device.medium.lose(NotReadyError("gone"))
        rig.reactor.advance(1)
        closed = self.close(rig)
        self.assertNoResult(closed)
        close.made[0].callback(None)
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual((lost.names, rig.factory.opened), (["close"], 1))

    def test_lost_while_draining(self) -> None:
        """A backstore that is lost during the drain is closed once, and not opened again."""
        write = Later()
        backstore = ScriptedBackstore(SIZE, write=write)
        rig = self.rig(backstore)
        command = rig.initiator.write(0, BLOCK)
        rig.settle()
        closed = self.close(rig)
        write.made[0].errback(NotReadyError("gone"))
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual((command.sense_code, backstore.names), (BECOMING_READY, ["write", "close"]))
        rig.reactor.advance(1000)
        self.assertEqual((rig.factory.opened, rig.device.state), (1, State.CLOSED))

    def test_never_opened(self) -> None:
        """A device that was announced only is closed at once, and stays so."""
        rig = self.announced(ScriptedBackstore())
        self.assertTrue(self.successResultOf(self.close(rig)))
        self.successResultOf(rig.device.open())
        self.assertEqual((rig.device.state, rig.target.calls), (State.CLOSED, []))

    def test_while_full_of_commands(self) -> None:
        """Closed in the middle of a load, each command taken is completed once, and no other one is taken."""
        write = Later()
        rig = Rig(ScriptedBackstore(SIZE, write=write))
        with rig.kernel.plugged():
            commands = [rig.initiator.write(lba, BLOCK) for lba in range(200)]
        rig.reactor.turn()
        taken = len(write.made)
        self.assertEqual(taken, 64)
        closed = self.close(rig)
        for deferred in reversed(write.made):
            deferred.callback(None)
        rig.settle()
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual([command.status for command in commands], [GOOD] * taken + [-1] * (200 - taken))
        rig.kernel.verify(drained=False)

    def test_removed_under_load(self) -> None:
        """A device that the kernel removes is closed: commands are cancelled, the backstore flushed and closed."""
        backstore = ScriptedBackstore(SIZE, write=Later())
        rig = self.rig(backstore)
        for lba in range(5):
            rig.initiator.write(lba, BLOCK)
        rig.settle()
        rig.kernel.remove()
        rig.settle()
        self.assertEqual((rig.device.state, rig.reactor.readers), (State.CLOSED, []))
        self.assertEqual(backstore.names, ["write"] * 5 + ["flush", "close"])
        rig.kernel.verify(drained=False)
        rig.kernel._commands.clear()
        rig.kernel._ring.reset()

    def test_removed_while_a_backstore_hangs(self) -> None:
        """A device that is removed while its backstore holds a window lets go of the kernel's memory when that does."""
        write = Later(Held)
        backstore = ScriptedBackstore(SIZE, write=write)
        rig = self.rig(backstore)
        rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.remove()
        rig.settle()
        self.assertEqual((rig.device.state, rig.reactor.readers, backstore.names), (State.DRAINING, [], ["write"]))
        rig.reactor.advance(1000)
        self.assertEqual(rig.device.state, State.DRAINING)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((rig.device.state, backstore.names), (State.CLOSED, ["write", "flush", "close"]))
        self.assertNotIn("free_kept_buf", rig.target.calls)
        rig.kernel._commands.clear()
        rig.kernel._ring.reset()

    def test_blocked_by_the_operator(self) -> None:
        """While the kernel blocks the device what was taken ends as ever; afterwards it takes commands again."""
        write = Later()
        rig = self.rig(ScriptedBackstore(SIZE, write=write))
        taken = rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.block_dev(True)
        refused = rig.initiator.write(1, BLOCK)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((taken.status, refused.status), (GOOD, BUSY))
        rig.kernel.block_dev(False)
        again = rig.initiator.write(1, BLOCK)
        rig.settle()
        write.made[1].callback(None)
        rig.settle()
        self.assertEqual(again.status, GOOD)

    def test_removed_found_by_the_doorbell(self) -> None:
        """A completion that finds the device removed closes it just so."""
        write = Later()
        backstore = ScriptedBackstore(SIZE, write=write)
        rig = self.rig(backstore)
        rig.initiator.write(0, BLOCK)
        rig.settle()
        rig.kernel.removed = True  # before any event
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((rig.device.state, backstore.names), (State.CLOSED, ["write", "flush", "close"]))
        rig.kernel._commands.clear()
        rig.kernel._ring.reset()
