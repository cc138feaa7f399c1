"""What comes out of the guest's serial ports: bytes cut into lines, or up to the mark that ends a stream."""

from collections.abc import Callable

__all__ = ["LineSplitter", "MarkedStream", "Sink"]

Sink = Callable[[bytes], object]


class MarkedStream:
    r"""Pass bytes on up to the mark that session.sh writes: ``\0MARK STATUS\n``.

    Bytes that may begin the mark are held back until it is clear whether they do; all others go on at once.
    """

    def __init__(self, mark: str, sink: Sink) -> None:
        self._mark = f"\0{mark} ".encode()
        self._sink = sink
        self._held = b""
        self.status: int | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive; what follows the mark is dropped."""
        if self.status is not None:
            return
        data = self._held + data
        self._held = b""
        start = data.find(self._mark)
        if start >= 0 and b"\n" in data[start:]:
            self.status = int(data[start + len(self._mark) : data.index(b"\n", start)])
            data = data[:start]
        else:
            keep = start if start >= 0 else self._undecided(data)
            data, self._held = data[:keep], data[keep:]
        if data:
            self._sink(data)

    def _undecided(self, data: bytes) -> int:
        """Return where a tail begins that the next bytes may turn into the mark."""
        zero = data.rfind(b"\0", max(0, len(data) - len(self._mark)))
        return zero if zero >= 0 and self._mark.startswith(data[zero:]) else len(data)


class LineSplitter:
    """Pass whole lines on, without their ends."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._sink(line)
