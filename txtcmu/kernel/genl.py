"""Netlink and generic netlink messages, to the byte; no sockets.

The layouts are those of ``linux/netlink.h`` and ``linux/genetlink.h``; numbers are in the host's byte order.
Whatever bytes a function here is given, it returns a value or raises :class:`MessageError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from attrs import frozen

__all__ = [
    "CONTROL_FAMILY",
    "NLMSG_ERROR",
    "NLM_F_ACK",
    "NLM_F_REQUEST",
    "S32",
    "U8",
    "U16",
    "U32",
    "U64",
    "Family",
    "GenericMessage",
    "Message",
    "MessageError",
    "encode_attributes",
    "error_of",
    "family_request",
    "number",
    "parse_attributes",
    "parse_datagram",
    "parse_family",
    "string",
]

NLMSG_ERROR = 2
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4

CONTROL_FAMILY = 16  # GENL_ID_CTRL, "nlctrl": the only family whose id is not dynamic
_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_CTRL_ATTR_MCAST_GROUPS = 7
_GROUP_NAME = 1
_GROUP_ID = 2

_NLMSGHDR = Struct("=IHHII")
_GENLMSGHDR = Struct("=BBH")
_NLATTR = Struct("=HH")
_TYPE_MASK = 0x3FFF  # the two high bits are NLA_F_NESTED and NLA_F_NET_BYTEORDER

U8 = Struct("=B")
U16 = Struct("=H")
U32 = Struct("=I")
S32 = Struct("=i")
U64 = Struct("=Q")


class MessageError(ValueError):
    """Bytes that are no message, or a message that lacks what it must hold."""


def _aligned(length: int) -> int:
    return (length + 3) & ~3


@frozen
class Message:
    """One netlink message.

    :ivar type: ``NLMSG_ERROR`` and its like, or the id of a generic netlink family.
    :ivar sequence: echoed by the kernel in its answer and its acknowledgement; 0 in an event.
    """

    type: int
    flags: int
    sequence: int
    port_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the message as it is sent."""
        length = _NLMSGHDR.size + len(self.payload)
        return _NLMSGHDR.pack(length, self.type, self.flags, self.sequence, self.port_id) + self.payload


def parse_datagram(datagram: bytes) -> list[Message]:
    """Return the messages of one datagram."""
    messages = []
    offset = 0
    while offset < len(datagram):
        left = len(datagram) - offset
        if left < _NLMSGHDR.size:
            raise MessageError(f"{left} bytes are too few for a netlink header")
        length, kind, flags, sequence, port_id = _NLMSGHDR.unpack_from(datagram, offset)
        if not _NLMSGHDR.size <= length <= left:
            raise MessageError(f"netlink message says {length} bytes, {left} are there")
        payload = datagram[offset + _NLMSGHDR.size : offset + length]
        messages.append(Message(kind, flags, sequence, port_id, payload))
        offset += _aligned(length)
    return messages


def error_of(message: Message) -> int:
    """Return the errno of an ``NLMSG_ERROR`` message; 0 means that it acknowledges a request."""
    if message.type != NLMSG_ERROR or len(message.payload) < S32.size:
        raise MessageError("not an NLMSG_ERROR message")
    error: int = S32.unpack_from(message.payload)[0]
    return abs(error)


def encode_attributes(attributes: Mapping[int, bytes]) -> bytes:
    """Return attributes one after the other, padded; the result can be the payload of a nested one."""
    parts = []
    for kind, payload in attributes.items():
        parts += [_NLATTR.pack(_NLATTR.size + len(payload), kind), payload, b"\0" * (-len(payload) % 4)]
    return b"".join(parts)


def parse_attributes(payload: bytes) -> dict[int, bytes]:
    """Take attributes apart; the last of several with the same type counts, as in the kernel."""
    attributes = {}
    offset = 0
    while offset < len(payload):
        left = len(payload) - offset
        if left < _NLATTR.size:
            raise MessageError(f"{left} bytes are too few for a netlink attribute")
        length, kind = _NLATTR.unpack_from(payload, offset)
        if not _NLATTR.size <= length <= left:
            raise MessageError(f"netlink attribute says {length} bytes, {left} are there")
        attributes[kind & _TYPE_MASK] = payload[offset + _NLATTR.size : offset + length]
        offset += _aligned(length)
    return attributes


def number(attributes: Mapping[int, bytes], kind: int, layout: Struct) -> int:
    """Return the number in attribute ``kind``, which must be there and of the size of ``layout``."""
    payload = attributes.get(kind)
    if payload is None or len(payload) != layout.size:
        raise MessageError(f"netlink attribute {kind} is not a number of {layout.size} bytes: {payload!r}")
    value: int = layout.unpack(payload)[0]
    return value


def string(attributes: Mapping[int, bytes], kind: int) -> str:
    """Return the NUL-terminated text in attribute ``kind``, which must be there; any bytes survive the way back."""
    payload = attributes.get(kind)
    if payload is None:
        raise MessageError(f"netlink attribute {kind} is missing")
    return payload.partition(b"\0")[0].decode("utf-8", "surrogateescape")


@frozen
class GenericMessage:
    """What a netlink message of a generic netlink family carries."""

    command: int
    version: int
    attributes: Mapping[int, bytes]

    def encode(self) -> bytes:
        """Return the payload of a :class:`Message`."""
        return _GENLMSGHDR.pack(self.command, self.version, 0) + encode_attributes(self.attributes)

    @classmethod
    def parse(cls, payload: bytes) -> GenericMessage:
        """Take the payload of a :class:`Message` apart."""
        if len(payload) < _GENLMSGHDR.size:
            raise MessageError(f"{len(payload)} bytes are too few for a generic netlink header")
        command, version, _ = _GENLMSGHDR.unpack_from(payload)
        return cls(command, version, parse_attributes(payload[_GENLMSGHDR.size :]))


@frozen
class Family:
    """A generic netlink family as this boot of the kernel numbered it."""

    id: int
    groups: Mapping[str, int]


def family_request(name: str) -> GenericMessage:
    """Return the question to ``nlctrl`` for the family called ``name``."""
    return GenericMessage(_GETFAMILY, 1, {_CTRL_ATTR_FAMILY_NAME: name.encode() + b"\0"})


def parse_family(message: GenericMessage) -> Family:
    """Return what ``nlctrl`` answered."""
    groups = {}
    listed = parse_attributes(message.attributes.get(_CTRL_ATTR_MCAST_GROUPS, b""))
    for payload in listed.values():
        group = parse_attributes(payload)
        groups[string(group, _GROUP_NAME)] = number(group, _GROUP_ID, U32)
    return Family(number(message.attributes, _CTRL_ATTR_FAMILY_ID, U16), groups)
