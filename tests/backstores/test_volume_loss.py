"""Volumes whose daemon dies while their LUN lives on: what was acknowledged and is lost is never covered up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from txtcmu.backstores import volumes
from txtcmu.backstores.dir import DirFactory
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import NotReadyError, StoreUnavailable
from txtcmu.lun.device import State
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig
from txtcmu.volume import unstored
from txtcmu.volume.takeover import take_over

SIZE = 1 << 20
BLOCK = 4096
MANUAL_INTERVENTION = (2, 4, 3)
OLD, NEW = b"o" * BLOCK, b"n" * BLOCK


class LossCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a directory for a volume, and one for marks."""
        here = Path(self.mktemp()).absolute()
        self.folder, self.marks = here / "volume", here / "run" / "marks"
        self.folder.mkdir(parents=True)
        self.patch(volumes, "MARKS", self.marks)
        self.addCleanup(volumes._open.clear)
        #: What an operator should look at.
        self.logged: list[str] = []

        @provider(ILogObserver)
        def observe(event: dict[str, Any]) -> None:
            if event["log_level"] > LogLevel.info:
                self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def rig(self, options: str = "", *, enabled: bool, write_cache: bool = True, name: str = "fake") -> Rig:
        """Return a device on the volume, which is being opened.

        :param enabled: it was there before its daemon.
        """
        config = DeviceConfig.parse(f"dir{self.folder}{options}")
        rig = Rig(None, size=SIZE, factory=DirFactory(), config=config, start=False)
        rig.device.name = name
        rig.target.enabled(enabled)
        if not write_cache:
            rig.target.keep_write_cache(False)
        rig.opened = rig.device.open()
        rig.settle()
        return rig

    def kill(self, rig: Rig) -> None:
        """Let its daemon die."""
        rig.device.medium.backstore.abandon()
        volumes._open.clear()
        self.logged.clear()

    def write(self, rig: Rig, data: bytes) -> FakeCommand:
        """Write the first block."""
        command = rig.initiator.write(0, data)
        rig.settle()
        return command

    def flush(self, rig: Rig) -> FakeCommand:
        """Flush."""
        command = rig.initiator.sync()
        rig.settle()
        return command

    def used(self, *, dirty: bool, options: str = "", name: str = "fake") -> None:
        """Have a device whose daemon died: with an acknowledged write that is lost, or without."""
        rig = self.rig(options, enabled=False, name=name)
        self.assertEqual((self.write(rig, OLD).status, self.flush(rig).status), (0, 0))
        if dirty:
            self.assertEqual(self.write(rig, NEW).status, 0)
        self.kill(rig)

    def serves(self, rig: Rig, data: bytes) -> None:
        """See that a device serves, and has nothing to say about it."""
        self.assertIs(rig.device.state, State.SERVING, self.logged)
        read = rig.initiator.read(0, 8)
        flushed = self.flush(rig)
        self.assertEqual((read.status, read.data, flushed.status), (0, data, 0))
        self.assertEqual(self.logged, [])
        rig.close()

    def fenced(self, rig: Rig, why: str) -> None:
        """See that a device waits for a person, and says so once; a new LUN has what was flushed."""
        self.assertIs(rig.device.state, State.FENCED)
        for command in (rig.initiator.sync(), rig.initiator.read(0, 8), rig.initiator.write(0, NEW)):
            rig.settle()
            self.assertEqual(command.sense_code, MANUAL_INTERVENTION)
        rig.reactor.advance(1000)
        rig.settle()
        self.assertIs(rig.device.state, State.FENCED)
        [line] = self.logged
        self.assertRegex(line, f"fake .*{why}")
        for part in (f"process {os.getpid()} on ", "unmount", "`txtcmu rm`, `txtcmu create`", "wce=off"):
            self.assertIn(part, line)
        rig.close()
        self.logged.clear()
        self.serves(self.rig(enabled=False), OLD)


