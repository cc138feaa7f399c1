"""Which objects of a volume can be reached: read from docs/volume-format.md, not from the code that writes them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from struct import unpack_from
from typing import Final

__all__ = ["reachable"]

_SEAL: Final = 2


def reachable(objects: Mapping[str, bytes], head_key: str) -> set[str]:
    """Return the keys of a volume whose newest checkpoint is the end of its log.

    Those are: the head, the checkpoint's root, the parts that hold leaves of the map, the objects of the log that
    leaves refer to, and all seals.
    """
    prefix = head_key.removesuffix("head")
    head = json.loads(objects[head_key])
    root_of = f"{prefix}{head['uuid']}/"
    keys = {head_key}
    for key, data in objects.items():
        if key.startswith(f"{root_of}d/") and data[:8] == b"txtcmu\0L" and data[10] == _SEAL:
            keys.add(key)
    if head["checkpoint"] is None:
        return keys
    epoch, seq, size = head["checkpoint"]
    root_key = f"{root_of}c/{epoch:08x}/{seq:016x}/0000"
    keys.add(root_key)
    root = objects[root_key]
    assert len(root) == size, f"{root_key} has {len(root)} bytes instead of {size}"
    [leaf_blocks] = unpack_from("<I", root, 36)
    leaves, parts, listed, epochs = unpack_from("<4I", root, 64)
    at = 104
    places = [unpack_from("<IIQ", root, at + 16 * number) for number in range(leaves)]
    at += 16 * leaves
    part_keys = []
    for number in range(parts):
        part_seq, part_epoch, part, _ = unpack_from("<QIIQ", root, at + 24 * number)
        part_keys.append(f"{root_of}c/{part_epoch:08x}/{part_seq:016x}/{part:04x}")
    at += 24 * parts + 24 * listed
    firsts = [unpack_from("<QII", root, at + 16 * number)[:2] for number in range(epochs)]
    keys.update(part_keys)
    for _, part, offset in places:
        for where in unpack_from(f"<{leaf_blocks}Q", objects[part_keys[part]], offset):
            if where:
                seq = where >> 16 & (1 << 40) - 1
                _, number = firsts[bisect_right([first for first, _ in firsts], seq) - 1]
                keys.add(f"{root_of}d/{number:08x}/{seq:016x}")
    return keys
