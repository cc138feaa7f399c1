"""Who has a disk open: s3backer's own marker, which keeps s3backer out and tells of an unclean end.

The marker ``PREFIXs3backer-mounted`` is there from open to close, and names the process that set it.  One whose
process has ended is what a dead daemon left: its requests may still land, for hours.  A second object
``PREFIXtxtcmu-doubt`` remembers that beyond the next clean close.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any

from twisted.logger import Logger

from txtcmu.backstores.blockowner import Owner
from txtcmu.errors import ConfigError, ObjectStoreError, PreconditionFailed

__all__ = ["Session"]

_MARKER = "s3backer-mounted"
_TOKEN = "s3backer-mount-token"
_DOUBT = "txtcmu-doubt"
_SINCE = "txtcmu-since"
_DAY = 86400.0  # no request is under way for longer


class Session:
    """One time of having a disk open.

    :param owner: this process.
    :param now: returns the time in seconds.
    :ivar name: a name that no other session has.
    :ivar unclean: whether requests of an earlier session may still be under way.
    """

    def __init__(self, store: Any, prefix: str, owner: Owner, now: Callable[[], float]) -> None:
        self._store = store
        self._prefix = prefix
        self._owner = owner
        self._now = now
        self._etag = ""
        self.name = token_hex(8)
        self.unclean = False

    async def begin(self, takeover: bool) -> None:
        """Set the marker.

        :param takeover: whether one is to be replaced whose process may run, on another host or in a container.
        :raise ConfigError: somebody has the disk open; the line names the mend.
        """
        key = self._prefix + _MARKER
        found = await self._store.get(key)
        if found is not None:
            holder = Owner.of(found.metadata)
            if holder is None:
                raise ConfigError(
                    f"s3: {key} says that s3backer has this disk mounted; unmount it, or if it is dead run"
                    f" s3backer --reset-mounted-flag --prefix={self._prefix or '(none)'}"
                )
            ended = holder.has_ended(self._owner)
            if ended is False:
                raise ConfigError(f"s3: {key} says that process {holder.pid} has this disk open; stop that first")
            if ended is None and not takeover:
                where = f"host {holder.host}" if holder.host != self._owner.host else "another container of this host"
                raise ConfigError(
                    f"s3: {key} says that {where} has this disk open; stop it there, or if that one is dead"
                    " open the disk with takeover=yes"
                )
        since = await self._store.get(self._prefix + _DOUBT)
        text = "" if since is None else since.metadata.get(_SINCE, "")
        self.unclean = found is not None or (text.isdigit() and self._now() - int(text) < _DAY)
        if found is not None:
            await self._store.put(self._prefix + _DOUBT, b"", metadata={_SINCE: str(int(self._now()))})
        await self._mark(key, None if found is None else found.etag)

    async def end(self, clean: bool, log: Logger) -> None:
        """Remove the marker, if there is one, unless requests of this session may still be under way."""
        if not clean or not self._etag:
            return
        try:
            await self._store.delete(self._prefix + _MARKER, if_match=self._etag)
        except ObjectStoreError as error:
            log.warn("the marker of the open disk could not be removed: {error}", error=error)

    async def _mark(self, key: str, etag: str | None) -> None:
        body = f"{self._owner.host}\n{self.name}\n".encode()
        metadata = {**self._owner.metadata, _TOKEN: f"{int(token_hex(4), 16) or 1:08x}"}
        try:
            receipt = await self._store.put(key, body, metadata=metadata, if_match=etag, absent=etag is None)
        except PreconditionFailed:
            # Nobody else has such a body: an earlier attempt landed, or a proxy sent the request twice.
            found = await self._store.get(key)
            if found is None or found.data != body:
                raise ConfigError(f"s3: {key} was set by somebody else just now; stop the other one") from None
            self._etag = found.etag
        else:
            self._etag = receipt.etag
