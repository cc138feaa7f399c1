"""The options that every handler of volumes knows; light to import."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError

__all__ = ["VOLUME_HELP", "VOLUME_OPTIONS", "VolumeOptions"]

VOLUME_OPTIONS: Final = frozenset({"create", "takeover", "wce", "cache", "dirty", "batch"})
VOLUME_HELP: Final = """\
create=no                  do not make a volume that is not there
takeover=yes               take it over from another host, which must be dead
wce=off                    acknowledge each write when it is in the store
cache=64M                  memory for blocks that were read or written
dirty=64M                  what may be on its way to the store before writes have to wait
batch=4M                   most data in one object, from 256K to 64M; counts at creation"""

_BLOCK: Final = 4096


@frozen
class VolumeOptions:
    """What a dev_config asks of its volume.

    :ivar batch_blocks: most blocks in one object of the log; counts at creation.
    :ivar cache_blocks: blocks kept in memory.
    :ivar pending: batches that may be on their way.
    :ivar create: make the volume when there is none.
    :ivar takeover: take it over from another host.
    :ivar write_cache: acknowledge writes that a flush has yet to make durable.
    """

    batch_blocks: int
    cache_blocks: int
    pending: int
    create: bool
    takeover: bool
    write_cache: bool

    @classmethod
    def of(cls, config: DeviceConfig) -> VolumeOptions:
        """Read them.  :raise ConfigError: they are impossible."""
        batch, dirty = config.size("batch", 4 << 20), config.size("dirty", 64 << 20)
        if not 256 << 10 <= batch <= 64 << 20 or batch % _BLOCK:
            raise ConfigError(f"{config.handler}: option batch={batch} must be from 256K to 64M")
        if dirty < 2 * batch:
            raise ConfigError(f"{config.handler}: option dirty={dirty} must be at least twice batch={batch}")
        return cls(
            batch // _BLOCK,
            max(1, config.size("cache", 64 << 20) // _BLOCK),
            dirty // batch,
            config.choice("create", ("yes", "no")) == "yes",
            config.choice("takeover", ("no", "yes")) == "yes",
            config.choice("wce", ("on", "off")) == "on",
        )