class KilledTests(LossCase):
    def test_acknowledged_and_lost(self) -> None:
        """A disk that has lost what it acknowledged is not served, however often its daemon is started."""
        self.used(dirty=True)
        self.rig(enabled=True).close()
        self.logged.clear()
        self.fenced(self.rig(enabled=True), "died with writes that it had acknowledged and not yet stored")

    def test_everything_was_stored(self) -> None:
        """If nothing was lost nobody hears of it, not even if the next daemons are killed too."""
        self.used(dirty=False)
        for _ in range(12):
            self.kill(self.rig(enabled=True))
        self.serves(self.rig(enabled=True), OLD)

    def test_stored_by_itself(self) -> None:
        """What became durable without a flush is not lost."""
        rig = self.rig(enabled=False)
        self.write(rig, OLD)
        rig.reactor.pump([0.25] * 4)
        rig.settle()
        self.kill(rig)
        self.serves(self.rig(enabled=True), OLD)

    def test_nothing_is_known(self) -> None:
        """Without a mark, or with one of another boot, or that is damaged, the disk is not served either."""
        for spoil in (self.remove, self.reboot, self.truncate):
            self.used(dirty=False)
            with spoil():
                self.fenced(self.rig(enabled=True), "may have died with writes")

    def mark(self) -> Path:
        """Return the only mark."""
        [path] = self.marks.iterdir()
        return path

    def remove(self) -> Any:
        """Remove the mark."""
        self.mark().unlink()
        return mock.MagicMock()

    def truncate(self) -> Any:
        """Cut the mark off."""
        os.truncate(self.mark(), 50)
        return mock.MagicMock()

    def reboot(self) -> Any:
        """Let another boot be while the context lasts."""
        return mock.patch.object(unstored, "_boot", return_value=b"b" * 36)

    def test_new_lun(self) -> None:
        """A LUN made anew, of whom nobody has been promised anything, is served as it is in the store."""
        self.used(dirty=True)
        self.serves(self.rig(enabled=False), OLD)

    def test_closed(self) -> None:
        """A volume that was closed lacks nothing; its mark is gone."""
        rig = self.rig(enabled=False)
        self.write(rig, NEW)
        self.assertTrue(self.mark().exists())
        rig.close()
        self.assertEqual(list(self.marks.iterdir()), [])
        self.serves(self.rig(enabled=True), NEW)

    def test_closing_fails(self) -> None:
        """A daemon that ends without having been able to store what it acknowledged is as one that was killed."""
        rig = self.rig(enabled=False)
        self.write(rig, OLD)
        self.flush(rig)
        self.write(rig, NEW)
        rig.device.medium.backstore.abandon()
        rig.close()
        self.flushLoggedErrors()
        self.logged.clear()
        self.fenced(self.rig(enabled=True), "died with writes")

    def test_no_place_for_marks(self) -> None:
        """A host without a place for marks is told so; then a daemon that was killed has lost what nobody knows."""
        self.marks.parent.write_text("")
        rig = self.rig(enabled=False)
        [line] = self.logged
        self.assertRegex(line, f"cannot make a file in {self.marks}: .*Not a directory")
        self.write(rig, OLD)
        self.flush(rig)
        self.kill(rig)
        self.logged.clear()
        rig = self.rig(enabled=True)
        self.assertIs(rig.device.state, State.FENCED)
        self.assertIn("may have died", self.logged[0])

    def test_every_lun_has_its_own(self) -> None:
        """What another LUN on the volume has lost or not says nothing of this one."""
        self.used(dirty=True, name="first")
        self.used(dirty=False, name="second")
        rig = self.rig(enabled=True, name="first")
        self.assertIs(rig.device.state, State.FENCED)
        self.assertIn("died with writes that", self.logged.pop())
        self.serves(self.rig(enabled=True, name="second"), OLD)

    def test_another_host(self) -> None:
        """What another host has open is refused as ever, and served when that has closed it."""
        rig = self.rig(enabled=False)
        self.write(rig, OLD)
        rig.close()
        elsewhere = evolve(volumes.new_writer(), machine="another", host="elsewhere")
        with mock.patch.object(volumes, "new_writer", return_value=elsewhere):
            theirs = self.rig(enabled=False, name="theirs")
        volumes._open.clear()
        rig = self.rig(enabled=True)
        self.assertIs(rig.device.state, State.DEGRADED)
        self.assertIn("in use by process", self.logged.pop())
        theirs.close()
        rig.reactor.advance(1)
        rig.settle()
        self.serves(rig, OLD)


