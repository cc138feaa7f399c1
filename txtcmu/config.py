"""The configuration file: named profiles, and defaults for each handler.

dev_config is short and everybody can read it, so endpoints and credentials live here instead::

    [profiles.minio]
    endpoint = "https://minio.example:9000"
    access_key_id = "..."
    secret_access_key = "..."

    [handlers.s3]
    profile = "minio"

An option counts from the first of: dev_config, ``--handler s3:key=value``, ``[handlers.s3]``, the profile.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, evolve, frozen

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError

__all__ = ["DEFAULT_PATH", "Configuration", "load", "parse_handler"]

DEFAULT_PATH = Path("/etc/txtcmu.toml")

Options = Mapping[str, str]


@frozen
class Configuration:
    """Profiles and handler defaults, as read or given.

    :ivar profiles: options by profile name, and ``handlers``: options by handler name.
    """

    profiles: Mapping[str, Options] = Factory(dict)
    handlers: Mapping[str, Options] = Factory(dict)

    def with_handler(self, name: str, options: Options) -> Configuration:
        """Return the same with ``options`` for handler ``name`` that go before those of the file."""
        return Configuration(self.profiles, {**self.handlers, name: {**self.handlers.get(name, {}), **options}})

    def device_config(self, text: str) -> DeviceConfig:
        """Take a dev_config apart and fill in what profile and handler say.

        :raise ConfigError: it is malformed, or names a profile that is not there.
        """
        config = DeviceConfig.parse(text)
        config = config.with_defaults(self.handlers.get(config.handler, {}))
        options = dict(config.options)
        name = options.pop("profile", None)
        if name is None:
            return config
        if name not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ConfigError(f"{text}: there is no profile {name!r}; the configuration file has: {known}")
        return evolve(config, options=options).with_defaults(self.profiles[name])


def load(path: Path | None = None) -> Configuration:
    """Read the configuration file; without ``path`` the default one, which may be absent.

    :raise ConfigError: it cannot be read, or holds what it should not.
    """
    file = DEFAULT_PATH if path is None else path
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is None:
            return Configuration()
        raise ConfigError(f"{file} does not exist: name a file that does, or leave the option out") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    unknown = sorted(content.keys() - {"profiles", "handlers"})
    if unknown:
        raise ConfigError(f"{file}: [{unknown[0]}] means nothing; there are [profiles.NAME] and [handlers.NAME]")
    return Configuration(
        _tables(file, "profiles", content.get("profiles", {})), _tables(file, "handlers", content.get("handlers", {}))
    )


def _tables(file: Path, section: str, tables: Any) -> dict[str, Options]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{file}: {section} must be tables, [{section}.NAME]")
    return {
        name: {key: _text(file, f"{section}.{name}.{key}", value) for key, value in table.items()}
        for name, table in tables.items()
    }


def _text(file: Path, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{file}: {key} must be text, a number, true or false")


def parse_handler(description: str) -> tuple[str, dict[str, str]]:
    r"""Take ``NAME[:key=value...]`` apart; a colon in a value is written ``\:``.

    :raise ConfigError: it is malformed.
    """
    name, *pairs = [part.replace("\0", ":") for part in description.replace(r"\:", "\0").split(":")]
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(rf"--handler {description}: {pair!r} is not key=value; write a colon in a value as \:")
        options[key] = value
    if not name:
        raise ConfigError(f"--handler {description!r} names no handler; --list-handlers shows them")
    return name, options
