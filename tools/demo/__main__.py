"""The host's part of the demo: an S3 server, and a kernel with TCMU to run the disk's part (:mod:`tools.demo.disk`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.demo.show import Failed, step
from tools.guest.services import HOST_ADDRESS
from tools.servers.seaweedfs import SeaweedFS

GUEST_SECONDS = 540


def _has_tcmu() -> bool:
    """Tell whether this very kernel can serve user backstores to us."""
    if os.geteuid() != 0 or shutil.which("modprobe") is None:
        return False
    for module in ("target_core_user", "tcm_loop"):
        if subprocess.run(["modprobe", "-q", module], stderr=subprocess.DEVNULL).returncode != 0:
            return False
    return Path("/sys/kernel/config/target").is_dir() or Path("/sys/kernel/config").is_dir()


def main() -> int:
    """Run the demo; say ``demo: ok`` and return 0 if all of it went well."""
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
                status = subprocess.run(command, env=os.environ | environment | {"PATH": path}).returncode
            else:
                step("this kernel has no TCMU: boot Debian's stock kernel under QEMU")
                settings = [f"--env={name}={value}" for name, value in environment.items()]
                guest = [sys.executable, "-m", "tools.guest", "run", f"--timeout={GUEST_SECONDS}", *settings, "--"]
                status = subprocess.run([*guest, *command]).returncode
    if status == 0:
        print("demo: ok", flush=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"demo: {error}")
