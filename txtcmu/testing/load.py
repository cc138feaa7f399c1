"""A mixed load on a whole device, every sector of which is stamped and verified; what ``txtcmu try`` measures.

Commands go through the fake ring and the real SCSI code, as many at a time as an initiator has.  Reads of all sizes,
writes with and without FUA, SYNCHRONIZE CACHE, and, where the device says that it has them, UNMAP and WRITE SAME;
some of them are aborted.  :class:`~txtcmu.testing.sectors.Sectors` knows what each read may find.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txtcmu.errors import ConfigError
from txtcmu.lun.device import State
from txtcmu.results import all_of
from txtcmu.testing.fakekernel import FakeCommand, RuleBroken
from txtcmu.testing.rig import Rig
from txtcmu.testing.sectors import Sectors
from txtcmu.testing.storage import Storage

__all__ = ["Load", "Tally"]

_DEPTH = 32
_DATA_AREA = 4 << 20  # less than the commands want together: some have to wait for room
_LARGEST = 1 << 20
_COUNTS = (1, 1, 2, 7, 8, 8, 16, 64, 256)
_ABORTED_SHARE = 0.02
_PATIENCE = 60.0
_PROBLEMS_KEPT = 20

_UNMAP = 0x42
_WRITE_SAME = 0x93


@define
class Tally:
    """What became of the commands of one kind.

    :ivar seconds: how long each one took, and ``size``: bytes of all.
    :ivar errors: how many ended otherwise than they should.
    """

    seconds: list[float] = Factory(list)
    size: int = 0
    errors: int = 0

    def quantile(self, share: float) -> float:
        """Return the time in which ``share`` of the commands were done."""
        times = sorted(self.seconds)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


class Load:
    """A load on the device that ``storage`` makes.

    :param enough: called with the number of commands so far; true ends the load.
    :ivar tallies: by kind of command, ``elapsed``: seconds that the load took.
    :ivar problems: one line for each thing that was wrong, but for a great many of them.
    """

    def __init__(self, reactor: Any, storage: Storage, enough: Callable[[int], bool], seed: int = 1) -> None:
        self.tallies: dict[str, Tally] = {}
        self.problems: list[str] = []
        self.elapsed = 0.0
        self._reactor = reactor
        self._storage = storage
        self._enough = enough
        self._random = Random(seed)
        self._commands = 0
        self._sectors = Sectors(storage.size // storage.block_size, storage.block_size)

    async def run(self, survives: bool) -> None:
        """Put the load on the device, then verify all of it; again after a close and a reopen where it ``survives``.

        Storage must hold zeroes only.
        """
        await self._start()
        began = self._reactor.seconds()
        kinds = await self._kinds()
        await all_of([Deferred.fromCoroutine(self._work(kinds)) for _ in range(_DEPTH)])
        self.elapsed = self._reactor.seconds() - began
        await self._verify_all("at the end")
        await self._send("flush", self._rig.initiator.sync())
        await self._stop()
        if survives:
            await self._start()
            await self._verify_all("after close and reopen")
            await self._stop()

    def _problem(self, text: str) -> None:
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(text)

    # The device

    async def _start(self) -> None:
        storage = self._storage
        self._rig = Rig(
            None,
            size=storage.size,
            block_size=storage.block_size,
            max_blocks=_LARGEST // storage.block_size,
            reactor=self._reactor,
            start=False,
            factory=storage.factory,
            config=storage.config,
            data_size=_DATA_AREA,
        )
        await self._rig.device.open()
        if self._rig.device.state is not State.SERVING:
            await self._rig.device.close(0)
            raise ConfigError(f"{storage} cannot be served now: the device is {self._rig.device.state.value}")

    async def _stop(self) -> None:
        if not await self._rig.device.close(_PATIENCE):
            self._problem(f"the device does not close in {2 * _PATIENCE:g} s: the backstore holds on to something")
            return
        try:
            self._rig.kernel.verify()
        except RuleBroken as error:
            self._problem(f"a rule of the ring was broken: {'; '.join(str(error).splitlines())}")

    async def _kinds(self) -> list[str]:
        """Return what there is to choose from, common things more often."""
        kinds = ["read"] * 9 + ["write"] * 7 + ["write FUA", "flush"]
        thin = await self._rig.initiator.inquiry(0xB2).when_done()
        discards_to_zeroes = thin.status == 0 and len(thin.data) > 5 and bool(thin.data[5] >> 2 & 7)
        if discards_to_zeroes and await self._has(_UNMAP):
            kinds.append("unmap")
        if await self._has(_WRITE_SAME):
            kinds.append("write same")
        return kinds

    async def _has(self, opcode: int) -> bool:
        """Ask by REPORT SUPPORTED OPERATION CODES."""
        cdb = bytes([0xA3, 0x0C, 0x01, opcode, 0, 0, 0, 0, 0, 64, 0, 0])
        command = await self._rig.kernel.submit(cdb, data_in_length=64).when_done()
        await deferLater(self._reactor, 0)
        return command.status == 0 and command.data[1] & 7 == 3

    # The load

    async def _work(self, kinds: list[str]) -> None:
        while not self._enough(self._commands):
            self._commands += 1
            kind = self._random.choice(kinds)
            # A small part of the disk is used much, so that they meet.
            area = self._sectors.count if self._random.random() < 0.5 else min(2048, self._sectors.count)
            first = self._random.randrange(area)
            largest = _LARGEST // self._storage.block_size
            count = largest if self._random.random() < 0.01 else min(largest, self._random.choice(_COUNTS))
            count = min(count, self._sectors.count - first)
            if kind == "read":
                await self._read(first, count)
            elif kind == "flush":
                await self._send(kind, self._rig.initiator.sync())
            else:
                await self._change(kind, first, count)

    async def _read(self, first: int, count: int) -> None:
        look = self._sectors.begin_read(first, count)
        command = await self._send("read", self._rig.initiator.read(first, count), aborts=True)
        self._judge(self._sectors.end_read(look, command.data if command.status == 0 else None), "under load")

    async def _change(self, kind: str, first: int, count: int) -> None:
        initiator = self._rig.initiator
        change = self._sectors.begin_write(first, count, zeroes=kind == "unmap", alike=kind == "write same")
        if kind == "unmap":
            sent = initiator.unmap((first, count))
        elif kind == "write same":
            sent = initiator.write_same(first, count, change.data)
        else:
            sent = initiator.write(first, change.data, fua=kind == "write FUA")
        command = await self._send(kind, sent, aborts=True, size=count * self._storage.block_size)
        self._sectors.end_write(change, command.status == 0)

    async def _verify_all(self, when: str) -> None:
        count = _LARGEST // self._storage.block_size
        for first in range(0, self._sectors.count, count):
            blocks = min(count, self._sectors.count - first)
            look = self._sectors.begin_read(first, blocks)
            command = await self._send("verify", self._rig.initiator.read(first, blocks))
            data = command.data if command.status == 0 else None
            self._judge(self._sectors.end_read(look, data, settles=True), when)

    def _judge(self, problem: str | None, when: str) -> None:
        if problem is not None:
            self._problem(f"{when}: {problem}")

    async def _send(self, kind: str, command: FakeCommand, *, aborts: bool = False, size: int = 0) -> FakeCommand:
        """Wait for a command's end, or abort it, and count it."""
        began = self._reactor.seconds()
        if aborts and self._random.random() < _ABORTED_SHARE:
            if self._random.random() < 0.5:
                await deferLater(self._reactor, 0)
            if not command.done:
                kind = "abort"
                self._rig.kernel.abort(command)
        await command.when_done()
        tally = self.tallies.setdefault(kind, Tally())
        tally.seconds.append(self._reactor.seconds() - began)
        tally.size += size or len(command.data)
        if command.status and not command.aborted:
            tally.errors += 1
            self._problem(f"{kind} (CDB {command.cdb.hex()}) ended with {_end(command)}")
        await deferLater(self._reactor, 0)  # out of the kernel's own loop over completions
        return command


def _end(command: FakeCommand) -> str:
    if command.sense_code is None:
        return f"status {command.status:#04x}"
    return "sense {:X}/{:02X}/{:02X}".format(*command.sense_code)
