"""The dev_config string of a device: ``<subtype>/<path>[;key=value...]``.

It is the only thing that the kernel keeps of our configuration, so it must survive targetcli's parsers: at most
255 bytes, no colon, space, comma or newline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import Factory, evolve, field, frozen
from twisted.logger import Logger

from txtcmu.errors import ConfigError

MAX_LENGTH = 255
_FORBIDDEN = re.compile(r"[:\s,\x00-\x1f\x7f]")
_SUBTYPE = re.compile(r"[A-Za-z0-9_.-]+")
_OPTION = re.compile(r"[a-z][a-z0-9_-]*")
_SIZE = re.compile(r"([0-9]{1,30})(?:([KMGTPE])(?:iB)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the number of bytes that ``text`` means: ``4096``, ``64K``, ``10G``, ``1TiB`` (powers of 1024)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write bytes, or a number with K, M, G or T, such as 10G")
    number, unit = match.groups()
    return int(number) << (10 * ("KMGTPE".index(unit.upper()) + 1 if unit else 0))


@frozen(repr=False)
class DeviceConfig:
    """A dev_config taken apart, together with the options that the daemon's own configuration adds.

    :ivar handler: the subtype, before the first slash.
    :ivar path: everything behind it, without the options; its meaning is the handler's.
    :ivar options: option names and values; those of dev_config override profile and command line.
    """

    handler: str
    path: str
    options: Mapping[str, str] = Factory(dict)
    # Options that nobody wrote into dev_config: among them are credentials, and str() goes into logs.
    _defaults: frozenset[str] = field(default=frozenset(), eq=False)

    @classmethod
    def parse(cls, text: str) -> DeviceConfig:
        """Take a dev_config apart.

        :raise ConfigError: it is malformed; the line says where.
        """
        length = len(text.encode(errors="replace"))  # a byte that is not UTF-8 is one surrogate, and one "?"
        if length > MAX_LENGTH:
            raise ConfigError(f"dev_config has {length} bytes; the kernel keeps {MAX_LENGTH}: shorten the path")
        bad = _FORBIDDEN.search(text)
        if bad:
            raise ConfigError(
                f"dev_config {text!r} holds {bad.group()!r}: colon, comma and white space break targetcli; rename it"
            )
        body, *pairs = text.split(";")
        handler, slash, path = body.partition("/")
        if not slash or not path or not _SUBTYPE.fullmatch(handler):
            raise ConfigError(f"dev_config {text!r} is not HANDLER/PATH[;key=value...], such as file/var/disk.img")
        options: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not _OPTION.fullmatch(key):
                raise ConfigError(f"dev_config {text!r}: {pair!r} is not key=value")
            if key in options:
                raise ConfigError(f"dev_config {text!r}: option {key} is given twice; keep one")
            options[key] = value
        return cls(handler, path, options)

    def __str__(self) -> str:
        own = (f"{key}={value}" for key, value in self.options.items() if key not in self._defaults)
        return ";".join([f"{self.handler}/{self.path}", *own])

    def __repr__(self) -> str:
        return f"<DeviceConfig {self}>"

    @property
    def own_options(self) -> frozenset[str]:
        """The names of the options that dev_config itself gives, where everybody can read them."""
        return frozenset(self.options.keys() - self._defaults)

    def with_defaults(self, defaults: Mapping[str, str]) -> DeviceConfig:
        """Return the same with ``defaults`` for the options it does not give itself; ``str()`` does not show them."""
        added = self._defaults | (defaults.keys() - self.options.keys())
        return evolve(self, options={**defaults, **self.options}, defaults=added)

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Raise :class:`ConfigError` for an option that is not in ``known``, so that none is silently ignored."""
        for key in self.options:
            if key not in known:
                names = ", ".join(sorted(known)) or "none"
                raise ConfigError(f"{self.handler} has no option {key!r}; it knows: {names}")

    def size(self, key: str, default: int) -> int:
        """Return option ``key`` as a number of bytes."""
        try:
            return parse_size(self.options[key]) if key in self.options else default
        except ConfigError as error:
            raise ConfigError(f"{self.handler}: option {key}: {error}") from None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return option ``key``, one of ``choices``; the first is the default."""
        value = self.options.get(key, choices[0])
        if value not in choices:
            raise ConfigError(f"{self.handler}: option {key}={value} must be one of {', '.join(choices)}")
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """Return option ``key`` as an int from ``low`` to ``high``."""
        value = self.options.get(key, str(default))
        if not re.fullmatch("[0-9]{1,30}", value) or not low <= int(value) <= high:
            raise ConfigError(f"{self.handler}: option {key}={value} must be a number from {low} to {high}")
        return int(value)


@frozen
class DeviceParameters:
    """What a factory is told about the device that it opens or creates storage for.

    :ivar config: the device's configuration, defaults filled in.
    :ivar size: bytes of the LUN, or ``None`` when the caller takes it from the storage.
    :ivar block_size: logical block size in bytes.
    :ivar reactor: the reactor to use for everything.
    :ivar log: a logger that names the device.
    :ivar name: of the device in the kernel; empty when there is none.
    :ivar served_before: initiators may have been using the device since before this opening: it was found enabled, so
        by an earlier daemon, or this one has lost its backstore, or opens it anew.  They may hold acknowledgements of
        writes that they never flushed.
    :ivar write_cache: initiators may have a write cache (WCE), unless the backstore wants none: false when it was
        switched off, after everything acknowledged was flushed.
    """

    config: DeviceConfig
    size: int | None
    block_size: int
    reactor: Any
    log: Logger
    name: str = ""
    served_before: bool = False
    write_cache: bool = True
