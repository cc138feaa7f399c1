"""The host's side of tests in the guest: a pytest plugin that boots it and passes its reports on as they come.

For pytest on the host they are ordinary items, chosen by -k, counted by -x; only that their set-up, call and tear-down
happen in a pytest that runs in the guest, on exactly the items that were collected here, in their order.
"""

import json
import os
import shutil
import tempfile
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tools.guest import CACHE, SHARE
from tools.guest.agent import ITEMS, PORT, TRACEBACK, guest_timeout, log_sections, logs_of
from tools.guest.debian import PackageError
from tools.guest.machine import Machine
from tools.guest.qemu import Hardware
from tools.guest.services import SERVICES, RunningService
from tools.guest.streams import LineSplitter

__all__ = ["Guest", "GuestLostError", "NotRunError", "Relay"]

BOOT_SECONDS = 240.0
"""From the boot to the first test's start, and from one test's end to the next one's start."""

LOSSES = 2
"""If the guest is lost, the tests that are left get another; not after the second time."""


class GuestLostError(Exception):
    """The guest will not report any more: it died, or hangs, or its pytest broke off."""


class NotRunError(Exception):
    """One test was not run in the guest; that says nothing about others."""


class Guest:
    """One boot, with one run of pytest in it."""

    def __init__(
        self,
        config: pytest.Config,
        items: Iterable[pytest.Item],
        environment: Mapping[str, str],
        hardware: Hardware,
        machine: Callable[..., Machine] = Machine,
    ) -> None:
        self.hardware = hardware
        self._config = config
        self._events: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._troubles: list[str] = []
        self._running: str | None = None
        self._since = time.monotonic()
        self._settled = False
        lines = LineSplitter(self._take)
        sinks = {"stdout": self._output, "stderr": self._output, PORT: lines.feed}
        self.machine = machine(self._command(), sinks, environment, hardware)
        self._log = (self.machine.directory / "pytest.log").open("wb")
        # The guest collects files and picks its items: one that it cannot import must not cost the others their run.
        items = list(items)
        (self.machine.share / ITEMS).write_text("".join(f"{item.nodeid}\n" for item in items))
        files = dict.fromkeys(str(item.path) for item in items)
        (self.machine.share / "files").write_text("".join(f"{file}\n" for file in files))

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Yield the item's reports as they come; raise `GuestLostError` if they do not."""
        events = self._events[item.nodeid]
        while True:
            while events:
                event = events.popleft()
                if event["event"] == "finish":
                    return
                data = event["report"]
                if isinstance(data["longrepr"], list):  # JSON has no tuples, and pytest wants one in a skip
                    data["longrepr"] = tuple(data["longrepr"])
                yield self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            self._wait(item)

    def evidence(self, item: pytest.Item) -> list[tuple[str, str]]:
        """Return what may tell why the guest was lost, as sections of a report."""
        sections = [("Guest console", self.machine.console_tail())]
        stacks = self.machine.share / TRACEBACK
        if stacks.exists() and stacks.stat().st_size:
            sections.append(("Stacks in the guest", stacks.read_text(errors="replace")))
        return sections + log_sections(logs_of(self.machine.share, item.nodeid))

    def stop(self, keep: bool) -> None:
        """End the guest."""
        self._log.close()
        self.machine.stop(keep)

    def _wait(self, item: pytest.Item) -> None:
        """Wait for more events of this item, or raise."""
        patience = guest_timeout(item) if self._running == item.nodeid else BOOT_SECONDS
        left = self._since + patience - time.monotonic()
        if self.machine.status is not None:
            if self._settled:
                raise self._ended(item)
            self._settled = True  # the ports are independent of each other: let the last events come in
            left = 1.0
        elif self.machine.gone:
            raise GuestLostError("The guest died.")
        elif left <= 0:
            did = "did not finish this test" if self._running == item.nodeid else "did not start this test"
            raise GuestLostError(f"The guest {did} within {patience:g} s.")
        self.machine.pump(left)

    def _ended(self, item: pytest.Item) -> Exception:
        output = (self.machine.directory / "pytest.log").read_text(errors="replace")[-4000:]
        if self._running == item.nodeid:
            return GuestLostError(f"pytest in the guest broke off during this test.\n{output}")
        return NotRunError("\n".join(["pytest in the guest did not run this test.", *self._troubles, output]))

    def _take(self, line: bytes) -> None:
        event = json.loads(line)
        kind = event["event"]
        if kind == "trouble":
            self._troubles.append(event["text"])
            return
        if kind in ("start", "finish"):
            self._running = event["nodeid"] if kind == "start" else None
            self._since = time.monotonic()
        if kind in ("report", "finish"):
            self._events[event["nodeid"]].append(event)

    def _output(self, data: bytes) -> None:
        """Take what the guest's pytest and its tests print: to be seen at once under -s, else kept."""
        if self._config.getoption("capture") == "no":
            os.write(2, data)
        self._log.write(data)
        self._log.flush()

    def _command(self) -> list[str]:
        options = self._config.option
        command = ["python", "-m", "pytest", "--rootdir", str(self._config.rootpath)]
        if self._config.inipath is not None:
            command += ["-c", str(self._config.inipath)]
        # What is shown of a failure is decided where it happens, so those options go along.
        command += [f"--tb={options.tbstyle}", f"--capture={options.capture}", f"--verbosity={options.verbose}"]
        command += ["--showlocals"] * bool(options.showlocals) + ["--runxfail"] * bool(options.runxfail)
        command += ["--continue-on-collection-errors", "-p", "no:cacheprovider", "--basetemp=/run/pytest"]
        command += ["-p", "no:hypothesispytest"]  # imports hypothesis, which takes the guest as long as its boot
        return [*command, f"@{SHARE}/files"]


