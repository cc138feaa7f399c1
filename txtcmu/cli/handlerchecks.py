"""What ``txtcmu doctor`` asks of handlers, of the configuration file, and of the disks that a person means to make."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from txtcmu import registry
from txtcmu.cli.environment import Environment
from txtcmu.cli.findings import Finding, capabilities, failure, good, unseen, warning
from txtcmu.config import DEFAULT_PATH, Configuration
from txtcmu.errors import TCMUError
from txtcmu.results import as_deferred

__all__ = ["check_configuration", "check_configured", "check_handlers"]

_EXTRA = re.compile(r"""([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*["']([A-Za-z0-9._-]+)["']""")


def check_handlers(world: Environment, requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Look at each handler: is it the only one of its name, are the packages there that it needs.

    Those are of the extra with its name.

    :param requirements: of the distribution; by default txtcmu's own.
    """
    requirements = metadata.requires("txtcmu") or [] if requirements is None else requirements
    extras = [match for each in requirements if (match := _EXTRA.match(each))]
    factories, left_out = _discover(world)
    for reason in left_out:
        yield failure("handlers", reason, "mend the plugin, or remove it")
    names = Counter(factory.name for factory in factories)
    for factory in factories:
        if names[factory.name] > 1:
            yield failure(
                f"handler {factory.name}",
                f"{factory.summary}: one of {names[factory.name]} of this name, of which none can be used",
                "remove all but one",
            )
            continue
        missing = [match[1] for match in extras if match[2] == factory.name and not _installed(match[1])]
        if missing:
            mend = f"install txtcmu[{factory.name}]"
            yield warning(f"handler {factory.name}", f"lacks {', '.join(missing)}", mend)
        else:
            yield good(f"handler {factory.name}", factory.summary)


def _discover(world: Environment) -> tuple[list[Any], list[str]]:
    """Return the handlers that there are, and why others were left out, which is logged and not raised."""
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        factories = world.factories()
    finally:
        globalLogPublisher.removeObserver(observer)
    reasons = []
    for event in events:
        if event.get("log_namespace") == registry.__name__:
            cause = f": {event['log_failure'].getErrorMessage()}" if "log_failure" in event else ""
            reasons.append(" ".join(f"{formatEvent(event)}{cause}".split()))
    return factories, reasons


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_configuration(world: Environment, path: Path | None) -> tuple[Configuration | None, list[Finding]]:
    """Look at the configuration file; return what is in it, ``None`` when it cannot be read."""
    file = path or DEFAULT_PATH
    subject = "configuration"
    try:
        configuration: Configuration = world.load(path)
    except TCMUError as error:
        if isinstance(error.__cause__, PermissionError) and not capabilities(world):
            return Configuration(), [unseen(subject, f"{file} is not for this user to read")]
        return None, [failure(subject, str(error), f"mend {file}")]
    if not file.exists():
        return configuration, [good(subject, f"no {file}: defaults")]
    secrets = frozenset[str]().union(*(getattr(factory, "secrets", ()) for factory in world.factories()))
    tables = {
        f"{section}.{name}": table
        for section, of_section in (("profiles", configuration.profiles), ("handlers", configuration.handlers))
        for name, table in of_section.items()
    }
    found = [f"{table}.{key}" for table, options in tables.items() for key in sorted(options.keys() & secrets)]
    if found and file.stat().st_mode & stat.S_IROTH:
        return configuration, [warning(subject, f"everybody can read {found[0]} in {file}", f"chmod 600 {file}")]
    return configuration, [good(subject, str(file))]


async def check_configured(world: Environment, configuration: Configuration, dev_config: str) -> Finding:
    """Look at one dev_config, as the daemon would before it opens it."""
    try:
        config = configuration.device_config(dev_config)
        factory: Any = world.find(config.handler)
        config.refuse_unknown(factory.options)
        problem = await as_deferred(factory.check(config))
    except TCMUError as error:
        problem = str(error)
    except Exception as error:  # a plugin's mistake is the plugin's
        problem = f"its handler fails to look at it ({type(error).__name__}: {error}); mend the handler"
    if problem is None:
        return good(dev_config, "can be opened, as far as its handler can tell without opening it")
    text, _, mend = problem.partition("; ")
    return failure(dev_config, text, mend)
