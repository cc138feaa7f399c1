"""Where messages of HTTP/1.1 begin and end in a stream of bytes (RFC 9112), and nothing else about them."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Framer", "field"]

_END = b"\r\n\r\n"


def field(head: bytes, name: bytes) -> bytes | None:
    """Return a header field's value in lower case, ``None`` when there is none.

    :param name: in lower case.
    """
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    return None


class Framer:
    """Cuts one direction of a connection into messages; every byte is passed on, as it came.

    :param began: called with a head, with the empty line at its end; returns whether its fields tell of a body.  (They
        also do where there is none: in replies to HEAD, and 304.)
    :param body: called with bytes of the body, chunk sizes and all.
    :param ended: called when a message is complete.
    """

    def __init__(
        self, began: Callable[[bytes], bool], body: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        self._began = began
        self._body = body
        self._ended = ended
        self._take = self._take_head
        self._left = 0
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._buffer += data
        while self._buffer and self._take():
            pass

    def _take_head(self) -> bool:
        end = self._buffer.find(_END)
        if end < 0:
            return False
        head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        follows = self._began(head)
        if follows and field(head, b"transfer-encoding") == b"chunked":
            self._take = self._take_size
        elif follows and (length := int(field(head, b"content-length") or 0)):
            self._left = length
            self._take = self._take_body
        else:
            self._ended()
        return True

    def _take_body(self) -> bool:
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self._body(data)
        if not self._left:
            self._take = self._take_head
            self._ended()
        return True

    def _take_size(self) -> bool:
        line, newline, rest = self._buffer.partition(b"\r\n")
        if not newline:
            return False
        self._buffer = rest
        size = int(line.split(b";")[0], 16)
        self._body(line + newline)
        self._left = size + 2  # the line's end behind each chunk; behind the last one there are no trailers
        self._take = self._take_chunk if size else self._take_body
        return True

    def _take_chunk(self) -> bool:
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self._body(data)
        if not self._left:
            self._take = self._take_size
        return True