class Relay:
    """The plugin. Items below `directory` run in a guest, a `machine`."""

    def __init__(self, config: pytest.Config, directory: Path, machine: Callable[..., Machine] = Machine) -> None:
        self._config = config
        self._directory = directory
        self._machine = machine
        self._guest: Guest | None = None
        self._losses = 0
        self._keep = False
        self._services: dict[str, RunningService] | None = None
        self._service_files: list[Path] = []
        self._unavailable: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Have items that want the same hardware stand together, so that it is booted once; the usual one is first."""
        kinds = list(dict.fromkeys([Hardware(), *(_hardware_of(item) for item in items if self._is_ours(item))]))
        ours = iter(sorted(filter(self._is_ours, items), key=lambda item: kinds.index(_hardware_of(item))))
        items[:] = [next(ours) if self._is_ours(item) else item for item in items]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run an item in the guest, if it belongs there."""
        if not self._is_ours(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._run(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if nextitem is None or not self._is_ours(nextitem):
            self._close_guest(keep=self._keep)
        return True

    def pytest_sessionfinish(self) -> None:
        """Stop everything, also when pytest gives up early."""
        self._close_guest(keep=self._keep)
        for service in (self._services or {}).values():
            service.stop()
        self._services = None
        for path in self._service_files:
            shutil.rmtree(path, ignore_errors=True)

    def _is_ours(self, item: pytest.Item) -> bool:
        return item.path.is_relative_to(self._directory)

    def _run(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        phases = ["setup", "call", "teardown"]
        try:
            guest = self._ready(item)
            for report in guest.reports(item):
                phases = phases[phases.index(report.when or "call") + 1 :]
                yield report
        except NotRunError as error:
            yield from _failure(item, phases, str(error), [])
            self._keep = True
        except (GuestLostError, PackageError, OSError) as error:
            sections = self._guest.evidence(item) if self._guest is not None else []
            yield from _failure(item, phases, str(error), sections)
            self._keep = True
            self._losses += 1
            self._close_guest(keep=True)

    def _ready(self, item: pytest.Item) -> Guest:
        """Return the guest that runs the item; boot one, with all items from this one on, if there is none."""
        if self._services is None:
            self._services = {}
            self._start_services(item.session.items)
        for name in _services_of(item):
            if name in self._unavailable:
                raise NotRunError(f"The service {name} did not start:\n{self._unavailable[name]}")
        hardware = _hardware_of(item)
        if self._guest is not None and self._guest.hardware != hardware:
            self._close_guest(keep=self._keep)
        if self._guest is None:
            if self._losses == LOSSES:
                raise NotRunError(f"The guest was lost {LOSSES} times; this test was not tried.")
            rest = item.session.items[item.session.items.index(item) :]
            items = [i for i in rest if self._is_ours(i) and not _services_of(i) & self._unavailable.keys()]
            items = [i for i in items if _hardware_of(i) == hardware]
            passed_on = {k: v for k, v in os.environ.items() if k.startswith("TXTCMU_") or k == "CI"}
            environments = [service.environment for service in self._services.values()]
            environment = {k: v for variables in (passed_on, *environments) for k, v in variables.items()}
            self._guest = Guest(self._config, items, environment, hardware, self._machine)
            self._guest.machine.start()
        return self._guest

    def _start_services(self, items: Iterable[pytest.Item]) -> None:
        assert self._services is not None
        CACHE.mkdir(parents=True, exist_ok=True)
        for name in sorted({name for item in items if self._is_ours(item) for name in _services_of(item)}):
            directory = Path(tempfile.mkdtemp(dir=CACHE, prefix="service-"))
            self._service_files.append(directory)
            try:
                self._services[name] = SERVICES[name](directory)
            except Exception:
                self._unavailable[name] = traceback.format_exc()

    def _close_guest(self, keep: bool) -> None:
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.stop(keep)


def _services_of(item: pytest.Item) -> set[str]:
    """Return what the item asks for by its markers."""
    return {name for mark in item.iter_markers("host_service") for name in mark.args}


def _hardware_of(item: pytest.Item) -> Hardware:
    """Return what the item's guest is made of."""
    mark = item.get_closest_marker("guest_hardware")
    return Hardware(**mark.kwargs) if mark else Hardware()


def _failure(
    item: pytest.Item, phases: list[str], text: str, sections: list[tuple[str, str]]
) -> Iterator[pytest.TestReport]:
    """Yield the reports that the guest owes: the test fails in the phase it was in."""
    if phases[:1] == ["setup"]:
        yield _report(item, "setup", None, [])
        phases = phases[1:]
    if phases:
        yield _report(item, phases[0], text, sections)
    if phases[1:]:
        yield _report(item, phases[1], None, [])


def _report(item: pytest.Item, when: str, failure: str | None, sections: list[tuple[str, str]]) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "passed" if failure is None else "failed",
        failure,
        when,  # type: ignore[arg-type]  # a Literal
        sections,
    )
