"""What ``txtcmu doctor`` asks of handlers, of the configuration file, and of the disks that a person means to make."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from txtcmu.cli.environment import Environment
from txtcmu.cli.findings import Finding, capabilities, failure, good, unseen, warning
from txtcmu.config import DEFAULT_PATH, Configuration
from txtcmu.errors import TCMUError
from txtcmu.results import as_deferred

__all__ = ["check_configuration", "check_configured", "check_packages"]

_EXTRA = re.compile(r"""([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*["']([A-Za-z0-9._-]+)["']""")


def check_packages(world: Environment, requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Look whether the packages that a handler needs are there: those of the extra with its name.

    :param requirements: of the distribution; by default txtcmu's own.
    """
    requirements = metadata.requires("txtcmu") or [] if requirements is None else requirements
    extras = [match for each in requirements if (match := _EXTRA.match(each))]
    for factory in world.factories():
        missing = [match[1] for match in extras if match[2] == factory.name and not _installed(match[1])]
        if missing:
            mend = f"install txtcmu[{factory.name}]"
            yield warning(f"handler {factory.name}", f"lacks {', '.join(missing)}", mend)
        else:
            yield good(f"handler {factory.name}", factory.summary)


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
