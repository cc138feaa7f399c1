"""``twist tcmu``: its options, and the real command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, IServiceMaker
from twisted.logger import capturedLogs, formatEvent
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from txtcmu import tap
from txtcmu.errors import KernelError
from txtcmu.service import TcmuService
from txtcmu.tap import Options, makeService

ROOT = Path(__file__).parent.parent


class OptionsTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def refusal(self, *arguments: str) -> str:
        with self.assertRaises(SystemExit) as caught:
            self.parse(*arguments)
        message = caught.exception.code
        assert isinstance(message, str)
        self.assertTrue(message.startswith("twist tcmu: "))
        self.assertNotIn("\n", message)
        return message

    def test_defaults(self) -> None:
        """One handler is enough; a drain takes 20 seconds, replies are on, the configuration is the default one."""
        options = self.parse("--handler", "memory")
        self.assertEqual(
            (options["handlers"], options["drain-timeout"], options["replies"], options["config"]),
            ({"memory": {}}, 20.0, True, None),
        )

    def test_all(self) -> None:
        """Handlers add up, and so do the options of one, of which the last counts."""
        options = self.parse(
            *("--handler", "memory:create=yes", "--handler", "file", "--handler", "memory:profile=p:create=no"),
            *("--config", "/etc/other.toml", "--drain-timeout", "0.5", "--no-replies"),
        )
        self.assertEqual(options["handlers"], {"memory": {"create": "no", "profile": "p"}, "file": {}})
        self.assertEqual((options["drain-timeout"], options["replies"]), (0.5, False))
        self.assertEqual(options["config"], Path("/etc/other.toml"))

    def test_refused(self) -> None:
        """What cannot be is refused in one line that says what."""
        for arguments, text in (
            ((), "at least one --handler"),
            (("--handler", "nosuch"), "no handler is called 'nosuch'"),
            (("--handler", "memory:create"), "'create' is not key=value"),
            (("--handler", "memory:colour=red"), "no option 'colour'"),
            (("--handler", ""), "names no handler"),
            (("--handler", "memory", "--drain-timeout", "soon"), "give a number of seconds"),
            (("--handler", "memory", "--drain-timeout", "-1"), "from 0 to 3600"),
            (("--handler", "memory", "--drain-timeout", "nan"), "from 0 to 3600"),
            (("--handler", "memory", "--no-such-option"), "no-such-option"),
            (("--handler", "memory", "argument"), "Wrong number of arguments"),
        ):
            self.assertIn(text.lower(), self.refusal(*arguments).lower())


class ServiceTests(SynchronousTestCase):
    def options(self, *arguments: str, content: str = "") -> Options:
        path = self.mktemp()
        Path(path).write_text(content)
        options = Options()
        options.parseOptions([*arguments, "--config", path])
        return options

    def test_service(self) -> None:
        """The service has the handlers asked for."""
        service = makeService(self.options("--handler", "memory"))
        self.assertTrue(IService.providedBy(service))
        self.assertIsInstance(service, TcmuService)

    def test_configuration(self) -> None:
        """A configuration that does not fit ends the process with one line."""
        for content, text in (
            ("[handlers", "is not TOML"),
            ('[handlers.memory]\ncolour = "red"', "memory has no option 'colour'"),
        ):
            with self.assertRaises(SystemExit) as caught:
                makeService(self.options("--handler", "memory", content=content))
            self.assertIn(text, str(caught.exception.code))

    def test_cannot_start(self) -> None:
        """A service that cannot start ends the process with the reason."""

        def refuse(_: TcmuService) -> None:
            raise KernelError("no TCM-USER")

        self.patch(tap, "enter_io_path", list)
        self.patch(TcmuService, "startService", refuse)
        service: Any = makeService(self.options("--handler", "memory"))
        with self.assertRaises(SystemExit) as caught:
            service.startService()
        self.assertEqual(caught.exception.code, "twist tcmu: no TCM-USER")

    def test_io_path(self) -> None:
        """The daemon enters the I/O path of its host before it starts, and logs what cannot be had."""
        calls = []

        def enter() -> list[str]:
            calls.append("enter")
            return ["no {such} privilege"]

        self.patch(tap, "enter_io_path", enter)
        self.patch(TcmuService, "startService", lambda _: calls.append("start"))
        self.patch(tap, "_ignore_hangup", lambda _: None)
        service: Any = makeService(self.options("--handler", "memory"))
        with capturedLogs() as events:
            service.startService()
        self.assertEqual(calls, ["enter", "start"])
        self.assertEqual([formatEvent(event) for event in events], ["no {such} privilege"])

    def test_plugin(self) -> None:
        """The drop-in is found, and names the module without importing it."""
        (maker,) = [cast(Any, each) for each in getPlugins(IServiceMaker) if each.tapname == "tcmu"]
        self.assertEqual(maker.module, "txtcmu.tap")


# Starts the service on a kernel that says yes to everything, and then does as it is told.
_STARTED = """
import signal, sys
from txtcmu.service import TcmuService
TcmuService.startService = lambda self: None
TcmuService.stopService = lambda self: print("drained", flush=True) or succeed([])
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.application.twist._twist import Twist
reactor.callWhenRunning(lambda: print("running", flush=True))
Twist.main(["twist", "--log-format", "text", "tcmu", "--handler", "memory"])
"""

# A service whose device is given up at the stop, since one of its calls hangs in a thread.
_HUNG = """
import threading
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.application.twist._twist import Twist
from txtcmu.service import TcmuService
TcmuService.startService = lambda self: reactor.callInThread(hang)
TcmuService.stopService = lambda self: succeed(["a device"])
def hang():
    print("hanging", flush=True)
    threading.Event().wait()
