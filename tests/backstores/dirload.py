"""A daemon that writes to a volume in a directory until it is killed.

``... -m tests.backstores.dirload PATH MARKS FIRST LAST``: behind the last write it does nothing more.

Write ``n`` puts ``n`` into all of one block.  Each write that was acknowledged is a line ``w n``, and each flush a line
``f n`` with the last write before it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from txtcmu.backstores import volumes
from txtcmu.backstores.dir import DirFactory
from txtcmu.devconfig import DeviceConfig
from txtcmu.lun.device import State
from txtcmu.testing.rig import Rig

BLOCK = 4096
BLOCKS = 256
OPTIONS = {"batch": "256K"}


def target(number: int) -> tuple[int, bytes]:
    """Return the block of a write, and what goes there."""
    return number * 7919 % 251, number.to_bytes(8, "big") * (BLOCK // 8)


def main(path: str, marks: Path, first: int, last: int) -> None:
    """Write from write ``first`` to write ``last``."""
    volumes.MARKS = marks
    rig = Rig(None, size=BLOCKS * BLOCK, factory=DirFactory(), config=DeviceConfig("dir", path, OPTIONS))
    if rig.device.state is not State.SERVING:
        raise SystemExit(f"{rig.device.state}: {rig.device.medium._reported}")
    per_block = BLOCK // 512
    for number in range(first, last + 1):
        block, data = target(number)
        written = rig.initiator.write(block * per_block, data)
        flushed = rig.initiator.sync() if not number % 7 else None
        rig.settle()
        rig.reactor.advance(0.01)
        if written.status or (flushed is not None and flushed.status):
            raise SystemExit("a command failed")
        print(f"w {number}", flush=True)
        if flushed is not None:
            print(f"f {number}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
