"""Handlers by name: drop-ins of ``txtcmu/plugins/`` and entry points ``txtcmu.backstores``, in one table.

A broken plugin costs itself, never the others: it is logged and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any

from twisted.logger import Logger
from twisted.plugin import getPlugins
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

import txtcmu.plugins
from txtcmu.errors import ConfigError
from txtcmu.interfaces import IBackstoreFactory

__all__ = ["GROUP", "all_factories", "find"]

#: The entry point group of third parties that do not ship a drop-in.
GROUP = "txtcmu.backstores"

_log = Logger()


def _discovered() -> Iterator[tuple[str, Any]]:
    """Yield each factory with where it comes from; what cannot be loaded is logged."""
    for plugin in getPlugins(IBackstoreFactory, txtcmu.plugins):
        yield f"{type(plugin).__module__}.{type(plugin).__qualname__}", plugin
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            yield entry.value, loaded() if isinstance(loaded, type) else loaded
        except Exception:
            _log.failure("handler {name} ({value}) cannot be loaded", name=entry.name, value=entry.value)


def _by_name(discovered: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    factories: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, factory in discovered:
        try:
            verifyObject(IBackstoreFactory, factory)
        except Invalid as error:
            _log.error("handler {origin} is left out: {error}", origin=origin, error=error)
            continue
        # The same class found both ways, from its drop-in and its entry point, is no conflict.
        if factory.name in origins and type(factory) is not type(factories[factory.name]):
            raise ConfigError(
                f"two handlers call themselves {factory.name!r}, {origins[factory.name]} and {origin}: remove one"
            )
        factories[factory.name] = factory
        origins[factory.name] = origin
    return factories


def all_factories() -> list[Any]:
    """Return every :class:`~txtcmu.interfaces.IBackstoreFactory` there is, by name."""
    factories = _by_name(_discovered())
    return [factories[name] for name in sorted(factories)]


def find(name: str) -> Any:
    """Return the factory called ``name``.

    :raise ConfigError: there is none; the line names those there are.
    """
    factories = _by_name(_discovered())
    if name not in factories:
        raise ConfigError(f"no handler is called {name!r}; there are: {', '.join(sorted(factories))}")
    return factories[name]
