"""What can be wrong with a volume."""

from __future__ import annotations

from txtcmu.errors import ConfigError, TCMUError

__all__ = ["Damaged", "FormatTooNew"]


class Damaged(TCMUError):  # noqa: N818
    """An object of the volume is not what was written; ``str()`` goes on from "object KEY is damaged: "."""


class FormatTooNew(ConfigError):  # noqa: N818
    """A later txtcmu has written this, in a way that this one must not guess at."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this volume needs a newer txtcmu ({what}): upgrade it")
