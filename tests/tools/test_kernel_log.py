"""Which lines of the kernel's log fail a test, and that they do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.guest.agent import KernelLogCheck
from tools.guest.kernel_log import KernelLog, forbidden, message

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    "line",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "WARNING: CPU: 0 PID: 1 at drivers/target/target_core_user.c:1 tcmu_x+0x1/0x2",
        "general protection fault, probably for non-canonical address",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "Call Trace:",
        "cmd_id 3 not found, ring is broken",
        "INFO: task tcmu:1 blocked for more than 120 seconds.",
        "tcmu: Invalid addr to data page mapping",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        "Kernel panic - not syncing: sysrq triggered crash",
    ],
)
def test_complaints_are_forbidden(line: str) -> None:
    assert forbidden(["sd 2:0:1:0: [sda] Attached SCSI disk", line], []) == [line]


def test_ordinary_lines_are_not() -> None:
    lines = ["db_root: using /etc/target", "TARGET_CORE[loopback]: Detected NON_EXISTENT_LUN Access", "debug: on"]
    assert forbidden(lines, []) == []


def test_a_declared_line_is_let_pass_and_no_other() -> None:
    lines = ["cmd_id 7 not found, ring is broken", "BUG: another"]
    assert forbidden(lines, [r"cmd_id \d+ not found"]) == ["BUG: another"]


def test_declared_lines_need_not_appear() -> None:
    assert forbidden([], ["never seen"]) == []


def test_message_has_its_time_and_no_properties() -> None:
    assert (
        message(b"6,1204,9812345,-;scsi 2:0: hello; there\n SUBSYSTEM=scsi\n")
        == "[    9.812345] scsi 2:0: hello; there"
    )


class Kmsg:
    """A pipe that is read like /dev/kmsg: one record for each read."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "kmsg"
        os.mkfifo(self.path)
        self.log = KernelLog(str(self.path))
        self._writer = os.open(self.path, os.O_WRONLY)

    def write(self, text: str) -> None:
        """Write a record; the log reads it before the next is written, as pipes know no records."""
        os.write(self._writer, f"4,1,1000000,-;{text}\n".encode())

    def close(self) -> None:
        """Close the writer; the log belongs to the check."""
        os.close(self._writer)


@pytest.fixture
def outcome(pytester: pytest.Pytester, tmp_path: Path) -> Callable[..., pytest.RunResult]:
    """Run a test that does as its body says, `kmsg` at hand, in a pytest that watches the kernel's log."""

    def run(body: str, marks: str = "", fixture: str = "yield") -> pytest.RunResult:
        kmsg = Kmsg(tmp_path)
        pytester.makepyfile(f"""
            import pytest
            @pytest.fixture
            def resource(kmsg):
                {fixture}
            {marks}
            def test_it(kmsg, resource):
                {body}
        """)

        class Plugin:
            @pytest.fixture
            def kmsg(self) -> Kmsg:
                """The fake kernel's log."""
                return kmsg

            def pytest_configure(self, config: pytest.Config) -> None:
                """Declare the marker."""
                config.addinivalue_line("markers", "kernel_log(regex): as in tests/kernel")

        result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", plugins=[Plugin(), KernelLogCheck(kmsg.log)])
        kmsg.close()
        return result

    return run


def test_a_quiet_kernel_lets_a_test_pass(outcome: Callable[..., pytest.RunResult]) -> None:
    outcome("kmsg.write('sda: sda1')").assert_outcomes(passed=1)


def test_an_undeclared_complaint_fails_the_test(outcome: Callable[..., pytest.RunResult]) -> None:
    result = outcome("kmsg.write('BUG: unexpected')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the kernel complained:", "*BUG: unexpected*", "*Kernel log*"])


def test_a_declared_complaint_does_not(outcome: Callable[..., pytest.RunResult]) -> None:
    outcome("kmsg.write('BUG: expected')", marks="@pytest.mark.kernel_log('BUG: exp')").assert_outcomes(passed=1)


def test_a_complaint_during_set_up_fails_the_test(outcome: Callable[..., pytest.RunResult]) -> None:
    outcome("pass", fixture="kmsg.write('BUG: early'); yield").assert_outcomes(failed=1)


def test_a_complaint_during_tear_down_is_an_error(outcome: Callable[..., pytest.RunResult]) -> None:
    outcome("pass", fixture="yield; kmsg.write('BUG: late')").assert_outcomes(passed=1, errors=1)


def test_a_failing_test_keeps_its_own_reason(outcome: Callable[..., pytest.RunResult]) -> None:
    result = outcome("kmsg.write('BUG: also'); assert 0, 'own reason'")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*own reason*", "*Kernel log*", "*BUG: also*"])
