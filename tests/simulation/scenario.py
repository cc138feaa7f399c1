"""One seed: a volume, its users one after the other and at once, all that befalls them, and the calm at the end."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.simulation.client import StoreClient
from tests.simulation.history import History
from tests.simulation.hosts import Host, Timeline
from tests.simulation.looks import Looks
from tests.simulation.network import Network
from tests.simulation.oracle import DEADLINE, Oracle, Violation
from tests.simulation.plan import BLOCK, GEOMETRY, LARGEST, weather_of, workload_of
from tests.simulation.stamps import SECTOR
from tests.simulation.user import PREFIX, Killed, User, World
from txtcmu.errors import ConfigError, ObjectStoreError, TCMUError
from txtcmu.volume.create import create_volume
from txtcmu.volume.head import Writer

__all__ = ["Scenario"]

#: Commands in a seed at least.
_COMMANDS: Final = 300
#: Seconds in which what is late arrives, when nothing goes wrong any more.
_CALMING: Final = 60.0
#: Seconds after which nothing is waited for any more: more than requests are late, users asleep, or the store away.
_PATIENCE: Final = 10_800.0
#: Events after which a seed is given up: an ordinary one has a tenth of that.
_EVENTS: Final = 200_000
#: What may come of an opening, and then it is tried again.
_REFUSALS: Final = (TCMUError, Killed)


class Scenario:
    """The life of one volume."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.timeline = Timeline()
        self.clock = Host(self.timeline)
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
        self.writer: User | None = None
        self.destroys = random.random() < 0.15
        self.looks = Looks(self.network.store, self.history, random, destroyed=self.destroys)
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
        return deferLater(self.clock, seconds)  # type: ignore[arg-type]

    def _in_time(self, awaited: Deferred[Any]) -> Deferred[Any]:
        """Have something fail with TimeoutError that does not end in hours."""
        return awaited.addTimeout(_PATIENCE, self.clock)  # type: ignore[arg-type]

    # The parts

    async def live(self) -> None:
        """All of it."""
        await self._create()
        user = await self._open()
        try:
            for _ in range(self.random.randrange(4, 8)):
                await self._in_time(user.work(self.random.randrange(20, 90)))
                user = await self._disrupt(user)
            while sum(each.commands for each in self.users) < _COMMANDS:
                await self._in_time(user.work(50))
                if user.fenced or user.gone:
                    user = await self._open()
        except TimeoutError:
            self.history.note("stuck")  # which operation does not end, and whether it may, the oracle tells
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
                await self._in_time(user.open())
            except TimeoutError:
                raise Violation(
                    "6 (completion)", f"writer {user.number} has been opening the volume for hours"
                ) from None
            except ConfigError as error:
                self.looks.look("image")
                if user.host not in self.network.misled:
                    raise Violation(
                        "6 (completion)", f"writer {user.number} is refused what can be opened: {error}"
                    ) from None
            except _REFUSALS:
                pass
            else:
                return user
            await self.sleep(self.random.random() * 10.0)
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
            if user is not self.writer:
                self.looks.look("image")  # somebody was deposed, and had no right to do that
            return
        if self.writer is not None and not self.writer.gone:
            self.counts["takeovers"] += 1
        if self.writer is not None:
            self.network.deposed.add(self.writer.host)
        self.writer = user
        self.looks.look("takeover", life=user.number)

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
            self.looks.look("image")
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
        self.looks.look("image")
        self.looks.look_at_damage()
        return user

    def _sleep_for(self, user: User, seconds: float) -> None:
        self.history.record("pause", life=user.number)
        user.host.pause()

        def resume() -> None:
            self.history.record("resume", life=user.number)
            user.host.resume()

        self.timeline.call(seconds, resume)

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
        self.looks.compare()
        before = self.network.counts.total()
        await self.sleep(3600.0)
        if self.network.counts.total() != before:
            raise Violation("5 (leftovers)", "an idle volume makes requests")
        self.looks.look("image")
        self.history.record("end")


def _expected(failure: Failure) -> None:
    """Take an opening that has failed for what it is."""
    failure.trap(*_REFUSALS)
