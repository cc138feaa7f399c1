"""What the tests of several examples share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from txtcmu.devconfig import DeviceConfig, DeviceParameters


def parameters(
    text: str, size: int | None, reactor: Any = None, defaults: Mapping[str, str] | None = None
) -> DeviceParameters:
    """Return what a factory is told about the device of a dev_config; ``defaults`` as by ``--handler``."""
    config = DeviceConfig.parse(text).with_defaults(defaults or {})
    return DeviceParameters(config, size, 512, reactor, Logger())
