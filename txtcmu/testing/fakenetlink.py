"""Sockets behind which a small TCM-USER sits."""

from __future__ import annotations

import errno
import os
import socket
from struct import pack
from typing import cast

from txtcmu.kernel import genl
from txtcmu.kernel.genl import GenericMessage, Message
from txtcmu.kernel.netlink import SocketFactory

FAMILY_ID = 28
GROUP_ID = 5
Sender = tuple[int, int]


class FakeSocket:
    """One netlink socket: what it is asked is answered at once, what is put into :attr:`incoming` is received."""

    def __init__(self, kernel: FakeTCMUser) -> None:
        self.kernel = kernel
        self.incoming: list[tuple[bytes, Sender] | OSError] = []
        self.options: dict[tuple[int, int], int] = {}
        self.closed = False
        # Something that a reactor can poll.
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def settimeout(self, seconds: float) -> None:
        pass

    def setblocking(self, blocking: bool) -> None:
        pass

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self.kernel.option_error:
            raise OSError(self.kernel.option_error, os.strerror(self.kernel.option_error))
        self.options[level, option] = value

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        self.closed = True
        self._ours.close()
        self._theirs.close()

    def put(self, datagram: bytes | OSError, sender: Sender = (0, 0)) -> None:
        """Have something arrive."""
        self.incoming.append(datagram if isinstance(datagram, OSError) else (datagram, sender))
        self._theirs.send(b".")

    def recvfrom(self, limit: int) -> tuple[bytes, Sender]:
        if not self.incoming:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        self._ours.recv(1)
        first = self.incoming.pop(0)
        if isinstance(first, OSError):
            raise first
        return first

    def send(self, datagram: bytes) -> int:
        for message in genl.parse_datagram(datagram):
            self.kernel.asked(self, message)
        return len(datagram)


class FakeTCMUser:
    """What the kernel keeps of TCM-USER: who waits, and the features.

    :ivar waiting: device id to the kind of DONE that it waits for.
    :ivar error: the errno with which every request fails, 0 for none.
    """

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.waiting: dict[int, int] = {}
        self.answers: list[tuple[int, int, int]] = []
        self.features: int | None = None
        self.loaded = True
        self.error = 0
        self.option_error = 0
        self.stray: list[bytes] = []

    def open_socket(self) -> FakeSocket:
        self.sockets.append(FakeSocket(self))
        return self.sockets[-1]

    @property
    def factory(self) -> SocketFactory:
        return cast(SocketFactory, self.open_socket)

    @property
    def members(self) -> list[FakeSocket]:
        """The sockets in the multicast group."""
        return [each for each in self.sockets if each.options.get((270, 1)) == GROUP_ID and not each.closed]

    def announce(self, command: int, device_id: int, attributes: dict[int, bytes], family: int = FAMILY_ID) -> None:
        """Multicast an event."""
        given = {1: b"tcm-user/0/vol0/test/vol0\0", 2: pack("=I", 4), 8: pack("=I", device_id), **attributes}
        for member in self.members:
            member.put(Message(family, 0, 0, 0, GenericMessage(command, 2, given).encode()).encode())

    def asked(self, source: FakeSocket, message: Message) -> None:
        for stray in self.stray:
            source.put(stray)
        request = GenericMessage.parse(message.payload)
        error = self.error
        if message.type == genl.CONTROL_FAMILY and not error:
            if not self.loaded:
                error = errno.ENOENT
            else:
                group = genl.encode_attributes({1: b"config\0", 2: pack("=I", GROUP_ID)})
                described = {1: pack("=H", FAMILY_ID), 7: genl.encode_attributes({1: group})}
                answer = GenericMessage(1, 2, described).encode()
                source.put(Message(genl.CONTROL_FAMILY, 0, message.sequence, 9, answer).encode())
        elif message.type == FAMILY_ID and not error:
            error = self._commanded(request)
        acknowledgement = pack("=i", -error) + message.encode()[:16]
        source.put(Message(genl.NLMSG_ERROR, 0, message.sequence, 9, acknowledgement).encode())

    def _commanded(self, request: GenericMessage) -> int:
        if request.command == 7:
            self.features = genl.number(request.attributes, 9, genl.U8)
            return 0
        device_id = genl.number(request.attributes, 8, genl.U32)
        status = genl.number(request.attributes, 7, genl.S32)
        self.answers.append((request.command, device_id, status))
        if device_id not in self.waiting:
            return errno.ENODEV
        return 0 if self.waiting.pop(device_id) == request.command else errno.EINVAL
