"""Netlink against the real kernel: these run in the guest."""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txtcmu.errors import KernelError
from txtcmu.kernel import enabling, sysfs
from txtcmu.kernel.configfs import Backstore
from txtcmu.kernel.netlink import NetlinkListener, RequestSocket, resolve
from txtcmu.kernel.tcm_user import Command, DeviceEvent

MIB = 1 << 20
PATIENCE = 20.0


class Pump:
    """A consumer of everything, and the least of a reactor: reads while somebody waits for something."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.events: list[DeviceEvent] = []
        self.uio: list[tuple[str, int]] = []
        self.lost = 0

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def device_added(self, event: DeviceEvent) -> None:
        self.events.append(event)

    device_removed = device_reconfigured = device_added

    def uio_added(self, minor: int) -> None:
        self.uio.append(("add", minor))

    def uio_removed(self, minor: int) -> None:
        self.uio.append(("remove", minor))

    def events_lost(self) -> None:
        self.lost += 1

    def netlink_lost(self, error: BaseException) -> None:
        raise AssertionError(error)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "nothing came"
            for reader in select.select(self.readers, [], [], 0.05)[0]:
                reader.doRead()

    def event(self) -> DeviceEvent:
        self.until(lambda: self.events)
        return self.events.pop(0)


def fired(deferred: Deferred[bool]) -> bool:
    results: list[bool] = []
    deferred.addCallback(results.append)
    return results[0]


@pytest.fixture
def pump() -> Pump:
    return Pump()


@pytest.fixture
def listener(pump: Pump) -> Iterator[NetlinkListener]:
    listener = NetlinkListener(pump, pump)
    listener.start()
    listener.set_features(True)
    yield listener
    listener.set_features(False)
    listener.stop()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Writers to configfs; those that a failed test left waiting are freed, or nothing after it could run."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
        parameters = Path("/sys/module/target_core_user/parameters")
        for name, value in (("block_netlink", "1"), ("reset_netlink", "1"), ("block_netlink", "0")):
            (parameters / name).write_text(value)


def make(name: str, **control: str | int) -> Backstore:
    given = {"dev_config": f"test/{name}", "dev_size": 8 * MIB, "max_data_area_mb": 8, **control}
    return Backstore.create(name, given)


def enabled(backstore: Backstore, pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor) -> DeviceEvent:
    writing = threads.submit(backstore.enable)
    event = pump.event()
    assert fired(listener.added_done(event.device_id, 0))
    writing.result(PATIENCE)
    return event


def removed(backstore: Backstore, pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor) -> DeviceEvent:
    removing = threads.submit(backstore.remove)
    event = pump.event()
    assert fired(listener.removed_done(event.device_id))
    removing.result(PATIENCE)
    return event


def test_the_family_is_resolved() -> None:
    requests = RequestSocket()
    family = resolve(requests)
    requests.close()
    assert family.id > 16
    assert family.groups["config"] > 0


def test_a_device_lives_from_added_to_removed(
    pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor
) -> None:
    backstore = make("life")
    event = enabled(backstore, pump, listener, threads)
    assert event.command is Command.ADDED_DEVICE
    assert sysfs.parse_name(event.name) == (backstore.hba, "life", "test/life")
    assert event.device_id == backstore.device_id
    assert backstore.enabled
    device = sysfs.lookup(event.minor)
    assert device is not None
    assert device.ready
    assert (device.hba, device.name, device.dev_config) == (backstore.hba, "life", "test/life")
    assert device.map_size == 16 * MIB
    assert sysfs.discover() == [device]
    gone = removed(backstore, pump, listener, threads)
    assert (gone.command, gone.device_id, gone.minor) == (Command.REMOVED_DEVICE, event.device_id, event.minor)
    assert not backstore.exists
    assert sysfs.discover() == []


def test_a_refused_device_is_not_enabled(pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor) -> None:
    backstore = make("refused")
    writing = threads.submit(backstore.enable)
    event = pump.event()
    assert fired(listener.added_done(event.device_id, -errno.ENOENT))
    with pytest.raises(KernelError, match="another TCMU daemon refused it"):
        writing.result(PATIENCE)
    assert sysfs.lookup(event.minor) is None
    backstore.remove()
    pump.until(lambda: True)
    assert pump.events == []


def test_an_added_left_by_a_dead_daemon_is_answered_by_its_index(pump: Pump, threads: ThreadPoolExecutor) -> None:
    """The features flag outlives the daemon that set it; its successor finds the device in sysfs."""
    former = NetlinkListener(pump, pump)
    former.start()
    former.set_features(True)
    former.stop()
    backstore = make("orphan")
    writing = threads.submit(backstore.enable)
    pump.until(sysfs.discover)
    successor = NetlinkListener(pump, pump)
    successor.start()
    [device] = sysfs.discover()
    found = Backstore(device.hba, device.name)
    assert not found.enabled
    assert found.attribute("tmr_notification") == "0"
    found.set_attribute("tmr_notification", 1)
    # The kernel makes the UIO device a moment before it begins to wait.
    pump.until(lambda: fired(successor.added_done(found.device_id, 0)))
    writing.result(PATIENCE)
    assert found.enabled
    removed(backstore, pump, successor, threads)
    successor.set_features(False)
    successor.stop()


def test_a_reconfiguration_is_granted_or_refused(
    pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor
) -> None:
    backstore = make("reconfig")
    device_id = enabled(backstore, pump, listener, threads).device_id

    def attempt(name: str, value: str | int, status: int) -> tuple[DeviceEvent, Future[None]]:
        writing = threads.submit(backstore.set_attribute, name, value)
        event = pump.event()
        assert fired(listener.reconfig_done(device_id, status))
        return event, writing

    event, writing = attempt("dev_size", 4 * MIB, -errno.EINVAL)
    assert (event.command, event.dev_size) == (Command.RECONFIG_DEVICE, 4 * MIB)
    with pytest.raises(KernelError):
        writing.result(PATIENCE)
    assert backstore.size == 8 * MIB

    event, writing = attempt("dev_size", 16 * MIB, 0)
    writing.result(PATIENCE)
    assert backstore.size == 16 * MIB

    event, writing = attempt("dev_config", "test/renamed", 0)
    writing.result(PATIENCE)
    assert event.dev_config == "test/renamed"
    assert sysfs.parse_name(event.name) == (backstore.hba, "reconfig", "test/reconfig")
    device = sysfs.lookup(event.minor)
    assert device is not None
    assert device.dev_config == backstore.dev_config == "test/renamed"

    event, writing = attempt("emulate_write_cache", 1, 0)
    writing.result(PATIENCE)
    assert event.write_cache is True
    removed(backstore, pump, listener, threads)


def test_a_newline_in_dev_config_is_no_part_of_it(
    pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor
) -> None:
    backstore = make("echoed")
    enabled(backstore, pump, listener, threads)
    writing = threads.submit(backstore.set_attribute, "dev_config", "test/echoed\n")
    event = pump.event()
    assert fired(listener.reconfig_done(event.device_id, 0))
    writing.result(PATIENCE)
    device = sysfs.lookup(event.minor)
    assert device is not None
    assert device.dev_config == "test/echoed"
    gone = removed(backstore, pump, listener, threads)
    assert sysfs.parse_name(gone.name) == (backstore.hba, "echoed", "test/echoed")


def test_a_reply_that_nobody_waits_for_is_harmless(listener: NetlinkListener) -> None:
    assert not fired(listener.added_done(4711, 0))
    assert not fired(listener.removed_done(4711))
    assert not fired(listener.reconfig_done(4711, 0))


def test_devices_may_be_announced_in_parallel(
    pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor
) -> None:
    made = [make(f"many{number}", cmd_ring_size_mb=1) for number in range(8)]
    writing = [threads.submit(backstore.enable) for backstore in made]
    pump.until(lambda: len(pump.events) == len(made))
    assert {event.device_id for event in pump.events} == {backstore.device_id for backstore in made}
    for event in reversed(pump.events):
        assert fired(listener.added_done(event.device_id, 0))
    for future in writing:
        future.result(PATIENCE)
    pump.events.clear()
    for backstore in made:
        removed(backstore, pump, listener, threads)


def test_a_full_socket_fails_the_enable_instead_of_hanging_it(
    pump: Pump, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NETLINK_BROADCAST_ERROR; the listener then tells its consumer to scan."""
    monkeypatch.setattr("txtcmu.kernel.netlink._RECEIVE_BUFFER", 1)  # the kernel makes it the least there is
    listener = NetlinkListener(pump, pump)
    listener.start()
    made: list[Backstore] = []

    def flood() -> None:
        for number in range(64):
            made.append(make(f"flood{number}", cmd_ring_size_mb=1, nl_reply_supported=-1))
            made[-1].enable()

    with pytest.raises(KernelError, match="swamped"):
        flood()
    listener.set_features(True)
    made.append(make("waiting"))
    with pytest.raises(KernelError, match="swamped"):
        threads.submit(made[-1].enable).result(PATIENCE)
    pump.until(lambda: pump.lost)
    assert len(pump.events) < len(made)
    listener.set_features(False)
    listener.stop()
    for backstore in made:
        backstore.remove()


