"""Changes of a live disk: what commands see of them, and what is left when they fail, hang, or end too late."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from zope.interface import implementer

from tests.lun.support import BECOMING_READY, BUSY, GOOD, WRITE_ERROR, Held, Later, RigTestCase, ScriptedBackstore
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import BackstoreError, BusyError, ConfigError, NotReadyError
from txtcmu.interfaces import IBackstore, ICommandHandler, IResizable
from txtcmu.lun.device import State
from txtcmu.lun.reconfig import CHANGE_PATIENCE, DRAIN_PATIENCE
from txtcmu.testing.rig import Rig

SIZE = 1 << 20
BLOCKS = SIZE // 512
BLOCK = b"x" * 512
OUT_OF_RANGE = (5, 0x21, 0)
CAPACITY, MODE, INQUIRY = (6, 0x2A, 0x09), (6, 0x2A, 0x01), (6, 0x3F, 0x03)


@implementer(IBackstore, IResizable)
class Resizable(ScriptedBackstore):
    """A disk whose size follows ``resize`` when that fires, or is raised by what the script raises."""

    def resize(self, size: int) -> Any:
        self.calls.append(("resize", size))
        if "resize" not in self.script:
            self.size = size
            return None
        return self.script["resize"](size).addCallback(lambda _: setattr(self, "size", size))

    @property
    def sizes(self) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "resize"]


@implementer(ICommandHandler)
class Raw:
    """A raw device."""

    def handle(self, command: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _TestCase(RigTestCase):
    def sense(self, rig: Rig) -> tuple[int, int, int] | None:
        command = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertTrue(command.done)
        return command.sense_code

    def change(self, rig: Rig, method: Callable[..., Any], *args: Any) -> Deferred[None]:
        changed = Deferred.fromCoroutine(method(*args))
        rig.settle()
        return changed

    def resize(self, rig: Rig, size: int) -> Deferred[None]:
        return self.change(rig, rig.device.resize, size)

    def geometry(self, rig: Rig) -> tuple[int, int]:
        """Return what the device takes for its size, as kernel and as initiator."""
        return rig.device.settings.size, rig.device.unit.blocks * 512

    def blocks(self, rig: Rig) -> int:
        command = rig.initiator.read_capacity()
        rig.settle()
        return int.from_bytes(command.data[:8], "big") + 1


class SizeTests(_TestCase):
    def test_grow(self) -> None:
        """A disk that has grown says so once, and takes commands up to its new end."""
        rig = self.rig(Resizable(SIZE))
        self.successResultOf(self.resize(rig, 2 * SIZE))
        self.assertEqual((self.sense(rig), self.sense(rig)), (CAPACITY, None))
        last = rig.initiator.write(2 * BLOCKS - 1, BLOCK)
        behind = rig.initiator.write(2 * BLOCKS, BLOCK)
        rig.settle()
        self.assertEqual((last.status, behind.sense_code), (GOOD, OUT_OF_RANGE))

    def test_not_before_it_is_there(self) -> None:
        """While a backstore still grows, its disk has the old end."""
        resize = Later()
        rig = self.rig(Resizable(SIZE, resize=resize))
        resized = self.resize(rig, 2 * SIZE)
        early = rig.initiator.write(BLOCKS, BLOCK)
        rig.settle()
        self.assertEqual((early.sense_code, self.geometry(rig)), (OUT_OF_RANGE, (SIZE, SIZE)))
        resize.made[0].callback(None)
        self.successResultOf(resized)
        self.assertEqual(self.geometry(rig), (2 * SIZE, 2 * SIZE))

    def test_shrink(self) -> None:
        """From the moment it begins nobody gets behind the new end; those who were there are waited for."""
        write = Later()
        backstore = Resizable(SIZE, write=write)
        rig = self.rig(backstore)
        before = rig.initiator.write(BLOCKS - 1, BLOCK)
        rig.settle()
        resized = self.resize(rig, SIZE // 2)
        behind = rig.initiator.write(BLOCKS - 2, BLOCK)
        within = rig.initiator.read(0, 1)
        rig.settle()
        self.assertEqual((behind.sense_code, within.status, backstore.sizes), (OUT_OF_RANGE, GOOD, []))
        write.made[0].callback(None)
        rig.settle()
        self.successResultOf(resized)
        self.assertEqual((before.status, backstore.sizes, self.geometry(rig)), (GOOD, [SIZE // 2], (SIZE // 2,) * 2))

    def test_shrink_aborts(self) -> None:
        """Those who take too long are aborted with BUSY; when they are sent again they are out of range."""
        rig = self.rig(Resizable(SIZE, write=Later()))
        before = rig.initiator.write(BLOCKS - 1, BLOCK)
        rig.settle()
        resized = self.resize(rig, SIZE // 2)
        rig.reactor.advance(DRAIN_PATIENCE)
        rig.settle()
        self.successResultOf(resized)
        self.assertEqual(before.status, BUSY)

    def test_shrink_waits_for_held_windows(self) -> None:
        """A backstore that still writes behind the new end is not resized; the change fails, and the end is back."""
        write = Later(Held)
        backstore = Resizable(SIZE, write=write)
        rig = self.rig(backstore)
        rig.initiator.write(BLOCKS - 1, BLOCK)
        rig.settle()
        resized = self.resize(rig, SIZE // 2)
        rig.reactor.pump([DRAIN_PATIENCE, CHANGE_PATIENCE])
        rig.settle()
        self.failureResultOf(resized, BusyError)
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((backstore.sizes, self.geometry(rig)), ([], (SIZE, SIZE)))
        self.successResultOf(self.resize(rig, SIZE // 2))

    def test_refused_by_the_backstore(self) -> None:
        """A backstore that cannot have the size has not changed; nor has the disk."""
        for size in (SIZE // 2, 2 * SIZE):
            backstore = Resizable(SIZE, resize=lambda _: fail(ConfigError("too large")))
            rig = self.rig(backstore)
            self.failureResultOf(self.resize(rig, size), ConfigError)
            self.assertEqual((backstore.sizes, self.geometry(rig)), ([size], (SIZE, SIZE)))
            self.assertIsNone(self.sense(rig))

    def test_fails(self) -> None:
        """A change that fails may be made all the same, by now or later, so it is taken back."""
        for size in (SIZE // 2, 2 * SIZE):
            results: list[Deferred[None]] = [Deferred(), Deferred()]
            backstore = Resizable(SIZE, resize=lambda _, results=results: results.pop(0))
            rig = self.rig(backstore)
            first, second = results
            resized = self.resize(rig, size)
            first.errback(OSError(errno.EIO, "I/O error"))
            backstore.size = size  # it landed
            self.assertNoResult(resized)
            second.callback(None)
            self.failureResultOf(resized, OSError)
            self.assertEqual((backstore.size, self.geometry(rig)), (SIZE, (SIZE, SIZE)))
            self.assertIsNone(self.sense(rig))

    def test_cannot_be_taken_back(self) -> None:
        """A backstore of which nobody knows what it is like now is opened anew, and measured."""
        backstore = Resizable(SIZE, resize=lambda _: fail(OSError(errno.EIO, "I/O error")))
        rig = self.rig(backstore)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        self.failureResultOf(self.resize(rig, 2 * SIZE), OSError)
        self.assertEqual((self.sense(rig), rig.device.state), (BECOMING_READY, State.DEGRADED))
        rig.reactor.advance(1)
        rig.settle()
        self.assertEqual((backstore.names[-1], self.sense(rig)), ("close", None))

    def test_no_exception(self) -> None:
        """What is no Exception fails a change like any other error, and one that cannot be taken back, too."""
        bad = Later()
        backstore = Resizable(SIZE, resize=bad)
        rig = self.rig(backstore)
        resized = self.resize(rig, 2 * SIZE)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        bad.made[0].errback(asyncio.CancelledError())
        bad.made[1].errback(asyncio.CancelledError())
        self.failureResultOf(resized, BackstoreError)
        self.assertEqual((rig.device.state, self.geometry(rig)), (State.DEGRADED, (SIZE, SIZE)))

    def test_too_late(self) -> None:
        """A success that comes when the kernel was told of a failure is undone before anything else is done."""
        resize = Later(Held)
        backstore = Resizable(SIZE, resize=resize)
        rig = self.rig(backstore)
        resized = self.resize(rig, 2 * SIZE)
        rig.reactor.advance(CHANGE_PATIENCE)
        self.failureResultOf(resized, BusyError)
        self.failureResultOf(self.resize(rig, 4 * SIZE), BusyError)
        self.failureResultOf(self.resize(rig, SIZE), BusyError)  # even what the kernel has
        resize.made[0].callback(None)
        self.assertEqual((backstore.sizes, backstore.size), ([2 * SIZE, SIZE], 2 * SIZE))
        self.failureResultOf(self.resize(rig, 4 * SIZE), BusyError)
        resize.made[1].callback(None)
        self.assertEqual((backstore.size, self.geometry(rig), self.sense(rig)), (SIZE, (SIZE, SIZE), None))

    def test_lost_meanwhile(self) -> None:
        """A backstore that is lost while it is resized is not closed before that has ended and is taken back."""
        resize = Later()
        backstore = Resizable(SIZE, resize=resize)
        rig = self.rig(backstore)
        resized = self.resize(rig, 2 * SIZE)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        rig.device.medium.lose(NotReadyError("gone"))
        rig.reactor.advance(1)
        self.assertNotIn("close", backstore.names)
        resize.made[0].callback(None)
        self.assertNotIn("close", backstore.names)
        resize.made[1].callback(None)
        rig.settle()
        self.failureResultOf(resized, NotReadyError)
        self.assertEqual((backstore.calls[-2:], self.geometry(rig)), ([("resize", SIZE), ("close",)], (SIZE, SIZE)))
        self.assertIsNone(self.sense(rig))

    def test_lies(self) -> None:
        """A backstore that says that it is resized, and is not, fails the change."""
        backstore = Resizable(SIZE)
        backstore.resize = lambda size: None  # type: ignore[method-assign]
        rig = self.rig(backstore)
        self.failureResultOf(self.resize(rig, 2 * SIZE), ConfigError)
        self.assertEqual(self.geometry(rig), (SIZE, SIZE))

    def test_grown_by_itself(self) -> None:
        """A backstore that cannot be resized, but has just that size by now, is accepted with it; no other size is."""
        backstore = ScriptedBackstore(SIZE)
        rig = self.rig(backstore)
        backstore.size = 2 * SIZE
        self.failureResultOf(self.resize(rig, 4 * SIZE), ConfigError)
        self.successResultOf(self.resize(rig, 2 * SIZE))
        self.assertEqual((self.geometry(rig), self.sense(rig)), ((2 * SIZE, 2 * SIZE), CAPACITY))

    def test_reopened(self) -> None:
        """The new size is the one that a backstore must have which is opened later."""
        rig = self.rig(Resizable(SIZE))
        self.successResultOf(self.resize(rig, 2 * SIZE))
        self.assertEqual(self.sense(rig), CAPACITY)
        for size, state in ((SIZE, State.DEGRADED), (2 * SIZE, State.SERVING)):
            rig.factory.backstore = Resizable(size)
            rig.device.medium.lose(NotReadyError("gone"))
            rig.reactor.advance(2)
            rig.settle()
            self.assertEqual(rig.device.state, state)

    def test_closed_meanwhile(self) -> None:
        """A device that is closed while it is resized closes when its backstore is as it was."""
        backstore = Resizable(SIZE, resize=(resize := Later()))
        rig = self.rig(backstore)
        resized = self.resize(rig, 2 * SIZE)
        closed = rig.device.close(5)
        rig.reactor.advance(5)
        resize.made[1].callback(None)
        rig.settle()
        self.failureResultOf(resized, BusyError)
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual(backstore.calls[-3:], [("resize", SIZE), ("flush",), ("close",)])

    def test_raw(self) -> None:
        """A raw device has no size, nor a write cache, that we could change."""
        rig = self.rig(Raw(), size=SIZE)
        self.failureResultOf(self.resize(rig, 2 * SIZE), ConfigError)
        self.failureResultOf(self.change(rig, rig.device.cache_writes, False), ConfigError)


class WriteCacheTests(_TestCase):
    def cache(self, rig: Rig, on: bool) -> Deferred[None]:
        return self.change(rig, rig.device.cache_writes, on)

    def test_off(self) -> None:
        """Before the cache counts as off, what was under way has ended and everything is flushed."""
        write, flush = Later(), Later()
        backstore = ScriptedBackstore(SIZE, write=write, flush=flush)
        rig = self.rig(backstore)
        before = rig.initiator.write(0, BLOCK)
        rig.settle()
        off = self.cache(rig, False)
        self.assertEqual(backstore.names, ["write"])
        write.made[0].callback(None)
        rig.settle()
        self.assertEqual((before.status, backstore.names), (GOOD, ["write", "flush"]))
        self.assertNoResult(off)
        flush.made[0].callback(None)
        backstore.script.clear()
        self.successResultOf(off)
        self.assertEqual((self.sense(rig), self.sense(rig)), (MODE, None))
        backstore.calls.clear()
        through = rig.initiator.write(0, BLOCK)
        rig.settle()
        self.assertEqual((through.status, backstore.names), (GOOD, ["write", "flush"]))

    def test_on(self) -> None:
        """The cache can be switched on again; what is so already is no news."""
        rig = self.rig(ScriptedBackstore(SIZE))
        for on in (False, False, True, True):
            self.successResultOf(self.cache(rig, on))
        self.assertEqual((self.sense(rig), self.sense(rig), rig.device.unit.write_cache), (MODE, None, True))

    def test_flush_fails(self) -> None:
        """A flush that fails leaves the cache on."""
        rig = self.rig(ScriptedBackstore(SIZE, flush=lambda: fail(OSError(errno.EIO, "I/O error"))))
        self.failureResultOf(self.cache(rig, False), OSError)
        self.assertEqual((rig.device.unit.write_cache, self.sense(rig)), (True, None))
        rig.device.medium.backstore.script.clear()

    def test_initiators_in_between(self) -> None:
        """No initiator hears of a cache that is off before all is durable, and none switches it meanwhile."""
        for fails in (False, True):
            flush = Later()
            backstore = ScriptedBackstore(SIZE, flush=flush)
            rig = self.rig(backstore)
            off = self.cache(rig, False)
            select, sense = rig.initiator.cache_writes(False), rig.initiator.mode_sense(8)
            rig.settle()
            self.assertEqual((select.done, sense.done), (False, False))
            if fails:
                backstore.script["flush"] = lambda: fail(OSError(errno.EIO, "I/O error"))
                flush.made[0].errback(OSError(errno.EIO, "I/O error"))
                self.failureResultOf(off, OSError)
                rig.settle()
                self.assertEqual((select.sense_code, sense.data[6] & 0x04), (WRITE_ERROR, 0x04))
            else:
                flush.made[0].callback(None)
                self.successResultOf(off)
                rig.settle()
                self.assertEqual((select.sense_code, sense.data[6] & 0x04), (MODE, 0))
            backstore.script.clear()

    def test_flush_hangs(self) -> None:
        """A flush that hangs fails the change, and keeps the backstore from being closed until it ends."""
        flush = Later(Held)
        backstore = ScriptedBackstore(SIZE, flush=flush)
        rig = self.rig(backstore)
        off = self.cache(rig, False)
        rig.reactor.advance(CHANGE_PATIENCE)
        self.failureResultOf(off, BusyError)
        rig.factory.backstore = ScriptedBackstore(SIZE)
        rig.device.medium.lose(NotReadyError("gone"))
        rig.reactor.advance(1)
        self.assertNotIn("close", backstore.names)
        flush.made[0].callback(None)
        rig.settle()
        self.assertEqual((backstore.names[-1], rig.device.unit.write_cache, self.sense(rig)), ("close", True, None))

    def test_survives(self) -> None:
        """A cache that is off stays off when the backstore is lost and opened again."""
        rig = self.rig(ScriptedBackstore(SIZE))
        self.successResultOf(self.cache(rig, False))
        self.assertEqual(self.sense(rig), MODE)
        rig.device.medium.lose(NotReadyError("gone"))
        rig.reactor.advance(1)
        rig.settle()
        self.assertEqual((rig.device.state, rig.device.unit.write_cache), (State.SERVING, False))


class ConfigTests(_TestCase):
    def setUp(self) -> None:
        self.old = ScriptedBackstore(SIZE)
        self.box = self.rig(self.old)
        self.box.factory.options = frozenset({"colour"})
        self.new = self.box.factory.backstore = ScriptedBackstore(SIZE)

    def reopen(self, **options: str) -> Deferred[None]:
        return self.change(self.box, self.box.device.reopen, DeviceConfig("fake", "disk", options))

    def test_reopened(self) -> None:
        """The old backstore is flushed and closed before the new one is opened; commands wait for it."""
        opening = Later()
        self.box.factory.backstore = opening()
        reopened = self.reopen(colour="red")
        waiting = self.box.initiator.read(0, 1)
        self.box.settle()
        self.assertEqual((self.old.names, waiting.done), (["flush", "close"], False))
        opening.made[0].callback(self.new)
        self.box.settle()
        self.successResultOf(reopened)
        self.assertEqual((waiting.status, self.new.names), (GOOD, ["read"]))
        self.assertEqual(str(self.box.device.config), "fake/disk;colour=red")
        self.assertIsNone(self.sense(self.box))

    def test_features(self) -> None:
        """An initiator is told if INQUIRY, or write protection, is another than before."""
        self.new.physical_block_size = 4096
        self.new.read_only = True
        self.successResultOf(self.reopen(colour="red"))
        self.assertEqual([self.sense(self.box) for _ in range(3)], [INQUIRY, MODE, None])

    def test_unchanged(self) -> None:
        """The same once more opens nothing."""
        self.successResultOf(self.reopen())
        self.assertEqual((self.old.names, self.box.factory.opened), ([], 1))

    def test_refused(self) -> None:
        """Another disk, another handler, and what the handler would not have, are refused; nothing is closed."""
        for config in (
            DeviceConfig("fake", "other"),
            DeviceConfig("tape", "disk"),
            DeviceConfig("fake", "disk", {"taste": "sweet"}),
        ):
            self.failureResultOf(self.change(self.box, self.box.device.reopen, config), ConfigError)
        self.box.factory.check = lambda _: "no such colour"  # type: ignore[method-assign]
        self.failureResultOf(self.reopen(colour="mauve"), ConfigError)
        self.assertEqual((self.old.names, self.box.factory.opened), ([], 1))

    def test_does_not_open(self) -> None:
        """What does not open under the new options is opened under the old ones again."""
        for problem in (ConfigError("bad colour"), NotReadyError("away"), ScriptedBackstore(2 * SIZE)):
            results = [self.new, problem]

            def opener(_: Any, results: list[Any] = results) -> Any:
                result = results.pop()
                if isinstance(result, Exception):
                    raise result
                return result

            self.box.factory.open = opener  # type: ignore[method-assign]
            self.failureResultOf(self.reopen(colour="red"), ConfigError, NotReadyError)
            self.assertEqual((str(self.box.device.config), self.sense(self.box)), ("fake/disk", None))
            self.assertEqual((results, self.box.device.state), ([], State.SERVING))
            self.new = ScriptedBackstore(SIZE)
        self.assertEqual(self.box.reactor.getDelayedCalls(), [])

    def test_flush_fails(self) -> None:
        """A backstore that cannot be flushed is not closed: it owes its initiator that error."""
        self.old.script["flush"] = lambda: fail(OSError(errno.EIO, "I/O error"))
        self.failureResultOf(self.reopen(colour="red"), OSError)
        self.assertEqual((self.old.names, self.sense(self.box)), (["flush"], None))
        self.old.script.clear()

    def test_checked_too_late(self) -> None:
        """Options that are found good when the change was given up change nothing: no command waits or is aborted."""
        check, write = Later(Held), Later()
        self.box.factory.check = check  # type: ignore[method-assign]
        self.old.script["write"] = write
        reopened = self.reopen(colour="red")
        self.box.reactor.advance(CHANGE_PATIENCE)
        self.failureResultOf(reopened, BusyError)
        before = self.box.initiator.write(0, BLOCK)
        self.box.settle()
        check.made[0].callback(None)
        read = self.box.initiator.read(0, 1)
        self.box.reactor.advance(DRAIN_PATIENCE)
        self.box.settle()
        self.assertEqual((read.done, before.done), (True, False))
        write.made[0].callback(None)
        self.box.settle()
        self.assertEqual((before.status, str(self.box.device.config)), (GOOD, "fake/disk"))

    def test_opens_too_late(self) -> None:
        """One that opens when it was given up is closed, and the old one opened; commands are NOT READY meanwhile."""
        opening, again = Later(Held), ScriptedBackstore(SIZE)
        self.box.factory.backstore = opening()
        reopened = self.reopen(colour="red")
        waiting = self.box.initiator.read(0, 1)
        self.box.settle()
        self.box.reactor.advance(CHANGE_PATIENCE)
        self.box.settle()
        self.failureResultOf(reopened, BusyError)
        self.assertEqual(waiting.sense_code, BECOMING_READY)
        self.box.factory.backstore = again
        opening.made[0].callback(self.new)
        self.box.settle()
        self.assertEqual((self.new.names, str(self.box.device.config)), (["close"], "fake/disk"))
        self.assertIsNone(self.sense(self.box))

    def test_closed_meanwhile(self) -> None:
        """A device that is closed while its backstore is opened anew closes, and opens nothing more."""
        opening = Later()
        self.box.factory.backstore = opening()
        reopened = self.reopen(colour="red")
        closed = self.box.device.close(5)
        self.box.settle()
        self.failureResultOf(reopened, BusyError, CancelledError)
        self.assertTrue(self.successResultOf(closed))
        self.assertEqual((self.box.factory.opened, self.box.device.state), (2, State.CLOSED))
