"""One guest: the QEMU process, the ports that carry its output, and the directory both sides can write to."""

import compileall
import contextlib
import fcntl
import os
import re
import secrets
import selectors
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.guest import CACHE, ROOT, accel, initramfs, kernel, qemu
from tools.guest.streams import MarkedStream, Sink

__all__ = ["Machine"]

BINARIES = ROOT / ".venv" / "bin"

KEPT_RUNS = 5
"""Directories of runs that failed are kept, this many."""


class Machine:
    """A guest that runs one command, with the checkout as its working directory and its own copy of nothing.

    The guest sees the host's files, read only, under a layer of its own memory: what it writes is gone when it ends,
    except below `SHARE`. `sinks` take the bytes of its ports: "stdout" and "stderr" of the command, and any others,
    which the command finds in /dev/virtio-ports. Sinks are called from `pump` and `wait` only. With no command, the
    guest runs a shell on the terminal. Start it in a thread that outlives it: QEMU dies with the thread it was started
    by.
    """

    def __init__(
        self,
        command: Sequence[str],
        sinks: Mapping[str, Sink],
        environment: Mapping[str, str] | None = None,
        hardware: qemu.Hardware | None = None,
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment or {})
        self._hardware = hardware or qemu.Hardware()
        self._mark = secrets.token_hex(16)
        self._streams = {name: MarkedStream(self._mark, sinks[name]) for name in ("stdout", "stderr")}
        self._sinks: dict[str, Sink] = {**sinks, **{name: s.feed for name, s in self._streams.items()}}
        self._selector = selectors.DefaultSelector()
        self._process: subprocess.Popen[bytes] | None = None
        CACHE.mkdir(parents=True, exist_ok=True)
        _prune()
        self.directory = Path(tempfile.mkdtemp(dir=CACHE, prefix="run-"))
        self._in_use = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._in_use, fcntl.LOCK_EX)
        self.share = self.directory / "share"
        self.share.mkdir()

    @property
    def status(self) -> int | None:
        """The command's exit status, once all of its output has been passed on."""
        ends = [stream.status for stream in self._streams.values()]
        return None if None in ends else ends[0]

    @property
    def gone(self) -> bool:
        """Whether QEMU has ended, and with it every port: after `status` is known that is no misfortune."""
        return self._process is not None and not self._selector.get_map()

    def start(self) -> None:
        """Boot. Returns as soon as QEMU runs; what it says arrives through `pump`."""
        booted = kernel.fetch()
        image = initramfs.build(booted)
        accelerator = "tcg" if self._hardware.counted else accel.choose(booted, image)
        _prepare_sources()
        self._write_session(booted)
        theirs: dict[str, socket.socket] = {}
        for name, sink in self._sinks.items():
            ours, theirs[name] = socket.socketpair()
            ours.setblocking(False)
            self._selector.register(ours, selectors.EVENT_READ, sink)
        line = qemu.command_line(
            self._hardware, accelerator, booted.image, image, self.share, self.directory / "console.log",
            {name: end.fileno() for name, end in theirs.items()}, self._make_disk(), terminal=not self._command,
        )  # fmt: skip
        with (self.directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *line],  # killed with us, however we end
                pass_fds=[end.fileno() for end in theirs.values()],
                stdin=None if not self._command else subprocess.DEVNULL,
                stdout=None if not self._command else log,
                stderr=log,
            )
        for end in theirs.values():
            end.close()  # QEMU holds the only other end now: its death is the end of our streams

    def pump(self, timeout: float) -> None:
        """Pass on what arrives, waiting for it at most so long."""
        for key, _ in self._selector.select(min(max(0.0, timeout), 3600.0)):
            assert isinstance(key.fileobj, socket.socket)
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = key.fileobj.recv(1 << 16)
            if data:
                key.data(data)
            else:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()

    def wait(self, timeout: float) -> int | None:
        """Return the command's exit status, or None if the guest died or the time ran out first."""
        deadline = time.monotonic() + timeout
        while self.status is None and not self.gone and time.monotonic() < deadline:
            self.pump(deadline - time.monotonic())
        return self.status

    def stop(self, keep: bool = False) -> None:
        """End QEMU, and remove the run's directory unless it is to be kept."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        if self._process is not None:
            self._process.kill()  # the guest has no disk to lose; session.sh has synced the share
            self._process.wait()
        (self.directory / "disk").unlink(missing_ok=True)  # large, and tells nothing
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._in_use)

    def console_tail(self, lines: int = 40) -> str:
        """Return the end of the console, which shows the kernel's messages, and of what QEMU itself complained of."""
        tails = []
        for name in ("console.log", "qemu.log"):
            with contextlib.suppress(FileNotFoundError):
                text = (self.directory / name).read_text(errors="replace")
                tails += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1bc", "", text).replace("\r", "").splitlines()[-lines:]
        return "\n".join(tails)

    def __enter__(self) -> Self:
        """Boot."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the directory stays when the command failed, for a look at its logs."""
        self.stop(keep=bool(self._command) and self.status != 0)

    def _make_disk(self) -> Path | None:
        if not self._hardware.disk:
            return None
        path = self.directory / "disk"
        path.touch()
        os.truncate(path, self._hardware.disk << 20)
        return path

    def _write_session(self, booted: kernel.Kernel) -> None:
        """Write the script that the guest's init ends in: environment, then session.sh with the command."""
        environment = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": f"{BINARIES}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM": os.environ.get("TERM", "dumb"),
            "TXTCMU_GUEST": "1",
            "TXTCMU_MODULES": str(booted.modules),
            "TXTCMU_MARK": self._mark,
            **self._environment,
        }
        command = self._command or ["/bin/bash", "-i"]
        if not self._command:
            columns, rows = shutil.get_terminal_size()
            environment["TXTCMU_TTY"] = f"{rows} {columns}"
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        lines += [f"cd {shlex.quote(str(ROOT))}"]
        lines += ["exec /bin/sh tools/guest/session.sh " + shlex.join(command)]
        (self.share / "session").write_text("\n".join(lines) + "\n")


def _prepare_sources() -> None:
    """Compile, and have Twisted write its lists of plugins: it is fast here, and the guest could not keep them."""
    for name in ("txtcmu", "twisted", "tools", "tests", "benchmarks", "examples"):
        compileall.compile_dir(ROOT / name, quiet=2)
    path = os.pathsep.join([str(ROOT / "tests" / "kernel" / "plugins"), os.environ.get("PYTHONPATH", "")])
    listing = [str(BINARIES / "twist"), "tcmu", "--list-handlers"]
    subprocess.run(listing, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL, check=True)


def _prune() -> None:
    """Remove the oldest directories of failed runs, but none that a guest is using now."""
    runs = sorted(CACHE.glob("run-*"), key=_age, reverse=True)
    for path in runs[:-KEPT_RUNS]:
        with contextlib.suppress(OSError):
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(directory)


def _age(path: Path) -> float:
    """Return for how long nothing was made in the directory; a vanished one counts as young."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0
