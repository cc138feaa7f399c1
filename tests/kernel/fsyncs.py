"""A program that writes files, fsyncs each, and writes down elsewhere which returned; and the judge of what is left.

``python -S fsyncs.py DIRECTORY LEDGER`` writes until its standard input ends.  Its status is 1 when a file could not be
written; that is what it has to expect of a disk that is taken away.

Half of the fsyncs are of new files, the others of files that are overwritten in place.  Each block says of which
version of which file it is: lost, stale and misplaced ones are told apart from right ones.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path

THREADS = 4
BLOCK = 4096
_BEGUN, _DONE = "begun", "done"


def content(name: str, version: int) -> bytes:
    """Return what a version of a file holds; all of a file's versions are of one length."""
    blocks = 1 + int(name.partition("-")[2]) % 8
    return b"".join(_block(name, number, version) for number in range(blocks))


def _block(name: str, number: int, version: int) -> bytes:
    stamp = f"{name} block {number} version {version}".ljust(63) + "\n"
    return stamp.encode() * (BLOCK // len(stamp))


class Ledger:
    """What was written down: each version of each file before it is written, and again when its fsync has returned.

    :param path: of the file; somewhere that no crash of the disk can touch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def _entries(self) -> list[tuple[str, str, int]]:
        # The last line may be half written when somebody looks.
        lines = self._path.read_text().rpartition("\n")[0].splitlines()
        return [(kind, name, int(version)) for kind, name, version in (line.split() for line in lines)]

    @property
    def acknowledged(self) -> int:
        """How many fsyncs have returned; cheap, for those who look often."""
        return self._path.read_bytes().count(_DONE.encode())

    def last_versions(self) -> dict[str, int]:
        """Return the last version that each thread has begun."""
        last: dict[str, int] = defaultdict(int)
        for _, name, version in self._entries():
            thread = name.partition("-")[0]
            last[thread] = max(last[thread], version)
        return last

    def check(self, directory: Path) -> int:
        """Compare the files with what was written down, and return how many were fsynced.

        Each block has to be of the last version whose fsync returned, or of one that was begun later.

        :raise AssertionError: something that was fsynced is not there.
        """
        begun: dict[str, list[int]] = defaultdict(list)
        done: dict[str, int] = {}
        for kind, name, version in self._entries():
            if kind == _BEGUN:
                begun[name].append(version)
            else:
                done[name] = version
        wrong = []
        for name, least in done.items():
            allowed = [content(name, version) for version in begun[name] if version >= least]
            try:
                found = (directory / name).read_bytes()
            except OSError as error:
                wrong.append(f"{name} version {least}: {error}")
                continue
            if len(found) != len(allowed[0]):
                wrong.append(f"{name} version {least}: {len(found)} bytes instead of {len(allowed[0])}")
            for start in range(0, len(found), BLOCK):
                block = found[start : start + BLOCK]
                if block not in {each[start : start + BLOCK] for each in allowed}:
                    wrong.append(f"{name} version {least}, at {start}: {block[:64]!r}")
        assert not wrong, f"{len(wrong)} things are wrong:\n" + "\n".join(wrong[:20])
        return len(done)


class _Writers:
    def __init__(self, directory: str, ledger: Path) -> None:
        self._directory = directory
        self._last = Ledger(ledger).last_versions()
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND)
        self._stop = threading.Event()
        self.failed = False

    def run(self) -> None:
        threads = [threading.Thread(target=self._write, args=(str(number),)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        # Whoever started us closes it; nothing is ever sent.
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        for thread in threads:
            thread.join()

    def _wait_for_the_end(self) -> None:
        os.read(0, 1)
        self._stop.set()

    def _write(self, thread: str) -> None:
        version = self._last[thread]
        while not self._stop.is_set():
            version += 1
            # An odd one is a new file's; an even one overwrites one of those.
            name = f"{thread}-{version if version % 2 else 7919 % (version - 1) | 1}"
            try:
                self._write_down(_BEGUN, name, version)
                self._write_file(name, content(name, version))
                self._write_down(_DONE, name, version)
            except OSError as error:
                print(f"{name} version {version}: {error}", flush=True)
                self.failed = True
                return

    def _write_file(self, name: str, data: bytes) -> None:
        file = os.open(f"{self._directory}/{name}", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.write(file, data) != len(data):
                raise OSError(errno.EIO, "written in part")
            os.fsync(file)
        finally:
            os.close(file)

    def _write_down(self, kind: str, name: str, version: int) -> None:
        os.write(self._ledger, f"{kind} {name} {version}\n".encode())


def main() -> int:
    """Do what the command line says."""
    writers = _Writers(sys.argv[1], Path(sys.argv[2]))
    writers.run()
    return int(writers.failed)


if __name__ == "__main__":
    sys.exit(main())
