"""Tests here run in a guest with the real kernel; pytest on the host boots it and relays what happens there.

See tools/guest/relay.py (the host's side) and tools/guest/agent.py (the guest's).
"""

import os
import shutil
from pathlib import Path

import pytest

from tools.guest import SHARE
from tools.guest.agent import Agent, KernelLogCheck, logs_of
from tools.guest.kernel_log import KernelLog

MARKERS = (
    "kernel_log(regex, ...): lines of the kernel's log that this test may provoke",
    "guest_timeout(seconds): how long this test may take in the guest (300)",
    "host_service(name): what the host has to have for this test, see tools/guest/services.py",
    "guest_hardware(memory=..., disk=...): a guest of its own, made of this, see tools/guest/qemu.py",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if "TXTCMU_GUEST" in os.environ:
        config.pluginmanager.register(Agent(config))
        config.pluginmanager.register(KernelLogCheck(KernelLog()))
    else:
        from tools.guest.relay import Relay  # here, as it would only cost time in the guest

        config.pluginmanager.register(Relay(config, Path(__file__).parent))


@pytest.fixture
def guest_logs(request: pytest.FixtureRequest) -> Path:
    """A directory for the logs of what the test starts: shown if it fails, even if the guest dies."""
    path = logs_of(Path(SHARE), request.node.nodeid)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
