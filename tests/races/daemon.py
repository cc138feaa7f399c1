"""One daemon of a race: a volume in a bucket under the whole SCSI path on a fake ring, used at random until it ends.

It tells what it does and sees in JSON lines on a pipe: the events of docs/simulation.md, and those of its own life.  A
command is told before it is sent, and its end when the initiator has the status, so what was told as done was done.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from random import Random
from typing import Any, Final

import numpy as np
from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogBeginner
from zope.interface import provider

from tests.simulation.stamps import SECTOR, read_stamps, runs, stamped
from txtcmu.backstores import volumes
from txtcmu.backstores.s3 import S3Factory
from txtcmu.devconfig import DeviceConfig
from txtcmu.lun.device import State
from txtcmu.testing.fakekernel import FakeCommand
from txtcmu.testing.rig import Rig
from txtcmu.volume import takeover
from txtcmu.volume.fsck import check_volume

__all__ = ["BATCH", "OPERATIONS", "SECTORS", "Orders", "probe", "serve"]

#: Of the disk, and blocks of the largest object of its log.
SECTORS: Final = 2048
BATCH: Final = 64
#: Commands that one daemon has numbers for.
OPERATIONS: Final = 1 << 15
_BLOCK: Final = 8  # sectors
_OPTIONS: Final = {"layout": "log", "batch": f"{BATCH * 4}K", "cache": "1M"}
_FENCED: Final = (2, 4, 3)

Tell = Callable[..., None]


@frozen
class Orders:
    """What a daemon is to do.

    :ivar life: its number.
    :ivar machine: where it runs, for all that the volume knows.
    :ivar path: of the volume, with the bucket; ``options``: of the handler.
    :ivar probed: what is known of the bucket, as by a daemon that has opened another disk in it.
    :ivar halt: where in a takeover it stops itself: ``sealed``, ``replaced`` or nowhere, ``""``.
    :ivar depth: commands at a time, 0 for none: then it only looks at the disk, and waits to be asked to end.
    :ivar checks: whether it checks the store before it ends, if it only looks.
    :ivar think: seconds between two of them, on average.
    """

    life: int
    seed: int
    machine: str
    path: str
    options: dict[str, str]
    probed: dict[str, tuple[bool, bool]]
    halt: str = ""
    depth: int = 0
    checks: bool = False
    think: float = 0.0

    @property
    def config(self) -> DeviceConfig:
        """Of the disk."""
        return DeviceConfig("s3", self.path, _OPTIONS).with_defaults(self.options)


def probe(orders: Orders, tell: Tell) -> None:
    """Find out what a daemon learns of a bucket with its first disk, and what it imports for it."""
    from twisted.internet import reactor

    async def learn() -> None:
        probed: dict[str, tuple[bool, bool]] = {}
        factory = S3Factory(probed=probed)
        rig = Rig(None, size=SECTORS * SECTOR, reactor=reactor, start=False, factory=factory, config=orders.config)
        await rig.device.open()
        await rig.device.close(10.0)
        tell("probed", probed=probed, modules=sorted(sys.modules))

    _run(reactor, learn, tell)


def serve(orders: Orders, tell: Tell) -> None:
    """Open the volume, use it until another has it, or until SIGTERM, and end."""
    from twisted.internet import reactor

    real_writer, real_replace = volumes.new_writer, takeover.replace_head

    def reach(place: str, **facts: Any) -> None:
        tell(place, life=orders.life, halts=orders.halt == place, **facts)
        if orders.halt == place:
            os.kill(os.getpid(), signal.SIGSTOP)

    async def replace_head(*arguments: Any) -> Any:
        reach("sealed")
        keeper = await real_replace(*arguments)
        if keeper is None:
            tell("restarted")
        else:
            reach("replaced", epoch=keeper.head.epoch.number)
        return keeper

    volumes.new_writer = lambda: evolve(real_writer(), machine=orders.machine, host=orders.machine)
    takeover.replace_head = replace_head  # type: ignore[assignment]
    daemon = _Daemon(orders, tell, reactor)
    _run(reactor, daemon.live, tell)


def _run(reactor: Any, live: Callable[[], Any], tell: Tell) -> None:
    """Run the reactor until ``live`` has ended, and tell of everything that is logged."""

    @provider(ILogObserver)
    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] > LogLevel.info:
            failure = event.get("log_failure")
            trouble = "" if failure is None else f"\n{failure.getTraceback()}"
            tell("log", level=event["log_level"].name, text=f"{formatEvent(event)}{trouble}")

    globalLogBeginner.beginLoggingTo([observe], discardBuffer=True, redirectStandardIO=False)

    def end(result: Any) -> Any:
        reactor.stop()
        return result

    Deferred.fromCoroutine(live()).addBoth(end)
    reactor.run(installSignalHandlers=False)
    gc.collect()  # the failure of a Deferred that nobody asked is told now
    tell("end")


class _Daemon:
    def __init__(self, orders: Orders, tell: Tell, reactor: Any) -> None:
        self._orders = orders
        self._tell = tell
        self._reactor = reactor
        self._random = Random(orders.seed)
        self._rig = Rig(
            None,
            size=SECTORS * SECTOR,
            reactor=reactor,
            start=False,
            factory=S3Factory(probed=orders.probed),
            config=orders.config,
        )
        self._number = orders.life * OPERATIONS
        self._busy: set[int] = set()  # blocks that a command changes
        self._leaving = False
        self._left: Deferred[None] = Deferred()
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(self._leave))

    def _leave(self) -> None:
        self._leaving = True
        self._left.callback(None)

    async def live(self) -> None:
        """Do all of it."""
        orders, rig = self._orders, self._rig
        self._tell("open", life=orders.life)
        await rig.device.open()
        if rig.device.state is State.SERVING:
            await self._look()
        if orders.depth:
            await gatherResults([Deferred.fromCoroutine(self._work()) for _ in range(orders.depth)])
            await self._flush()
        elif rig.device.state is State.SERVING:
            await self._left
            if orders.checks:
                await self._check()
        if rig.device.state is State.FENCED:
            command = await self._send(rig.initiator.read(0, _BLOCK))
            self._tell("fenced", life=orders.life, sense=command.sense_code)
        await rig.device.close(10.0)
        rig.kernel.verify()

    async def _look(self) -> None:
        """Tell what the whole disk is."""
        stamps = []
        for sector in range(0, SECTORS, 512):
            command = await self._send(self._rig.initiator.read(sector, 512))
            if command.status:
                return
            stamps.append(read_stamps(command.data, sector))
        self._tell("takeover", life=self._orders.life, size=SECTORS, image=runs(np.concatenate(stamps)))

    async def _check(self) -> None:
        store, prefix = await S3Factory().connect(self._orders.config, self._reactor)
        report = await check_volume(store, prefix, self._reactor, data=True, progress=lambda *_: None)
        await store.close()
        self._tell("checked", problems=report.problems)

    # Commands

    async def _work(self) -> None:
        device, random = self._rig.device, self._random
        while device.state is State.SERVING and not self._leaving:
            kind = random.choice(("write", "write", "write", "discard", "flush", "read"))
            if kind == "flush":
                await self._flush()
            else:
                await self._transfer(kind)
            await deferLater(self._reactor, random.expovariate(1 / self._orders.think))

    async def _flush(self) -> None:
        await self._do("flush", {}, self._rig.initiator.sync)

    async def _transfer(self, kind: str) -> None:
        """Read, write or discard somewhere: mostly at the beginning, mostly whole blocks, of a write seldom many."""
        random, initiator = self._random, self._rig.initiator
        sector = random.randrange(random.choice((256, SECTORS)))
        count = random.choice((1, 3, 8, 8, 8, 16, 32, 200))
        if kind == "discard" or random.random() < 0.7:
            sector, count = sector - sector % _BLOCK, -(-count // _BLOCK) * _BLOCK
        count = min(count, SECTORS - sector)
        where = {"sector": sector, "count": count}
        if kind == "read":
            await self._do(kind, where, lambda: initiator.read(sector, count))
            return
        blocks = set(range(sector // _BLOCK, (sector + count - 1) // _BLOCK + 1))
        if blocks & self._busy:
            return  # of two changes of one block under way nobody can tell which comes first
        self._busy |= blocks
        if kind == "write":
            data = bytes(stamped(self._number, sector, count))
            await self._do(kind, where, lambda: initiator.write(sector, data))
        else:
            await self._do(kind, where, lambda: initiator.unmap((sector, count)))
        self._busy -= blocks

    async def _do(self, kind: str, where: dict[str, int], submit: Callable[[], FakeCommand]) -> None:
        number = self._number
        self._number += 1
        self._tell("submit", op=number, life=self._orders.life, kind=kind, **where)
        command = await self._send(submit())
        facts: dict[str, Any] = {}
        if command.status:
            facts = {
                "error": "FencedError" if command.sense_code == _FENCED else "status",
                "what": str(command.sense_code),
            }
        elif kind == "read":
            facts = {"data": runs(read_stamps(command.data, where["sector"]))}
        self._tell("complete", op=number, **facts)

    async def _send(self, command: FakeCommand) -> FakeCommand:
        await command.when_done()
        await deferLater(self._reactor, 0)  # out of the kernel's own loop over completions
        return command


def teller(pipe: int) -> Tell:
    """Return what writes events to a pipe, each as a line, at once."""

    def tell(event: str, **facts: Any) -> None:
        line = memoryview(json.dumps({"event": event, **facts}).encode() + b"\n")
        while line:
            line = line[os.write(pipe, line) :]

    return tell
