"""The relay of tests to a guest, with a process on this host in the guest's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from select import select
from typing import cast

import pytest

from tools.guest import SHARE
from tools.guest.machine import Machine
from tools.guest.qemu import Hardware
from tools.guest.relay import Relay
from tools.guest.services import SERVICES, RunningService

pytest_plugins = ["pytester"]

CONFTEST = """
    import os
    from pathlib import Path
    from tools.guest.agent import Agent

    def pytest_configure(config):
        for marker in ("guest_timeout(seconds): x", "host_service(name): x", "guest_hardware(memory): x"):
            config.addinivalue_line("markers", marker)
        if "TXTCMU_GUEST" in os.environ:
            port, share = os.environ["PORT"], os.environ["SHARE"]
            config.pluginmanager.register(Agent(config, Path(port), Path(share)))
"""


class Process:
    """What looks like `tools.guest.machine.Machine` and runs the command here."""

    booted = 0

    def __init__(
        self,
        command: Sequence[str],
        sinks: Mapping[str, Callable[[bytes], object]],
        environment: Mapping[str, str],
        hardware: Hardware,
    ) -> None:
        Process.booted += 1
        self.directory = Path(f"machine-{Process.booted}").absolute()
        self.share = self.directory / "share"
        self.share.mkdir(parents=True)
        command = [word.replace(SHARE, str(self.share)) for word in command if not word.startswith("--basetemp")]
        self._command = [sys.executable, *command[1:]]
        self._environment = {**os.environ, **environment, "TXTCMU_GUEST": "1", "SHARE": str(self.share)}
        self._environment |= {"HARDWARE": repr(hardware), "BOOT": str(Process.booted)}
        self._sinks = sinks
        self._pipes: dict[int, Callable[[bytes], object]] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def status(self) -> int | None:
        """As the real one: known once everything has been read, and never if the machine died."""
        assert self._process is not None
        status = None if self._pipes else self._process.wait()
        return None if status is None or status < 0 else status

    @property
    def gone(self) -> bool:
        """Whether the process died of a signal, which is this machine's panic."""
        return not self._pipes

    def start(self) -> None:
        """Start the process."""
        report_end, report = os.pipe()
        output_end, output = os.pipe()
        self._pipes = {report_end: self._sinks["report"], output_end: self._sinks["stdout"]}
        self._process = subprocess.Popen(
            self._command,
            env={**self._environment, "PORT": f"/dev/fd/{report}"},
            stdout=output,
            stderr=output,
            pass_fds=[report],
        )
        os.close(report)
        os.close(output)

    def pump(self, timeout: float) -> None:
        """Read what there is."""
        for pipe in select(list(self._pipes), [], [], timeout)[0]:
            data = os.read(pipe, 1 << 16)
            if data:
                self._pipes[pipe](data)
            else:
                del self._pipes[pipe]
                os.close(pipe)

    def stop(self, keep: bool) -> None:
        """Kill the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            os.close(pipe)
        (self.directory / "kept").write_text(str(keep))

    def console_tail(self) -> str:
        """Return what a console could show."""
        return "last words of the console"


@pytest.fixture
def relayed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[pytest.RunResult, list[pytest.TestReport]]]:
    """Run a file of tests through the relay; return the result and all reports the host saw."""
    monkeypatch.setattr(Process, "booted", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.delenv("TXTCMU_GUEST", raising=False)

    def run(tests: str, *options: str) -> tuple[pytest.RunResult, list[pytest.TestReport]]:
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(tests)
        reports: list[pytest.TestReport] = []

        class Plugin:
            def pytest_configure(self, config: pytest.Config) -> None:
                """Put the relay in."""
                config.pluginmanager.register(Relay(config, pytester.path, cast("type[Machine]", Process)))

            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                """Remember."""
                reports.append(report)

        return pytester.runpytest_inprocess("-p", "no:hypothesispytest", *options, plugins=[Plugin()]), reports

    return run


Relayed = Callable[..., tuple[pytest.RunResult, list[pytest.TestReport]]]


def test_reports_come_through_as_they_were(relayed: Relayed) -> None:
    result, reports = relayed("""
        import os, pytest
        from pathlib import Path
        from tools.guest.agent import logs_of
        def test_runs_elsewhere(): assert "TXTCMU_GUEST" in os.environ
        @pytest.mark.parametrize("name", ["a b", "c::d"])
        def test_parameters(name): pass
        def test_fails(request):
            print("printed there")
            logs = logs_of(Path(os.environ["SHARE"]), request.node.nodeid)
            logs.mkdir(parents=True)
            (logs / "daemon.log").write_text("from the daemon")
            assert 1 == 2
        def test_skips(): pytest.skip("for a reason")
        @pytest.mark.xfail(strict=True)
        def test_xfails(): assert 0
        @pytest.fixture
        def broken():
            yield
            raise ValueError("torn")
        def test_errs(broken): pass
        def test_deselected(): assert 0
    """, "-rs", "--deselect", "test_reports_come_through_as_they_were.py::test_deselected")  # fmt: skip
    result.assert_outcomes(passed=4, failed=1, skipped=1, xfailed=1, errors=1, deselected=1)
    result.stdout.fnmatch_lines([
        "*assert 1 == 2*", "*printed there*", "*Log daemon.log*", "from the daemon", "SKIPPED*for a reason",
    ])  # fmt: skip
    assert Process.booted == 1
    assert [report.when for report in reports] == ["setup", "call", "teardown"] * 7


def test_a_death_fails_its_test_and_the_rest_get_another_guest(relayed: Relayed) -> None:
    result, reports = relayed("""
        import os, signal
        def test_before(): pass
        def test_panic(): os.kill(os.getpid(), signal.SIGKILL)
        def test_after(): pass
        def test_exit(): os._exit(0)
        def test_left(): pass
    """)
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines([
        "The guest died.", "*Guest console*", "last words of the console", "*broke off during this test*",
        "The guest was lost 2 times; this test was not tried.",
    ])  # fmt: skip
    assert Process.booted == 2
    assert [r.when for r in reports if r.nodeid.endswith("test_panic")] == ["setup", "call", "teardown"]
    assert Path("machine-1/kept").read_text() == "True"


def test_a_hang_ends_at_its_deadline_with_stacks(relayed: Relayed) -> None:
    result, _ = relayed("""
        import pytest, threading
        @pytest.mark.guest_timeout(1)
        def test_hang(): threading.Event().wait()
        def test_after(): pass
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["The guest did not finish this test within 1 s.", "*Stacks*", "*in test_hang*"])
    assert Process.booted == 2