def test_the_uio_monitor_hears_without_udevd(
    pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor
) -> None:
    monitor = sysfs.UIOMonitor(pump, pump)
    assert monitor.start()
    backstore = make("heard")
    minor = enabled(backstore, pump, listener, threads).minor
    pump.until(lambda: ("add", minor) in pump.uio)
    removed(backstore, pump, listener, threads)
    pump.until(lambda: ("remove", minor) in pump.uio)
    monitor.stop()


def test_an_interrupted_enable_leaves_nothing_behind(pump: Pump, listener: NetlinkListener) -> None:
    """The child that waits for the daemon removes what nobody wants any more."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    backstore = make("unwanted")
    with pytest.raises(KeyboardInterrupt):
        enabling.enable(backstore, interrupt, patience=0)
    assert backstore.exists
    added = pump.event()
    assert fired(listener.added_done(added.device_id, 0))
    gone = pump.event()
    assert gone.command is Command.REMOVED_DEVICE
    assert fired(listener.removed_done(gone.device_id))
    pump.until(lambda: not backstore.path.parent.exists())


def test_a_child_enables_and_explains(pump: Pump, listener: NetlinkListener, threads: ThreadPoolExecutor) -> None:
    """What the daemon refuses arrives as the line that says so."""
    backstore = make("grown")
    writing = threads.submit(enabling.enable, backstore, lambda: None)
    assert fired(listener.added_done(pump.event().device_id, -errno.ENOENT))
    with pytest.raises(KernelError, match="another TCMU daemon refused it"):
        writing.result(PATIENCE)
    writing = threads.submit(enabling.enable, backstore, lambda: None)
    assert fired(listener.added_done(pump.event().device_id, 0))
    writing.result(PATIENCE)
    assert backstore.enabled
    removed(backstore, pump, listener, threads)
