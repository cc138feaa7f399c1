"""What the clients of a simulated volume did and saw, in order; docs/simulation.md says what the events are."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

__all__ = ["Event", "History"]

#: One line of a history.
Event = dict[str, Any]

#: What is said in an excerpt whatever sector it is about.
_ALWAYS = ("open", "takeover", "crash", "pause", "resume", "close", "destroyed", "calm")


class History:
    """The events of one seed.

    :param seconds: returns what time it is.
    :param judge: sees every event that concerns clients, and raises what is wrong with it.
    :ivar wrong: what is wrong, or ``None``.
    """

    def __init__(self, seconds: Callable[[], float], judge: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        self.wrong: Exception | None = None
        self._seconds = seconds
        self._judge = judge

    def record(self, event: str, **facts: Any) -> None:
        """Add an event, and have it judged."""
        self.events.append(entry := {"t": round(self._seconds(), 6), "event": event, **facts})
        try:
            self._judge(entry)
        except Exception as error:  # raised here it would become the failure of some Deferred
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Note that something is wrong; the first thing counts."""
        if self.wrong is None:
            self.wrong = error

    def note(self, event: str, **facts: Any) -> None:
        """Add an event that is for people only."""
        self.events.append({"t": round(self._seconds(), 6), "event": event, **facts})

    @property
    def digest(self) -> str:
        """Hexadecimal, of everything."""
        return sha256("".join(map(json.dumps, self.events)).encode()).hexdigest()

    def lines(self) -> str:
        """Return the history as JSON lines."""
        return "".join(json.dumps(event) + "\n" for event in self.events)

    def excerpt(self, operation: int | None, sector: int | None, most: int = 24) -> list[Event]:
        """Return the last events that tell how ``operation``, or what ``sector`` holds, came to be as it is."""
        chosen: list[Event] = []
        about: set[int] = set() if operation is None else {operation}
        for event in self.events:
            match event["event"]:
                case "submit":
                    covers = sector is not None and event.get("sector", 0) <= sector < _end(event)
                    if covers or event["kind"] == "flush":
                        about.add(event["op"])
                    if event["op"] in about:
                        chosen.append(event)
                case "complete":
                    if event["op"] in about:
                        chosen.append(event)
                case kind if kind in _ALWAYS:
                    chosen.append(event)
        short = [{key: value for key, value in event.items() if key not in ("data", "image")} for event in chosen]
        flushes = {event["op"] for event in short if event.get("kind") == "flush"}
        acknowledged = {event["op"] for event in short[-most:] if event.get("op") in flushes}
        return [event for event in short if event.get("op") not in flushes or event["op"] in acknowledged][-most:]


def _end(event: Event) -> int:
    """Return the sector behind those that an event is about."""
    return int(event.get("sector", 0)) + int(event.get("count", 0))
