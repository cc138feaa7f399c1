"""Checksums of an object's pieces, in its metadata: what is read is what was written, or is read again.

What protects what, on the way and in the store:

- a PUT's bytes: Content-MD5, which the store compares (and on plain http the signed SHA-256, where it looks);
- a GET's bytes, unless whoever reads them verifies them by his own means: a CRC-32 for each *grain* of them, written
  with the object into ``x-amz-meta-txtcmu-crc32``.  Reads are widened to whole grains.  An object that somebody else
  wrote has none; then all of it is read and its MD5 compared with the ETag, if this store's ETags are MD5s (that of
  the last PUT was) and the reply does not say that a key of KMS's or the customer's made it something else;
- a request's header lines: the signature covers them;
- a reply's header lines and a list: only TLS.  A damaged ETag makes the next condition fail, and a damaged length or
  range is noticed; who lists on plain http must bear that an entry is missing.

CRC-32 finds each burst of up to 32 bits, and of other damage all but one in four thousand million.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import md5
from struct import pack
from zlib import crc32

from attrs import evolve, frozen

from txtcmu.objectstore.objects import StoredObject

__all__ = ["CHECKSUMS", "GRAIN", "Damaged", "Window", "checksums", "keyed", "verify"]

#: The name of the metadata.
CHECKSUMS = "txtcmu-crc32"
#: The least number of bytes that have a checksum of their own.
GRAIN = 4 << 10
_MOST = 64  # checksums of an object: 344 of the 2,048 bytes that S3 allows its metadata

_TEXT = re.compile(r"([1-9][0-9]{0,11}) ((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)")
_MD5 = re.compile(r"[0-9a-f]{32}")


class Damaged(Exception):  # noqa: N818 - what came, not an error of ours
    """What came is not what was stored."""


@frozen
class Window:
    """A part of an object.

    :ivar stop: its end, ``None`` for the object's.
    """

    start: int
    stop: int | None

    @classmethod
    def around(cls, start: int, length: int | None, grain: int) -> Window:
        """Return whole grains that hold a range, and at least one byte; all of the object for a grain of 0."""
        if not grain:
            return cls(0, None)
        stop = None if length is None else -(-(start + max(length, 1)) // grain) * grain
        return cls(start // grain * grain, stop)

    def serves(self, grain: int, size: int) -> bool:
        """Tell whether it is whole grains of an object of that size, or for a grain of 0 all of it."""
        to_the_end = self.stop is None or self.stop >= size
        if not grain:
            return not self.start and to_the_end
        return not self.start % grain and (to_the_end or not (self.stop or 0) % grain)

    @property
    def header(self) -> dict[str, str]:
        """The request's header."""
        if not self.start and self.stop is None:
            return {}
        return {"Range": f"bytes={self.start}-" + ("" if self.stop is None else str(self.stop - 1))}

    def cut(self, found: StoredObject, start: int, length: int | None) -> StoredObject:
        """Return an object with just the range asked for, of the part that this window is, without checksums."""
        first = start - self.start
        data = found.data[first : None if length is None else first + length]
        metadata = {name: value for name, value in found.metadata.items() if name != CHECKSUMS}
        return evolve(found, data=data, metadata=metadata)


def checksums(body: bytes) -> str:
    """Return the metadata's value."""
    grain = GRAIN
    while len(body) > grain * _MOST:
        grain *= 2
    return f"{grain} {b64encode(_sums(body, grain)).decode('ascii')}"


def verify(found: StoredObject, window: Window, etag_is_md5: bool) -> int | None:
    """Compare an object's part with its checksums, if they are for just that part.

    :return: the grain that the object has, 0 when only all of it can be verified; ``None`` when nothing can.
    :raise Damaged: they differ.
    """
    said = _TEXT.fullmatch(found.metadata.get(CHECKSUMS, ""))
    if said is None and not (etag_is_md5 and _MD5.fullmatch(found.etag)):
        return None
    grain = 0 if said is None else int(said[1])
    if window.serves(grain, found.size):
        if len(found.data) != min(found.size, window.stop or found.size) - window.start:
            raise Damaged("it came back too short, or too long")
        if said is None:
            if md5(found.data, usedforsecurity=False).hexdigest() != found.etag:
                raise Damaged("the ETag is not that of what came")
        else:
            first = window.start // grain * 4
            sums = _sums(found.data, grain)
            if b64decode(said[2])[first : first + len(sums)] != sums:
                raise Damaged("the checksums are not those of what came")
    return grain


def _sums(data: bytes, grain: int) -> bytes:
    view = memoryview(data)
    sums = [crc32(view[at : at + grain]) for at in range(0, len(data), grain)]
    return pack(f">{len(sums)}I", *sums)


def keyed(headers: Mapping[str, str]) -> bool:
    """Tell whether an object's encryption makes its ETag something else than its MD5."""
    return (
        headers.get("x-amz-server-side-encryption", "").startswith("aws:")
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )
