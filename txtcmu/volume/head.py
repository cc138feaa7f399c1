"""The head of a volume: the one object that is replaced, and only under a condition.

It says which epoch the writer is in, where the newest checkpoint is, and which epochs have been since.  JSON, so that a
person can read it; at most 64 KiB; with a checksum over its own canonical form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID
from zlib import crc32

from attrs import evolve, field, frozen, validators

from txtcmu.errors import ConfigError
from txtcmu.volume.errors import Damaged, FormatTooNew
from txtcmu.volume.slots import BLOCK

__all__ = ["Checkpoint", "Epoch", "Geometry", "Head", "Writer"]

FORMAT: Final = "txtcmu-volume"
VERSION: Final = 1
MAX_BYTES: Final = 64 << 10

# Features by what a reader that does not know one may still do.  None exists yet.
_UNDERSTOOD: Final[Mapping[str, frozenset[str]]] = {
    "incompatible": frozenset(),  # nothing
    "read_only_compatible": frozenset(),  # read, but not write
    "compatible": frozenset(),  # everything
}


@frozen
class Geometry:
    """What is settled when a volume is made.

    :ivar batch_blocks: most blocks in one object of the log.
    :ivar leaf_blocks: blocks that one leaf of the map speaks of.
    """

    batch_blocks: int = field(default=1024, validator=[validators.ge(1), validators.le(32768)])
    leaf_blocks: int = field(default=8192, validator=[validators.ge(1), validators.le(1 << 20)])


@frozen
class Writer:
    """Who opened the volume for writing last: for people, but for ``machine``, ``nonce`` and ``closed``.

    :ivar nonce: random, of this one opening.
    :ivar machine: the host's machine-id; a successor there may take over without being told to.
    :ivar closed: it has gone, and everything is in the checkpoint.
    """

    nonce: bytes
    machine: str
    host: str
    process: int
    since: str
    closed: bool = False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@frozen
class Epoch:
    """The time of one writer.

    :ivar first: the first sequence number that it may use: behind the seal of its predecessor.
    """

    number: int
    first: int


@frozen
class Checkpoint:
    """Where the newest checkpoint is: its root is part 0 of what the writer of ``epoch`` wrote at ``seq``.

    :ivar size: bytes of the root.
    """

    epoch: int
    seq: int
    size: int


@frozen
class Head:
    """The head as a value; each replacement is a new one.

    :ivar size: bytes of the disk, a multiple of the block of the map.
    :ivar generation: rises with each replacement, and :ivar operation: is random in each: no two heads have the same
        bytes, and so none the same etag.
    :ivar epochs: of the writers since the checkpoint, the one that it was made in included; the last is the present.
    :ivar compatible: features of later versions that need not be known, and are kept.
    """

    uuid: UUID
    size: int
    geometry: Geometry
    generation: int
    operation: str
    epochs: tuple[Epoch, ...]
    writer: Writer
    checkpoint: Checkpoint | None = None
    compatible: tuple[str, ...] = ()

    @property
    def epoch(self) -> Epoch:
        """The present one."""
        return self.epochs[-1]

    def replaced(self, operation: str, **changes: Any) -> Head:
        """Return the head that shall take the place of this one.

        :param operation: random text, by which its writer knows it again.
        """
        return evolve(self, generation=self.generation + 1, operation=operation, **changes)

    def encode(self) -> bytes:
        """Return what is stored."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "features": {**{name: [] for name in _UNDERSTOOD}, "compatible": list(self.compatible)},
            "uuid": str(self.uuid),
            "size": self.size,
            "block": BLOCK,
            "batch_blocks": self.geometry.batch_blocks,
            "leaf_blocks": self.geometry.leaf_blocks,
            "generation": self.generation,
            "operation": self.operation,
            "epochs": [[epoch.number, epoch.first] for epoch in self.epochs],
            "writer": {
                "nonce": self.writer.nonce.hex(),
                "machine": self.writer.machine,
                "host": self.writer.host,
                "process": self.writer.process,
                "since": self.writer.since,
                "closed": self.writer.closed,
            },
            "checkpoint": self.checkpoint and [self.checkpoint.epoch, self.checkpoint.seq, self.checkpoint.size],
            # What later versions fill in; an older one refuses the features that come with it.
            "snapshots": [],
            "parents": [],
            "journal": None,
            "cipher": None,
        }
        body["crc"] = _crc(body)
        data = json.dumps(body, indent=1).encode()
        if len(data) > MAX_BYTES:
            raise ValueError(f"a head of {len(data)} bytes")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Return the head that is stored.

        :raise txtcmu.errors.ConfigError: this is no volume.
        :raise FormatTooNew: it needs a later txtcmu, and :raise Damaged: it is not what was written.
        """
        try:
            body = json.loads(data) if len(data) <= MAX_BYTES else None
        except ValueError:
            raise Damaged("it is no JSON") from None
        if not isinstance(body, dict) or (body.get("format") != FORMAT and "crc" not in body):
            raise ConfigError("there is something else than a volume: give another prefix")
        if body.pop("crc", None) != _crc(body) or body.get("format") != FORMAT:
            raise Damaged("it has a wrong checksum")
        try:
            _refuse_newer(body)
            return cls._of(body)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"it lacks something: {error!r}") from error

    @classmethod
    def _of(cls, body: Mapping[str, Any]) -> Head:
        writer, checkpoint = body["writer"], body["checkpoint"]
        return cls(
            UUID(body["uuid"]),
            body["size"],
            Geometry(body["batch_blocks"], body["leaf_blocks"]),
            body["generation"],
            body["operation"],
            tuple(Epoch(*epoch) for epoch in body["epochs"]),
            Writer(**{**writer, "nonce": bytes.fromhex(writer["nonce"])}),
            checkpoint and Checkpoint(*checkpoint),
            tuple(body["features"]["compatible"]),
        )


def _refuse_newer(body: Mapping[str, Any]) -> None:
    if body["version"] > VERSION:
        raise FormatTooNew(f"format {body['version']}")
    for kind in ("incompatible", "read_only_compatible"):
        unknown = set(body["features"][kind]) - _UNDERSTOOD[kind]
        if unknown:
            raise FormatTooNew(", ".join(sorted(unknown)))
    for name in ("snapshots", "parents", "journal", "cipher"):
        if body[name]:
            raise FormatTooNew(name)


def _crc(body: Mapping[str, Any]) -> int:
    return crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
