"""Handlers by name: drop-ins of ``txtcmu/plugins/`` and entry points ``txtcmu.backstores``, in one table.

A broken plugin costs itself, never the others: it is logged and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any

from twisted.logger import Logger
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

import txtcmu.plugins
from txtcmu.errors import ConfigError
from txtcmu.factory import Factory
from txtcmu.interfaces import IBackstoreFactory

__all__ = ["GROUP", "all_factories", "find"]

#: The entry point group of third parties that do not ship a drop-in.
GROUP = "txtcmu.backstores"

_NAME = re.compile("[a-z0-9_-]+")
_log = Logger()


def _discovered() -> Iterator[tuple[str, Any]]:
    """Yield each factory with where it comes from; what cannot be loaded is logged."""
    for plugin in getPlugins(IBackstoreFactory, txtcmu.plugins):
        yield _described(_maker(plugin)), plugin
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            yield entry.value, loaded() if isinstance(loaded, type) else loaded
        except Exception:
            _log.failure("handler {name} ({value}) cannot be loaded", name=entry.name, value=entry.value)


def _maker(factory: Any) -> Any:
    """Return what tells a handler from another of its name: its class, or what a :class:`Factory` was made of."""
    return factory.opener if isinstance(factory, Factory) else type(factory)


def _described(maker: Any) -> str:
    """Return where something comes from; a bound or partial function has no name of its own."""
    module, name = (getattr(maker, each, None) for each in ("__module__", "__qualname__"))
    return f"{module}.{name}" if module and name else repr(maker)


def _by_name(discovered: Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by name the factories that want it, each with where it comes from; one of them is as it should be."""
    factories: dict[str, dict[str, Any]] = {}
    for origin, factory in discovered:
        try:
            verifyObject(IBackstoreFactory, factory)
            if not _NAME.fullmatch(factory.name):
                raise ConfigError(f"{factory.name!r} cannot be its name: it takes a-z, 0-9, '_' and '-'")
        except Exception as error:  # attributes may be properties, which can do what they like
            _log.error("handler {origin} is left out: {error}", origin=origin, error=error)
            continue
        same_name = factories.setdefault(factory.name, {})
        # The same handler found both ways, from its drop-in and its entry point, is no conflict.
        if not any(_maker(other) is _maker(factory) for other in same_name.values()):
            same_name[origin] = factory
    return factories


def all_factories() -> list[Any]:
    """Return every :class:`~txtcmu.interfaces.IBackstoreFactory` there is, by name."""
    factories = _by_name(_discovered())
    return [factory for name in sorted(factories) for factory in factories[name].values()]


def find(name: str) -> Any:
    """Return the factory called ``name``.

    :raise ConfigError: there is none, or more than one; the line names those there are.
    """
    factories = _by_name(_discovered())
    if name not in factories:
        raise ConfigError(f"no handler is called {name!r}; there are: {', '.join(sorted(factories))}")
    origins = factories[name]
    if len(origins) > 1:
        raise ConfigError(f"several handlers call themselves {name!r}, {' and '.join(origins)}: remove all but one")
    (factory,) = origins.values()
    return factory