Twist.main(["twist", "--log-format", "text", "tcmu", "--handler", "memory"])
"""


class CommandTests(SynchronousTestCase):
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )

    def run_twist(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run_python("-m", "twisted", *arguments)

    def one_line(self, arguments: Sequence[str]) -> str:
        done = self.run_twist("tcmu", *arguments)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def test_help(self) -> None:
        """`twist --help` lists tcmu; `twist tcmu --help` has the examples."""
        self.assertRegex(self.run_twist("--help").stdout, r"(?m)^ +tcmu +\S")
        self.assertIn("twist tcmu --handler s3", self.run_twist("tcmu", "--help").stdout)

    def test_list_handlers(self) -> None:
        """`twist tcmu --list-handlers` shows what each handler's dev_config looks like."""
        done = self.run_twist("tcmu", "--list-handlers")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"(?m)^memory +\S")
        self.assertIn("memory/NAME", done.stdout)

    def test_mistakes(self) -> None:
        """A mistake in the options is one line, and status 1."""
        self.assertIn("no handler is called 'nosuch'", self.one_line(["--handler", "nosuch"]))
        self.assertIn(
            "/no/such.toml does not exist", self.one_line(["--handler", "memory", "--config", "/no/such.toml"])
        )

    def test_no_kernel(self) -> None:
        """Where the kernel has no TCMU the command says so in one line, with status 1."""
        # The real kernel is asked, for a family that none has.
        code = """
from txtcmu.kernel import tcm_user
tcm_user.FAMILY = "NO-SUCH-FAMILY"
from twisted.application.twist._twist import Twist
Twist.main(["twist", "tcmu", "--handler", "memory"])
"""
        done = self.run_python("-c", code)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\Atwist tcmu: (the kernel|netlink).*\n\Z")

    def test_hangup(self) -> None:
        """SIGHUP kills nothing; SIGTERM drains."""
        process = self.start(_STARTED)
        self.wait_for(process, "running")
        process.send_signal(signal.SIGHUP)
        self.wait_for(process, "SIGHUP")
        process.send_signal(signal.SIGTERM)
        self.wait_for(process, "drained")
        self.assertEqual(process.wait(60), -signal.SIGTERM)

    def test_hung_thread(self) -> None:
        """SIGTERM ends the daemon although a backstore's call hangs in a thread for ever."""
        process = self.start(_HUNG)
        self.wait_for(process, "hanging")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGTERM)

    def start(self, program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        return process

    def wait_for(self, process: subprocess.Popen[str], text: str) -> None:
        assert process.stdout is not None
        self.assertTrue(any(text in line for line in iter(process.stdout.readline, "")), f"never said {text}")


class ImportTests(SynchronousTestCase):
    def test_no_reactor(self) -> None:
        """Neither the drop-in nor the module of the options installs a reactor."""
        code = "import sys, txtcmu.tap, txtcmu.plugins.builtin; sys.exit('twisted.internet.reactor' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False)
        self.assertEqual(done.returncode, 0)
