"""Ending the daemon whose backstores do not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent

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


class LeavingTests(SynchronousTestCase):
    def test_hung_thread(self) -> None:
        """SIGTERM ends the daemon although a backstore's call hangs in a thread for ever."""
        process = subprocess.Popen(
            [sys.executable, "-c", _HUNG],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        self.assertTrue(any("hanging" in line for line in iter(process.stdout.readline, "")))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGTERM)
