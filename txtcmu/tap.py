"""``twist tcmu``: its options, and the service they make."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage

from txtcmu import config, registry
from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError, TCMUError
from txtcmu.iopath import enter_io_path
from txtcmu.lun.device import Device
from txtcmu.service import TcmuService

__all__ = ["Options", "makeService"]

#: Threads for backstores whose calls block.
BACKSTORE_THREADS: Final = 32

_log = Logger()


class Options(usage.Options):
    """What ``twist tcmu`` understands; each ``opt_`` method's docstring is its help."""

    longdesc = """Serve every TCMU device whose dev_config starts with the name of a given handler:

    twist tcmu --handler s3

    twist tcmu --handler file --handler s3:profile=minio --drain-timeout 20

    Devices that exist are served at once, others as soon as they are made, for example by `txtcmu create'.
    Endpoints and credentials live in profiles of the configuration file, or in AWS's usual environment
    variables and files, never on the command line."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["handlers"] = {}
        self["config"] = None
        self["drain-timeout"] = 20.0
        self["replies"] = True

    def parseOptions(self, options: Any = None) -> None:  # noqa: N802 - overrides
        """Leave with one line where Twisted would print it above all of the help."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            sys.exit(f"twist tcmu: {error}; see twist tcmu --help")

    def opt_handler(self, description: str) -> None:
        r"""Serve devices of this type: NAME[:key=value...], with defaults for its options; \: stands for a colon.

        Can be given several times.
        """
        try:
            name, options = config.parse_handler(description)
            secrets = options.keys() & getattr(_find(name, options), "secrets", frozenset())
            if secrets:
                raise ConfigError(
                    f"--handler {name}: everybody can read {min(secrets)} here: put it into a profile of the"
                    " configuration file, or into the environment"
                )
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error
        self["handlers"].setdefault(name, {}).update(options)

    def opt_config(self, path: str) -> None:
        """The configuration file (default: /etc/txtcmu.toml, if it is there)."""
        self["config"] = Path(path)

    def opt_drain_timeout(self, seconds: str) -> None:
        """Seconds that a stop waits for outstanding commands before it aborts them (default: 20)."""
        try:
            self["drain-timeout"] = float(seconds)
        except ValueError:
            raise usage.UsageError(f"--drain-timeout {seconds}: give a number of seconds") from None
        if not 0 <= self["drain-timeout"] < 3600:
            raise usage.UsageError(f"--drain-timeout {seconds}: give a number from 0 to 3600")

    def opt_no_replies(self) -> None:
        """Do not have the kernel wait for our answer when a device is made or removed."""
        self["replies"] = False

    def opt_list_handlers(self) -> None:
        """Show every handler there is, and what its dev_config looks like."""
        for factory in registry.all_factories():
            print(f"{factory.name:10} {factory.summary}")
            for line in factory.config_help.strip().splitlines():
                print(f"{'':10} {line.strip()}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Refuse to serve nothing."""
        if not self["handlers"]:
            raise usage.UsageError("give at least one --handler; --list-handlers shows them")


def _find(name: str, options: Mapping[str, str]) -> Any:
    """Return the handler ``name``.  :raise ConfigError: there is none, or it has no such options."""
    factory = registry.find(name)
    DeviceConfig(name, "", options).refuse_unknown(factory.options | {"profile"})
    return factory


def _ignore_hangup(reactor: Any) -> None:
    """Keep SIGHUP from killing the daemon without a drain; whoever set a handler of his own keeps it."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(
            signal.SIGHUP,
            lambda *_: reactor.callFromThread(_log.info, "SIGHUP: there is nothing to reload; devices are served on"),
        )


class _OneLineService(TcmuService):
    """The service, which ends the process with one line instead of a traceback when it cannot start."""

    def startService(self) -> None:
        """See :meth:`TcmuService.startService`."""
        for problem in enter_io_path():  # before the first thread: each inherits it
            _log.warn("{problem}", problem=problem)
        try:
            super().startService()
        except TCMUError as error:
            sys.exit(f"twist tcmu: {error}")
        _ignore_hangup(self._reactor)

    def stopService(self) -> Deferred[Any]:
        """See :meth:`TcmuService.stopService`."""
        return super().stopService().addCallback(_leave_behind)


def _leave_behind(given_up: list[Device]) -> None:
    """End the process at once if backstores are still busy: the reactor would wait for their threads, for ever."""
    if given_up:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def makeService(options: Options) -> IService:
    """Return the service that ``options`` ask for; what is wrong with them ends the process with one line."""
    from twisted.internet import reactor

    try:
        configuration = config.load(options["config"])
        factories = {}
        for name, defaults in options["handlers"].items():
            configuration = configuration.with_handler(name, defaults)
            factories[name] = _find(name, configuration.handlers[name])
    except TCMUError as error:
        sys.exit(f"twist tcmu: {error}")
    reactor.suggestThreadPoolSize(BACKSTORE_THREADS)  # type: ignore[attr-defined]  # the module is the reactor
    return _OneLineService(reactor, factories, configuration, options["drain-timeout"], options["replies"])
