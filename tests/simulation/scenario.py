"""One seed: a volume, its users one after the other and at once, all that befalls them, and the calm at the end."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random
from typing import Any, Final

import numpy as np
from attrs import evolve
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.simulation.client import StoreClient
from tests.simulation.history import History
from tests.simulation.hosts import Host, Timeline
from tests.simulation.network import Network, result_of
from tests.simulation.oracle import DEADLINE, Oracle, Violation
from tests.simulation.plan import BLOCK, GEOMETRY, LARGEST, weather_of, workload_of
from tests.simulation.reachable import reachable
from tests.simulation.stamps import LOST, SECTOR, Stamps, read_stamps, runs
from tests.simulation.user import PREFIX, Killed, User, World
from txtcmu.errors import ConfigError, MediumError, ObjectStoreError, TCMUError
from txtcmu.objectstore.memory import MemoryObjectStore
from txtcmu.results import as_deferred
from txtcmu.volume.create import create_volume
from txtcmu.volume.fsck import check_volume
from txtcmu.volume.head import Writer
from txtcmu.volume.takeover import take_over
from txtcmu.volume.tuning import Tuning
from txtcmu.volume.volume import Volume

__all__ = ["Scenario"]

#: Commands in a seed at least.
_COMMANDS: Final = 300
#: Seconds in which what is late arrives, when nothing goes wrong any more.
_CALMING: Final = 60.0
#: Events after which a seed is given up: an ordinary one has a tenth of that.
_EVENTS: Final = 200_000
#: What may come of an opening, and then it is tried again.
_REFUSALS: Final = (TCMUError, Killed)


class Scenario:
    """The life of one volume."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.timeline = Timeline()
        self.counts: Counter[str] = Counter()
        oracle = Oracle(LARGEST, GEOMETRY.batch_blocks)
        self.history = History(lambda: self.timeline.now, oracle.see)
        self.network = Network(
            self.timeline,
            random,
            weather_of(random),
            f"{PREFIX}head",
            self._replaced,
            lambda request, result: self.history.note("request", kind=request.kind, key=request.key, result=result),
        )
        self.world = World(self.network, random, self.history, count(1), workload_of(random))
        self.users: list[User] = []
        self.lookers: list[Volume] = []
        self.writer: User | None = None
        self.destroys = random.random() < 0.15
        self.calm = False

    # Driving

    def run(self, work: Any) -> None:
        """Let time pass until ``work``, a coroutine, is done, or something is wrong."""
        done: list[Any] = []
        Deferred.fromCoroutine(work).addCallbacks(done.append, lambda failure: self.history.fail(failure.value))
        for _ in range(_EVENTS):
            if done or self.history.wrong is not None:
                return
            if not self.timeline.step():
                break
        self.history.fail(Violation("6 (completion)", f"nothing comes to an end (now {self.timeline.now:.0f} s)"))

    def sleep(self, seconds: float) -> Deferred[None]:
        """Return what fires after a while."""
        slept: Deferred[None] = Deferred()
        self.timeline.call(seconds, lambda: slept.callback(None))
        return slept

    # The parts

    async def live(self) -> None:
        """All of it."""
        await self._create()
        user = await self._open()
        for _ in range(self.random.randrange(4, 8)):
            await user.work(self.random.randrange(20, 90))
            user = await self._disrupt(user)
        while sum(each.commands for each in self.users) < _COMMANDS:
            await user.work(50)
            if user.fenced or user.gone:
                user = await self._open()
        await self._end(await self._calm(user))

    async def _create(self) -> None:
        size = BLOCK * self.random.randrange(100, 260)
        host = Host(self.timeline)
        maker = Writer(self.random.randbytes(16), "machine", "host0", 0, "now")
        store = StoreClient(host, self.network, self.random)
        while not self.network.store.objects:
            try:
                await create_volume(store, PREFIX, size * SECTOR, maker, self.random.randbytes, GEOMETRY)
            except ObjectStoreError as error:
                self.history.note("not created", why=str(error))
        host.kill()
        self.history.record("create", size=size)

    def _user(self) -> User:
        user = User(len(self.users) + 1, Host(self.timeline), self.world)
        self.users.append(user)
        return user

    async def _open(self) -> User:
        """Have a new user open the volume, and another, until one succeeds."""
        for _ in range(100):
            user = self._user()
            if not self.calm and self.random.random() < 0.15:
                self._kill_later(user, self.random.random())
            try:
                await user.open()
            except _REFUSALS:
                await self.sleep(self.random.random() * 10.0)
            else:
                return user
        raise Violation("6 (completion)", "the volume cannot be opened")

    def _kill_later(self, user: User, seconds: float) -> None:
        def kill() -> None:
            if not user.gone:
                self._kill(user)

        self.timeline.call(seconds, kill)

    def _kill(self, user: User) -> None:
        self.counts["crashes"] += 1
        user.kill()

    def _replaced(self, host: Host) -> None:
        """Somebody has replaced the head: if he was opening the volume, he is the writer now."""
        user = next((each for each in self.users if each.host is host), None)
        if user is None or user is self.writer or user.volume is not None:
            return
        if self.writer is not None and not self.writer.gone:
            self.counts["takeovers"] += 1
        if self.writer is not None:
            self.network.deposed.add(self.writer.host)
        self.writer = user
        self._look("takeover", life=user.number)

    # What happens to users

    async def _disrupt(self, user: User) -> User:
        """Have something happen.  :return: who uses the volume then."""
        random = self.random
        if self.destroys and random.random() < 0.5:
            sector = self.network.destroy()
            if sector is not None:
                self.history.record("destroyed", sector=sector)
        if random.random() < 0.05:
            self.history.note("outage")
            self.network.fail(random.choice((20.0, 600.0)))
        if random.random() < 0.4:
            user.sweep()
        [what] = random.choices(
            (self._crash, self._depose, self._duel, self._close, self._pause, self._look_on), (40, 25, 12, 8, 8, 7)
        )
        following: User = await what(user)
        if random.random() < 0.2:
            await self.sleep(random.choice((1.0, 30.0, 900.0)))
        if following.fenced or following.gone:
            following = await self._open()
        return following

    async def _crash(self, user: User) -> User:
        """The process dies, and another comes."""
        if not user.gone:
            self._kill(user)
        if self.random.random() < 0.3:
            await self.sleep(self.random.random() * 20.0)
        if self.random.random() < 0.3:
            self._look("image")
        return await self._open()

    async def _depose(self, user: User) -> User:
        """Another takes the volume over while this one works on, or is asleep for an hour."""
        asleep = self.random.random() < 0.3
        if asleep:
            self._sleep_for(user, 3600.0)
        user.work(self.random.randrange(10, 40))
        following = await self._open()
        if asleep:
            following.sweep()  # nothing that stops the one who sleeps may be lost by that
        return following

    async def _duel(self, user: User) -> User:
        """Two want to take the volume over at the same time; the present one may be dead, or not."""
        if self.random.random() < 0.5 and not user.gone:
            self._kill(user)
        else:
            user.work(self.random.randrange(10, 40))
        rivals = [self._user(), self._user()]
        opened: list[User] = []
        ended: list[Deferred[None]] = []
        for rival in rivals:
            await self.sleep(self.random.random() * 0.1)
            ended.append(rival.open().addCallbacks(lambda _, rival=rival: opened.append(rival), _expected))
        for end in ended:
            await end
        for each in opened[:-1]:
            each.work(self.random.randrange(10, 30))
        return opened[-1] if opened else await self._open()

    async def _close(self, user: User) -> User:
        """The volume is closed in good order, or the process dies in the middle of it."""
        if user.gone:
            return await self._open()
        if self.random.random() < 0.3:
            self._kill_later(user, self.random.random())
        try:
            await user.close()
        except _REFUSALS:
            pass
        return await self._open()

    async def _pause(self, user: User) -> User:
        """The process stops for an hour, and goes on."""
        self._sleep_for(user, 3600.0)
        await self.sleep(3600.0)
        return user

    async def _look_on(self, user: User) -> User:
        """Nothing happens; but what the store holds is looked at, and what it would be with a damaged object."""
        self._look("image")
        self._look_at_damage()
        return user

    def _sleep_for(self, user: User, seconds: float) -> None:
        self.history.record("pause", life=user.number)
        user.host.pause()

        def resume() -> None:
            self.history.record("resume", life=user.number)
            user.host.resume()

        self.timeline.call(seconds, resume)

    # Looking at the store

    def _look(self, event: str, **facts: Any) -> None:
        """Record what somebody would find who opened the volume now, and nothing arrived any more."""
        try:
            copy = MemoryObjectStore()
            copy.objects = dict(self.network.store.objects)
            volume = self._open_copy(copy)
            self.history.record(event, **facts, size=volume.size // SECTOR, image=runs(_read(volume)))
            if self.random.random() < 0.2:
                self._check(copy)
        except TCMUError as error:
            self.history.fail(Violation("1 (prefix)", f"the volume cannot be opened: {error}"))
        except Exception as error:  # it would go to whatever event this is part of
            self.history.fail(error)

    def _look_at_damage(self) -> None:
        """Damage the header of an object of the log in a copy: either that is noticed, or it is not needed."""
        keys = [key for key in sorted(self.network.store.objects) if "/d/" in key]
        if not keys:
            return
        copy = MemoryObjectStore()
        copy.objects = dict(self.network.store.objects)
        found = copy.objects[self.random.choice(keys)]
        data = bytearray(found.data)
        data[self.random.randrange(100)] ^= 1 << self.random.randrange(8)
        copy.objects[found.key] = evolve(found, data=bytes(data))
        try:
            volume = self._open_copy(copy)
        except ConfigError as error:
            self.history.note("refused", why=str(error))
        else:
            self.history.record("image", size=volume.size // SECTOR, image=runs(_read(volume)))

    def _open_copy(self, copy: MemoryObjectStore) -> Volume:
        """Open the volume in a store that answers at once."""
        random = Random(self.random.random())
        clock = task.Clock()
        writer = Writer(random.randbytes(16), "looker", "looker", 0, "now")
        opening = Deferred.fromCoroutine(take_over(copy, PREFIX, writer, random.randbytes, clock, forced=True))
        keeper, replay = result_of(opening)
        volume = Volume(copy, keeper, replay, clock, Tuning())
        self.lookers.append(volume)
        return volume

    def _check(self, store: Any) -> list[str]:
        """Check the volume; return what cannot be reached."""
        report = result_of(
            Deferred.fromCoroutine(
                check_volume(store, PREFIX, task.Clock(), data=not self.destroys, progress=_no_progress)
            )
        )
        if report.problems:
            raise Violation("5 (leftovers)", f"a check finds: {report.problems}")
        return list(report.orphans)

    # The end

    async def _calm(self, user: User) -> User:
        """Nothing goes wrong any more: everybody gets an answer, and one user is left."""
        self.calm = True
        self.network.calm(_CALMING)
        await self.sleep(_CALMING)
        self.history.record("calm")
        for each in self.users:
            each.host.resume()
        if user.fenced or user.gone:
            user = await self._open()
        await self.sleep(DEADLINE)
        self.history.record("end")
        for each in self.users:
            if each is not user and not each.gone:
                each.leave()
        return user

    async def _end(self, user: User) -> None:
        if self.random.random() < 0.5:
            await user.close()
            user = await self._open()
        volume = user.volume
        assert volume is not None
        for sector in range(0, user.size, 64 * BLOCK):
            user.read(sector, min(64 * BLOCK, user.size - sector))
        await volume.flush()
        await volume.checkpoint()
        await volume.sweep()
        while user.outstanding:
            await self.sleep(1.0)
        await self.sleep(_CALMING)  # a volume may have more to do by itself, but not for ever
        self._compare()
        before = self.network.counts.total()
        await self.sleep(3600.0)
        if self.network.counts.total() != before:
            raise Violation("5 (leftovers)", "an idle volume makes requests")
        self._look("image")
        self.history.record("end")

    def _compare(self) -> None:
        """Compare what is in the store with what can be reached."""
        objects = {key: found.data for key, found in self.network.store.objects.items()}
        needed = reachable(objects, f"{PREFIX}head")
        if objects.keys() != needed:
            raise Violation(
                "5 (leftovers)",
                f"needless: {sorted(objects.keys() - needed)}; missing: {sorted(needed - objects.keys())}",
            )
        if orphans := self._check(self.network.store):
            raise Violation("5 (leftovers)", f"a check finds what cannot be reached: {orphans}")


def _read(volume: Volume) -> Stamps:
    """Read a whole disk, at once; LOST where it cannot be read."""
    stamps: Stamps = np.zeros(volume.size // SECTOR, np.int64)
    buffer = bytearray(volume.size)
    try:
        result_of(_deferred(volume.read(0, [memoryview(buffer)])))
        return read_stamps(buffer, 0)
    except MediumError:
        pass
    for sector in range(0, len(stamps), BLOCK):
        block = bytearray(BLOCK * SECTOR)
        try:
            result_of(_deferred(volume.read(sector * SECTOR, [memoryview(block)])))
            stamps[sector : sector + BLOCK] = read_stamps(block, sector)
        except MediumError:
            stamps[sector : sector + BLOCK] = LOST
    return stamps


def _deferred(result: Any) -> Deferred[Any]:
    return as_deferred(result)


def _no_progress(*_: Any) -> None:
    return None


def _expected(failure: Failure) -> None:
    """Take an opening that has failed for what it is."""
    failure.trap(*_REFUSALS)
