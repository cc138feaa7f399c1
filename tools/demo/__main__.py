"""The host's part of the demo: an S3 server, and a kernel with TCMU to run the disk's part (:mod:`tools.demo.disk`)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.demo.show import Failed, step
from tools.guest.services import HOST_ADDRESS
from tools.servers.seaweedfs import SeaweedFS

# With the server's start and the cleaning up, all of it stays under ten minutes.
SECONDS = 450
CLEAN_UP_SECONDS = 60


def _has_tcmu() -> bool:
    """Tell whether this very kernel can serve user backstores to us."""
    if os.geteuid() != 0 or shutil.which("modprobe") is None:
        return False
    for module in ("target_core_user", "tcm_loop"):
        if subprocess.run(["modprobe", "-q", module], stderr=subprocess.DEVNULL).returncode != 0:
            return False
    return Path("/sys/kernel/config/target/core").is_dir()


def _limited(command: list[str], environment: dict[str, str], seconds: float) -> int:
    """Run a program and return its exit status; when we end, or its time is over, it may still clean up.

    :raise Failed: its time was over.
    """
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"not finished after {seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(CLEAN_UP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    """Run the demo; say ``demo: ok`` and return 0 if all of it went well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: SIGTERM"))  # as ^C: what was started is ended
    here = _has_tcmu()
    with tempfile.TemporaryDirectory(prefix="txtcmu-demo-") as directory:
        step("start SeaweedFS, a real S3 server")
        with SeaweedFS(Path(directory) / "seaweedfs") as server:
            address = "127.0.0.1" if here else HOST_ADDRESS
            environment = {
                "TXTCMU_S3_ENDPOINT": f"http://{address}:{server.port}",
                "TXTCMU_S3_BUCKET": server.bucket,
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_DEFAULT_REGION": server.region,
            }
            command = ["python", "-m", "tools.demo.disk"]
            if here:
                step("this kernel has TCMU: the disk is made here")
                command[0] = sys.executable
                path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
                status = _limited(command, os.environ | environment | {"PATH": path}, SECONDS)
            else:
                step("this kernel has no TCMU: boot Debian's stock kernel under QEMU")
                settings = [f"--env={name}={value}" for name, value in environment.items()]
                guest = [sys.executable, "-m", "tools.guest", "run", f"--timeout={SECONDS}", *settings, "--"]
                status = _limited([*guest, *command], dict(os.environ), SECONDS + CLEAN_UP_SECONDS)
    if status == 0:
        print("demo: ok", flush=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"demo: {error}")
