"""Any datagram from netlink, any dev_config: an event, a configuration, or a clear refusal; never an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from txtcmu.devconfig import MAX_LENGTH, DeviceConfig
from txtcmu.errors import ConfigError
from txtcmu.kernel.netlink import NetlinkListener
from txtcmu.kernel.tcm_user import Command, DeviceEvent
from txtcmu.testing.fakenetlink import FakeTCMUser
from txtcmu.testing.reactor import FakeReactor

Result = TypeVar("Result")

__all__ = ["check_dev_config", "check_netlink"]


class _Consumer:
    def __init__(self) -> None:
        self.events: list[DeviceEvent] = []
        self.lost = 0

    def device_added(self, event: DeviceEvent) -> None:
        self.events.append(event)

    device_removed = device_reconfigured = device_added

    def events_lost(self) -> None:
        self.lost += 1

    def netlink_lost(self, error: BaseException) -> None:
        raise AssertionError(f"the listener gave up: {error}")


def check_netlink(datagrams: list[bytes]) -> int:
    """Have ``datagrams`` arrive: each is understood, ignored, or has us scan; the next event is heard.

    :return: how many events they held.
    """
    kernel, reactor, consumer = FakeTCMUser(), FakeReactor(), _Consumer()
    listener = NetlinkListener(reactor, consumer, kernel.factory)
    listener.start()
    (socket,) = kernel.members
    for datagram in datagrams:
        socket.put(datagram)
        reactor.settle()
    assert listener.connected
    assert all(isinstance(event.command, Command) for event in consumer.events)
    assert all(type(event.name) is str and event.minor >= 0 <= event.device_id for event in consumer.events)
    before = len(consumer.events)
    kernel.announce(Command.ADDED_DEVICE, 77, {})
    reactor.settle()
    assert [event.device_id for event in consumer.events[before:]] == [77]
    listener.stop()
    for each in kernel.sockets:
        each.close()
    return before


def check_dev_config(text: str) -> DeviceConfig | None:
    """Take ``text`` apart: it is refused in one line, or means what it says when written again."""
    config = _one_line(DeviceConfig.parse, text)
    if config is None:
        return None
    assert len(text.encode(errors="replace")) <= MAX_LENGTH
    assert DeviceConfig.parse(str(config)) == config
    assert str(config) == text
    for option in config.options:
        _one_line(config.size, option, 0)
        _one_line(config.integer, option, 0, 0, 9)
        _one_line(config.choice, option, ("a", "b"))
    return config


def _one_line(function: Callable[..., Result], *args: object) -> Result | None:
    """Return what a call returns, or ``None`` when it refuses; what it then says must be one line."""
    problem = ""
    try:
        return function(*args)
    except ConfigError as error:
        problem = str(error)
    assert problem
    assert "\n" not in problem
    return None
