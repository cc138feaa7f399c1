"""``make crash``: daemons killed under load on the real kernel, ``ROUNDS`` times, and a line of figures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


class Figures:
    """A pytest plugin that keeps what tests record of themselves."""

    def __init__(self) -> None:
        self.recorded: dict[str, object] = {"failed": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at one phase of a test."""
        self.recorded["failed"] = int(bool(self.recorded["failed"]) or report.failed)
        if report.when == "call":
            self.recorded |= dict(report.user_properties)


def main() -> int:
    """Run them and return pytest's exit status."""
    os.environ["TXTCMU_CRASH_ROUNDS"] = os.environ.get("ROUNDS", "20")
    figures = Figures()
    status = pytest.main(["-q", str(Path(__file__).with_name("test_crash.py"))], plugins=[figures])
    print("crash: " + " ".join(f"{name}={value}" for name, value in figures.recorded.items()), flush=True)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
