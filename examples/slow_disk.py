"""A proxy: `slow/HANDLER/PATH;delay=50` is the disk HANDLER/PATH, each of whose operations takes 50 ms longer.

It provides what the other disk provides, no more and no less, so that the device advertises the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.task import deferLater
from zope.interface import directlyProvides, providedBy

from txtcmu import registry
from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.errors import ConfigError
from txtcmu.factory import Factory
from txtcmu.results import as_deferred


class SlowDisk:
    def __init__(self, disk: Any, seconds: float, reactor: Any) -> None:
        self._disk, self._seconds, self._reactor = disk, seconds, reactor
        directlyProvides(self, providedBy(disk))

    def __getattr__(self, name: str) -> Any:
        # Asked anew each time, since resize() changes the size.
        value = getattr(self._disk, name)
        return partial(self._later, value) if callable(value) else value

    async def _later(self, method: Any, *arguments: Any) -> Any:
        # Cancelled in the first line, the operation is never begun; in the second, the other disk is told.
        await deferLater(self._reactor, self._seconds)
        return await as_deferred(method(*arguments))

    def close(self) -> Any:
        return self._disk.close()


def _other(config: DeviceConfig) -> tuple[Any, DeviceConfig, float]:
    """Return the other disk's handler, its dev_config, and the delay in seconds."""
    delay = config.integer("delay", 100, 0, 60_000) / 1000
    inner = DeviceConfig.parse(config.path)
    return registry.find(inner.handler), inner, delay


def check(config: DeviceConfig) -> Any:
    try:
        handler, inner, _ = _other(config)
    except ConfigError as error:
        return str(error)
    return handler.check(inner)


def create(parameters: DeviceParameters) -> Any:
    handler, inner, _ = _other(parameters.config)
    return handler.create(evolve(parameters, config=inner))


async def open_disk(parameters: DeviceParameters) -> SlowDisk:
    handler, inner, delay = _other(parameters.config)
    disk = await as_deferred(handler.open(evolve(parameters, config=inner)))
    return SlowDisk(disk, delay, parameters.reactor)


slow = Factory(
    name="slow",
    summary="another handler's disk, slowed down",
    config_help="slow/HANDLER/PATH: the other handler's options keep their defaults.\ndelay=100  milliseconds",
    options=frozenset({"delay"}),
    opener=open_disk,
    creator=create,
    checker=check,
)
