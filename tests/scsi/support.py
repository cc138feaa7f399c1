"""What the tests of txtcmu.scsi share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from txtcmu.errors import CheckCondition
from txtcmu.scsi.opcodes import find
from txtcmu.scsi.replies import reply
from txtcmu.scsi.sense import sense_of
from txtcmu.scsi.unit import Identity, LogicalUnit, Provisioning

SERIAL = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"

THICK = LogicalUnit(Identity(SERIAL), blocks=0x200000)
"""1 GiB of 512 byte blocks, with the defaults."""

THIN = LogicalUnit(
    Identity(SERIAL),
    blocks=0x200000,
    physical_block_size=4096,
    max_transfer_blocks=0x1000,
    provisioning=Provisioning(granularity=65536, zeroes=True),
)
"""The same, with 4 KiB physical blocks; it gives back 64 KiB at a time."""


def cdb(text: str, length: int = 16) -> bytes:
    """Return a CDB from hexadecimal digits, padded with zeroes as the ring pads it."""
    return bytes.fromhex(text).ljust(length, b"\0")


def ask(unit: LogicalUnit, text: str) -> str:
    """Return the reply to a CDB, both in hexadecimal digits."""
    command = cdb(text)
    return reply(unit, find(unit, command), command).hex(" ")


def refusal(call: Callable[..., Any], *args: Any) -> str:
    """Return the sense key, ASC, ASCQ and sense-key specific bytes that ``call`` is refused with, as sent."""
    try:
        result = call(*args)
    except CheckCondition as error:
        sense = sense_of(error, writing=False, block_size=512).sense
        assert sense is not None
        fixed = sense.fixed()
        return f"{fixed[2]:02x}/{fixed[12]:02x}/{fixed[13]:02x} {fixed[15:18].hex(' ')}"
    raise AssertionError(f"not refused: {result!r}")
