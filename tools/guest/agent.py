"""The guest's side of the relay: a pytest plugin that sends reports to the host and watches the kernel's log."""

import faulthandler
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tools.guest import SHARE
from tools.guest.kernel_log import KernelLog, forbidden

__all__ = ["ITEMS", "PORT", "TRACEBACK", "Agent", "KernelLogCheck", "guest_timeout", "log_sections", "logs_of"]

PORT = "report"
"""The virtio port that carries one JSON object per line."""

ITEMS = "items"
"""The file of the share that names the items to run, one a line."""

LOGS = "logs"
"""The directory of the share with a directory of logs per test."""

TRACEBACK = "traceback"
"""The file of the share that gets every thread's stack when a test's time is nearly over."""

LOG_LINES = 100


class Agent:
    """Send what pytest reports to the host, in the order it happens."""

    def __init__(
        self, config: pytest.Config, port: Path = Path("/dev/virtio-ports", PORT), share: Path = Path(SHARE)
    ) -> None:
        self._config = config
        self._port = port.open("wb", buffering=0)
        self._stacks = (share / TRACEBACK).open("w")
        self._share = share

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run what the host has chosen, in its order."""
        order = {nodeid: place for place, nodeid in enumerate((self._share / ITEMS).read_text().splitlines())}
        items[:] = sorted((i for i in items if i.nodeid in order), key=lambda i: order[i.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell which test begins."""
        self._send("start", nodeid=nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Have the stacks written shortly before the host loses its patience, while there is somebody to write them."""
        faulthandler.dump_traceback_later(guest_timeout(item) * 0.9, file=self._stacks)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the test's own log files to a report of failure."""
        report = yield
        if report.failed:
            report.sections += log_sections(logs_of(self._share, item.nodeid))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send one phase's report."""
        self._send("report", nodeid=report.nodeid, report=self._serialized(report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Tell that the test is over."""
        faulthandler.cancel_dump_traceback_later()
        self._send("finish", nodeid=nodeid)

    def pytest_unconfigure(self) -> None:
        """Close the files."""
        self._port.close()
        self._stacks.close()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell why tests are missing."""
        if report.failed:
            self._send("trouble", text=f"{report.nodeid}: {report.longreprtext}")

    def pytest_internalerror(self, excrepr: object) -> None:
        """Tell of pytest's own failure."""
        self._send("trouble", text=str(excrepr))

    def _serialized(self, report: pytest.TestReport) -> Any:
        return self._config.hook.pytest_report_to_serializable(config=self._config, report=report)

    def _send(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event, **fields}, default=str).encode() + b"\n"
        while line:
            line = line[self._port.write(line) or 0 :]


class KernelLogCheck:
    """Fail tests during which the kernel complained, unless ``@pytest.mark.kernel_log("regex")`` announced it.

    What appears while a test is set up or runs fails the test; what appears while it is torn down is an error there.
    What the kernel said while it booted and loaded its modules is the first test's.
    """

    def __init__(self, log: KernelLog) -> None:
        self._log = log

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the set-up and the test."""
        result = yield  # the test's own failure comes first; its report shows the kernel's log
        self._judge(item)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the tear-down, fixtures included."""
        result = yield
        self._judge(item)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the end of the kernel's log to a report of failure."""
        report = yield
        if report.failed:
            self._log.read()
            report.sections.append(("Kernel log", self._log.tail()))
        return report

    def pytest_unconfigure(self) -> None:
        """Close the log."""
        self._log.close()

    def _judge(self, item: pytest.Item) -> None:
        declared = [pattern for mark in item.iter_markers("kernel_log") for pattern in mark.args]
        lines = forbidden(self._log.read(), declared)
        if lines:
            pytest.fail("the kernel complained:\n" + "\n".join(lines), pytrace=False)


def guest_timeout(item: pytest.Item) -> float:
    """Return how many seconds this test may take, from the start of its set-up to the end of its tear-down."""
    mark = item.get_closest_marker("guest_timeout")
    return float(mark.args[0]) if mark else 300.0


def logs_of(share: Path, nodeid: str) -> Path:
    """Return where this test puts its logs: on the share, so that they outlive the guest."""
    return share / LOGS / re.sub(r"[^\w.-]+", "_", nodeid)[-200:]


def log_sections(directory: Path) -> list[tuple[str, str]]:
    """Return the end of each file below the directory, as a report's sections."""
    sections = []
    for path in sorted(found for found in directory.rglob("*") if found.is_file()):
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
        sections.append((f"Log {path.relative_to(directory)}", "\n".join(lines)))
    return sections
