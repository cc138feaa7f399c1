"""Enabling a backstore in a process of its own.

The write to ``enable`` sleeps until a daemon answers, and no signal ends it.  A program that made it itself could
neither say what it waits for nor be interrupted; so a child makes it.  When its parent is gone by the time the
write ends, the child removes the backstore: nobody wants it any more.
"""

from __future__ import annotations

import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from txtcmu.errors import KernelError
from txtcmu.kernel.configfs import Backstore, ConfigFS

__all__ = ["enable"]

_ENABLED = "enabled"
_STAY = "stay\n"


def enable(backstore: Backstore, notice: Callable[[], object], patience: float = 5.0) -> None:
    """Enable ``backstore``, which is removed again when this is interrupted.

    :param notice: called when it takes longer than ``patience`` seconds.
    :raise KernelError: as :meth:`Backstore.enable`.
    """
    command = [sys.executable, "-m", __name__, str(backstore.configfs.root), str(backstore.hba), backstore.name]
    # A session of its own: ^C reaches the whole foreground process group.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdin is not None
    assert child.stdout is not None
    # Whoever is interrupted leaves the child behind; it reads the end of its input when its write has ended.
    threading.Thread(target=child.wait, daemon=True).start()
    with child.stdin, child.stdout:
        if not select.select([child.stdout], [], [], patience)[0]:
            notice()
        answer = child.stdout.readline().rstrip("\n")
        if answer:
            child.stdin.write(_STAY)
            child.stdin.flush()
            child.wait()
    if answer != _ENABLED:
        raise KernelError(answer or f"cannot enable {backstore.name}: the process that did it died")


def _child(root: str, hba: str, name: str) -> None:
    backstore = Backstore(int(hba), name, ConfigFS(Path(root)))
    answer = _ENABLED
    try:
        backstore.enable()
    except KernelError as error:
        answer = str(error)
    try:
        print(answer, flush=True)
        wanted = sys.stdin.readline() == _STAY
    except OSError:
        wanted = False
    if not wanted:
        backstore.remove()


if __name__ == "__main__":
    _child(*sys.argv[1:])
