"""radosgw: Ceph's S3 service, with a monitor and one OSD whose data is in memory; serves after two seconds.

It checks signatures and honours conditions on PUT, but takes the etag of If-Match without quotes only.

Debian's packages start services of their own where they are installed, so they are unpacked below the checkout.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

from tools.guest import debian
from tools.servers.process import ServerError, ServerProcess
from tools.servers.s3server import S3Server

__all__ = ["RadosGW", "fetch"]

_TREE = Path(__file__).resolve().parents[2] / "build" / "servers" / "ceph"
_PACKAGES = ("ceph-base", "ceph-common", "ceph-mon", "ceph-osd", "radosgw")
_SECONDS = 60.0


def fetch() -> Path:
    """Return the directory with Ceph's files and the libraries that this machine lacks; download them if need be.

    :raise tools.guest.debian.PackageError: they cannot be had.
    """
    if _TREE.exists():
        return _TREE
    simulated = debian.output("apt-get", "install", "-qq", "--simulate", "--no-install-recommends", *_PACKAGES)
    missing = [line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")]
    # Its other dependencies are for ceph-volume and the like: lvm2, smartmontools, sudo.
    libraries = [name for name in missing if name.startswith(("lib", "rados")) and name not in _PACKAGES]
    return debian.unpack((*_PACKAGES, *libraries), _TREE)


class RadosGW(S3Server):
    """A Ceph cluster of three processes."""

    port_count = 2

    def launch(self, data: Path, ports: list[int]) -> None:
        """Start monitor, OSD and gateway, and make the user."""
        tree = fetch()
        (libraries,) = tree.glob("usr/lib/*/rados-classes/..")
        gateway, monitor = ports
        self._programs = tree / "usr" / "bin"
        self._environment = {
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'ceph'}",
            "CEPH_CONF": str(data / "ceph.conf"),
        }
        cluster = uuid.uuid4()
        address = f"[v2:127.0.0.1:{monitor}]"
        (data / "ceph.conf").write_text(_CONFIGURATION.format(**locals()))
        (data / "osd").mkdir()
        maps = [str(data / name) for name in ("monmap", "osdmap")]
        self._do("monmaptool", "--create", "--fsid", str(cluster), "--addv", "a", address, maps[0])
        # One OSD that is there from the beginning needs no command to the monitor, whose client is in Python.
        self._do("osdmaptool", "--createsimple", "1", "--pg_bits", "3", "--pgp_bits", "3", maps[1])
        self._do("ceph-mon", "-i", "a", "--mkfs", "--monmap", maps[0], "--osdmap", maps[1])
        self._run("ceph-mon", "-i", "a", "-f")
        self._do("ceph-osd", "-i", "0", "--mkfs")
        self._run("ceph-osd", "-i", "0", "-f")
        keys = [f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"]
        self._do("radosgw-admin", "user", "create", "--uid=txtcmu", "--display-name=txtcmu", *keys)
        self._run("radosgw", "-n", "client.rgw", "-f")

    def _run(self, name: str, *arguments: str) -> ServerProcess:
        return self.run(name, [str(self._programs / name), *arguments], self._environment)

    def _do(self, name: str, *arguments: str) -> None:
        command = [str(self._programs / name), *arguments]
        environment = {**os.environ, **self._environment}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{name}: no end after {_SECONDS:.0f} s") from None
        if done.returncode:
            raise ServerError(f"{name}: {done.stderr[:1000]}")  # what follows is where in the code


_CONFIGURATION = """
[global]
fsid = {cluster}
mon host = {address}
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = {data}
admin socket =
log file =
crash dir = {data}/crash
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon data avail warn = 2
paxos propose interval = 0.05
[mon]
mon data = {data}/mon
mon cluster log file =
[osd]
osd data = {data}/osd
osd objectstore = memstore
osd op num shards = 2
memstore device bytes = 4294967296
[client]
client mount timeout = 20
# Without this, a gateway without cephx retries for five minutes.
ms mon client mode = crc
rgw data = {data}
# Without tcp_nodelay a small GET takes 40 ms.
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw init timeout = 20
rgw rados pool pg num min = 4
rgw thread pool size = 32
"""
