"""The fuzz tests without an end: ``python -m tests.fuzz TARGET [CORPUS_DIRECTORY] [libFuzzer options]``.

What :mod:`tests.fuzz.disks`, :mod:`~tests.fuzz.rings` and :mod:`~tests.fuzz.messages` say must hold is tried on what
coverage-guided mutation finds, for as long as it is let::

    pip install atheris                            # not in the extra "dev": it has wheels for few versions of Python
    python -m tests.fuzz disk -max_total_time=600
    python -m tests.fuzz ring /tmp/corpus -jobs=2

Targets: ``disk`` (CDBs and data, some commands one after the other), ``ring`` (bytes in a ring of either version),
``netlink`` (datagrams) and ``config`` (dev_config).  An input that breaks something is left in the directory where it
was started, as ``crash-...``; ``python -m tests.fuzz TARGET crash-...`` shows it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
from twisted.logger import globalLogBeginner

with atheris.instrument_imports(include=["txtcmu"]):
    from tests.fuzz.disks import BLOCK_SIZE, KINDS, LARGEST, FuzzedDisk
    from tests.fuzz.messages import check_dev_config, check_netlink
    from tests.fuzz.rings import RING_SIZE, FuzzedRing
    from txtcmu.kernel.genl import Message
    from txtcmu.scsi.opcodes import ROWS
    from txtcmu.testing.fakenetlink import FAMILY_ID


def _request(provider: Any) -> tuple[bytes, bytes, int]:
    """Return CDB, Data-Out and the length of Data-In: mostly of a row of the table, with the length it asks for."""
    cdb = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 32)) or b"\0"
    if provider.ConsumeIntInRange(0, 3):
        row = ROWS[provider.ConsumeIntInRange(0, len(ROWS) - 1)]
        changed = bytearray(cdb.ljust(len(row.usage), b"\0")[: len(row.usage)])
        if provider.ConsumeBool():
            changed = bytearray(byte & mask for byte, mask in zip(changed, row.usage, strict=True))
        changed[0] = row.operation_code
        if row.service_action is not None:
            changed[1] = changed[1] & 0xE0 | row.service_action
        cdb = bytes(changed)
        length = row.transfer_length(cdb, BLOCK_SIZE) % LARGEST
    else:
        length = provider.ConsumeIntInRange(0, 8192)
    match provider.ConsumeIntInRange(0, 3):
        case 0:
            return cdb, b"", length
        case 1:
            return cdb, provider.ConsumeBytes(provider.ConsumeIntInRange(0, 600)), 0
        case 2:
            return cdb, provider.ConsumeBytes(min(length, 600)).ljust(length, b"\0"), 0
        case _:
            return cdb, provider.ConsumeBytes(min(length, 64)), provider.ConsumeIntInRange(0, 4096)


def _disk(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    disk = FuzzedDisk(list(KINDS)[provider.ConsumeIntInRange(0, len(KINDS) - 1)])
    for _ in range(provider.ConsumeIntInRange(1, 6)):
        disk.send(*_request(provider))
    disk.go_on()
    disk.close()


def _ring(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    version, head = provider.ConsumeIntInRange(1, 2), provider.ConsumeIntInRange(0, 2 * RING_SIZE)
    FuzzedRing(version, provider.ConsumeBytes(RING_SIZE), head).run()


def _netlink(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    if provider.ConsumeBool():  # a header that gets it as far as the attributes
        header = bytes([provider.ConsumeIntInRange(0, 8), 2, 0, 0])
        check_netlink([Message(FAMILY_ID, 0, 0, 0, header + provider.ConsumeBytes(512)).encode()])
    else:
        check_netlink([provider.ConsumeBytes(512)])


def _config(data: bytes) -> None:
    check_dev_config(data.decode(errors="surrogateescape"))


_TARGETS: dict[str, Callable[[bytes], None]] = {"disk": _disk, "ring": _ring, "netlink": _netlink, "config": _config}


def main() -> None:
    """Fuzz what the first argument names, until something breaks."""
    if len(sys.argv) < 2 or sys.argv[1] not in _TARGETS:
        raise SystemExit(f"usage: python -m tests.fuzz {{{','.join(_TARGETS)}}} [CORPUS_DIRECTORY] [libFuzzer options]")
    # Until it is told where to, Twisted keeps what is logged, and with it every device that says something.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    atheris.Setup([f"{sys.argv[0]} {sys.argv[1]}", *sys.argv[2:]], _TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