class CacheOffTests(LossCase):
    def test_option(self) -> None:
        """With wce=off nothing is lost, whenever the daemon is killed, and whether there is a mark or not."""
        for marked in (True, False):
            rig = self.rig(";wce=off", enabled=False)
            rig.initiator.write(0, OLD)
            rig.settle()
            rig.reactor.hold_threads()
            under_way = self.write(rig, NEW)
            self.assertFalse(under_way.done)
            self.kill(rig)
            if not marked:
                [path] = self.marks.iterdir()
                path.unlink()
            self.serves(self.rig(";wce=off", enabled=True), OLD)

    def test_attribute(self) -> None:
        """So with a cache that was switched off."""
        for marked in (True, False):
            rig = self.rig(enabled=False)
            self.write(rig, OLD)
            switched = rig.initiator.cache_writes(False)
            rig.settle()
            self.assertEqual(switched.status, 0)
            rig.reactor.hold_threads()
            self.assertFalse(self.write(rig, NEW).done)
            self.kill(rig)
            if not marked:
                [path] = self.marks.iterdir()
                path.unlink()
            rig = self.rig(enabled=True, write_cache=False)
            self.assertFalse(rig.device.unit.write_cache)
            self.serves(rig, OLD)

    def test_too_late(self) -> None:
        """To switch the cache off afterwards brings nothing back."""
        self.used(dirty=True)
        for options, write_cache in ((";wce=off", True), ("", False)):
            rig = self.rig(options, enabled=True, write_cache=write_cache)
            self.assertIs(rig.device.state, State.FENCED)
            rig.close()

    def test_switched_on(self) -> None:
        """A cache that an initiator has switched on loses what it holds, that which was under way included."""
        rig = self.rig(";wce=off", enabled=False)
        self.write(rig, OLD)
        rig.reactor.hold_threads()
        self.write(rig, NEW)
        switched = Deferred.fromCoroutine(rig.device.cache_writes(True))
        rig.settle()
        self.successResultOf(switched)
        self.kill(rig)
        rig = self.rig(";wce=off", enabled=True)
        self.assertIs(rig.device.state, State.FENCED)

    def test_switched_on_and_written(self) -> None:
        """So does one that was switched on before it was written to."""
        rig = self.rig(";wce=off", enabled=False)
        switched = rig.initiator.cache_writes(True)
        rig.settle()
        self.assertEqual((switched.status, self.write(rig, NEW).status), (0, 0))
        self.kill(rig)
        self.assertIs(self.rig(";wce=off", enabled=True).device.state, State.FENCED)


class ReopenedTests(LossCase):
    def lose(self, rig: Rig) -> None:
        """Have the device lose its backstore, and open it again."""
        rig.device.medium.lose(NotReadyError("gone"))
        rig.settle()
        rig.reactor.advance(1)
        rig.settle()
        self.assertIn("gone", self.logged.pop(0))

    def test_lost_writes(self) -> None:
        """A daemon that loses a backstore with what that had acknowledged does not go on with another."""
        rig = self.rig(enabled=False)
        self.write(rig, OLD)
        self.flush(rig)
        self.write(rig, NEW)
        rig.device.medium.backstore.abandon()
        self.lose(rig)
        self.fenced(rig, "died with writes")

    def test_stored_writes(self) -> None:
        """One that has stored them when it closes the backstore does."""
        rig = self.rig(enabled=False)
        self.write(rig, NEW)
        self.lose(rig)
        self.serves(rig, NEW)

    def test_other_options(self) -> None:
        """New options for a disk that is being used lose nothing."""
        rig = self.rig(enabled=False)
        self.write(rig, NEW)
        changed = Deferred.fromCoroutine(rig.device.reopen(DeviceConfig.parse(f"dir{self.folder};cache=1M")))
        rig.settle()
        self.successResultOf(changed)
        self.serves(rig, NEW)

    def test_opening_whose_end_is_lost(self) -> None:
        """An opening that succeeds without knowing it, and is done again, loses nothing, and raises no doubts."""
        self.used(dirty=False)
        results: list[Any] = [StoreUnavailable("no answer"), None, None]

        async def unlucky(*args: Any, **options: Any) -> Any:
            taken = await take_over(*args, **options)
            error = results.pop(0)
            if error is not None:
                raise error
            return taken

        self.patch(volumes, "take_over", unlucky)
        rig = self.rig(enabled=True)
        self.assertIs(rig.device.state, State.DEGRADED)
        self.assertIn("no answer", self.logged.pop())
        rig.reactor.advance(1)
        rig.settle()
        self.serves(rig, OLD)
