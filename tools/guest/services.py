"""What the host has to have for tests in the guest: servers that run there, at native speed, and packages.

A test asks by ``@pytest.mark.host_service("name")``. If any collected test does, the function of that name is called
with an empty directory before the guest boots; what it returns says which environment variables the guest's pytest
gets, and how the server is stopped. A server that listens on the host's 127.0.0.1 is at `HOST_ADDRESS` in the guest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.guest.debian import fetch_tcmu_runner
from tools.servers.seaweedfs import SeaweedFS

__all__ = ["HOST_ADDRESS", "SERVICES", "RunningService"]

HOST_ADDRESS = "10.0.2.2"


@dataclass(frozen=True)
class RunningService:
    """A server that has been started."""

    environment: Mapping[str, str]
    stop: Callable[[], None]


def _s3(directory: Path) -> RunningService:
    server = SeaweedFS(directory / "seaweedfs")
    environment = {
        "TXTCMU_S3_ENDPOINT": f"http://{HOST_ADDRESS}:{server.port}",
        "TXTCMU_S3_BUCKET": server.bucket,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": server.region,
    }
    return RunningService(environment, lambda: server.stop(patience=0))


def _tcmu_runner(_: Path) -> RunningService:
    return RunningService({"TXTCMU_TCMU_RUNNER": str(fetch_tcmu_runner())}, lambda: None)  # it runs in the guest


SERVICES: dict[str, Callable[[Path], RunningService]] = {"s3": _s3, "tcmu-runner": _tcmu_runner}
"""By the marker's argument. Add servers here."""
