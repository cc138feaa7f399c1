"""The command line and the daemon together, as an operator has them: what works, and what is refused in one line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, configuration, disk, run, wait_until
from tests.kernel.sgio import sg_io
from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import backstores

pytestmark = pytest.mark.host_service("s3")

MIB = 1 << 20
# Runs a command as nobody, who may read everything: the checkout can be where others may not go.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.fixture
def daemon(guest_logs: Path) -> Iterator[Daemon]:
    """One daemon for three handlers."""
    daemon = Daemon(guest_logs, "memory", "file", "s3")
    daemon.start()
    daemon.wait_ready()
    yield daemon
    daemon.stop()


def txtcmu(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["txtcmu", *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def refused(*arguments: str, **environment: str) -> str:
    """Run `txtcmu create` in vain: one line on standard error, non-zero exit, no backstore more than before."""
    before = [each.name for each in backstores()]
    done = txtcmu("create", *arguments, f"--config={configuration()}", **environment)
    assert done.returncode != 0
    assert done.stderr.startswith("txtcmu: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert [each.name for each in backstores()] == before
    return done.stderr


def test_three_handlers_in_one_daemon(daemon: Daemon, tmp_path: Path) -> None:
    """`txtcmu create --new` makes disks of every kind, `ls` shows them, `rm` leaves their data."""
    made = {}
    for config in (f"file{tmp_path}/disk.img", f"s3/{os.environ['TXTCMU_S3_BUCKET']}/three;object_size=64k"):
        done = txtcmu("create", config, "--new", "--size=16M", "--block-size=4096", f"--config={configuration()}")
        assert done.returncode == 0, done.stderr
        made[config] = done.stdout.strip()
    with disk("ram", "memory/three;create=yes", 16 * MIB) as path:
        for each in (*made.values(), path):
            run("dd", "if=/bin/busybox", f"of={each}", "bs=64k", "count=2", "conv=fsync", "oflag=direct")
            run("cmp", "-n", str(128 << 10), "/bin/busybox", each)
    listed = txtcmu("ls").stdout
    daemon.send(signal.SIGHUP)
    for config, path in made.items():
        assert config.partition("/")[0] in listed
        assert Path(path).name in listed
        assert sg_io(path, bytes(6)).status == 0
        assert txtcmu("rm", path).returncode == 0
    assert backstores() == []
    assert (tmp_path / "disk.img").stat().st_size == 16 * MIB


def test_bad_input_is_one_line_and_hurts_nobody(daemon: Daemon, tmp_path: Path) -> None:
    """Whatever is wrong is told in one line that names the mend, and the daemon serves its other devices on."""
    bucket = os.environ["TXTCMU_S3_BUCKET"]
    image = f"file{tmp_path}/fits.img"
    Path(tmp_path / "fits.img").write_bytes(bytes(MIB))
    with disk("good", "memory/good;create=yes", MIB) as path:
        assert "no handler is called 'nope'" in refused("nope/disk", "--size=1M")
        assert "HANDLER/PATH" in refused("memory", "--size=1M")
        assert "colon" in refused("file/a:b", "--size=1M")
        assert "no option 'colour'" in refused(image + ";colour=red")
        assert "--new" in refused(f"file{tmp_path}/missing.img")
        assert "no such bucket" in refused("s3/no-such-bucket/disk", "--new", "--size=1M").lower()
        assert "secret" in refused(f"s3/{bucket}/wrong", "--new", "--size=1M", AWS_SECRET_ACCESS_KEY="wrong").lower()
        nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
        assert "credentials" in refused(f"s3/{bucket}/none", "--new", "--size=1M", **nothing)
        # The daemon itself refuses a size that does not fit; whoever enables the device is told.
        with pytest.raises(KernelError), disk("misfit", image, 2 * MIB):
            pass
        wait_until(lambda: "--size 1048576" in daemon.log.read_text(), "the daemon says what to do")
        assert sg_io(path, bytes(6)).status == 0


def test_not_root() -> None:
    """Without root there is one line, and no traceback."""
    image = Path("/tmp/anybodys.img")
    image.write_bytes(bytes(MIB))
    image.chmod(0o666)
    for command in (["twist", "tcmu", "--handler", "file"], ["txtcmu", "create", f"file{image}"]):
        done = subprocess.run([*NOBODY, *command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        lines = [line for line in done.stderr.splitlines() if "plugin cache" not in line]
        assert "root" in lines[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_no_tcmu_in_the_kernel() -> None:
    """Without the module there is one line that says how to load it."""
    run("rmmod", "target_core_user")
    try:
        done = subprocess.run(["twist", "tcmu", "--handler", "memory"], capture_output=True, text=True, timeout=120)
    finally:
        run("modprobe", "target_core_user")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "twist tcmu: the kernel has no TCM-USER: load it with `modprobe target_core_user`",
    )


def test_devices_from_before_the_daemon(guest_logs: Path) -> None:
    """A device that exists when the daemon starts is served, also when somebody waits for its ADDED answer."""
    first = Daemon(guest_logs, "memory")
    first.start()
    first.wait_ready()  # from now on the kernel waits for answers
    first.kill()
    maker = subprocess.Popen(["txtcmu", "create", "memory/before;create=yes", "--size=1M", "--name=before"])
    wait_until(lambda: any(Path("/sys/class/uio").iterdir()), "the device is announced")
    second = Daemon(guest_logs / "second", "memory")
    second.start()
    try:
        assert maker.wait(120) == 0
        assert txtcmu("rm", "before").returncode == 0
    finally:
        second.stop()