def test_the_first_failure_can_end_it(relayed: Relayed) -> None:
    result, reports = relayed(
        """
        def test_one(): assert 0
        def test_two(): pass
        """,
        "-x",
    )
    result.assert_outcomes(failed=1)
    assert {report.nodeid.split("::")[1] for report in reports} == {"test_one"}
    assert Path("machine-1/kept").exists()


def test_a_file_that_fails_to_import_there_costs_only_its_own_tests(relayed: Relayed) -> None:
    Path("test_other.py").write_text("def test_other(): pass\n")
    result, _ = relayed("""
        import os
        assert "TXTCMU_GUEST" not in os.environ, "not on this kernel"
        def test_it(): pass
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["pytest in the guest did not run this test.", "*not on this kernel*"])
    assert Process.booted == 1


def test_services_run_on_the_host_for_those_who_ask(relayed: Relayed, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def good(directory: Path) -> RunningService:
        calls.append(f"start in an empty directory: {list(directory.iterdir()) == []}")
        return RunningService({"TXTCMU_GOOD": "http://10.0.2.2:1"}, lambda: calls.append("stop"))

    def bad(directory: Path) -> RunningService:
        raise OSError("no such server")

    monkeypatch.setattr("tools.guest.relay.SERVICES", {**SERVICES, "good": good, "bad": bad})
    result, _ = relayed("""
        import os, pytest
        @pytest.mark.host_service("bad")
        def test_bad(): pass
        @pytest.mark.host_service("good")
        def test_good(): assert os.environ["TXTCMU_GOOD"] == "http://10.0.2.2:1"
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["The service bad did not start:", "*no such server*"])
    assert calls == ["start in an empty directory: True", "stop"]


def test_tests_with_hardware_of_their_own_share_a_boot(relayed: Relayed) -> None:
    result, reports = relayed("""
        import os, pytest
        small = pytest.mark.guest_hardware(memory=512)
        def runs_in(boot, hardware):
            assert (os.environ["BOOT"], "memory=512" in os.environ["HARDWARE"]) == (str(boot), hardware)
        @small
        def test_first(): runs_in(2, True)
        def test_usual(): runs_in(1, False)
        @small
        def test_second(): runs_in(2, True)
        def test_last(): runs_in(1, False)
    """)
    result.assert_outcomes(passed=4)
    names = [report.nodeid.split("::")[1] for report in reports if report.when == "call"]
    assert names == ["test_usual", "test_last", "test_first", "test_second"]
    assert Process.booted == 2
