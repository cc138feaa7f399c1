"""A pytest plugin: a test that is skipped proves nothing and looks as if it did, so any skip fails the session."""

from __future__ import annotations

import pytest

__all__ = ["NoSkips", "pytest_configure"]


class NoSkips:
    """Have the session fail when a test, or a file of tests, was skipped; an expected failure is no skip."""

    def __init__(self) -> None:
        self._skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at one phase of a test."""
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at a file."""
        self._look(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success into failure."""
        if self._skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        for nodeid in self._skipped:
            terminalreporter.write_line(f"FAILED {nodeid} - skipped: each test has to run", red=True)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skipped.append(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Put the plugin in."""
    config.pluginmanager.register(NoSkips())
