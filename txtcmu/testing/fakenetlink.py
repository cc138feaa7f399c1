"""Generic netlink without a kernel: sockets behind which a small TCM-USER sits.

:class:`FakeTCMUser` is the kernel, its :attr:`~FakeTCMUser.factory` goes where
:class:`~txtcmu.kernel.netlink.NetlinkListener` wants to open sockets.  It multicasts what a test announces, and keeps
who waits for which answer::

    kernel = FakeTCMUser()
    listener = NetlinkListener(reactor, consumer, kernel.factory)
    listener.start()
    kernel.waiting[7] = Command.ADDED_DEVICE_DONE
    kernel.announce(Command.ADDED_DEVICE, 7, {})
    ...                                        # let the reactor turn
    kernel.answers                             # [(4, 7, 0)]: DONE, device id, status
"""

from __future__ import annotations

import errno
import os
import socket
from struct import pack
from typing import Final, cast

from txtcmu.kernel import genl
from txtcmu.kernel.genl import GenericMessage, Message
from txtcmu.kernel.netlink import SocketFactory

__all__ = ["FAMILY_ID", "GROUP_ID", "FakeSocket", "FakeTCMUser"]

#: The number that TCM-USER has here, and that of its multicast group; a real kernel chooses others each time.
FAMILY_ID: Final = 28
GROUP_ID: Final = 5

#: Port and groups of a datagram's sender; port 0 is the kernel.
Sender = tuple[int, int]

_ADD_MEMBERSHIP: Final = (270, 1)


class FakeSocket:
    """One netlink socket: what it is asked is answered at once, what is put into it is received.

    :ivar incoming: datagrams and their senders, or what receiving raises, oldest first; see :meth:`put`.
    :ivar options: level and name of each socket option set, to its value.
    :ivar closed: whether it was closed.
    """

    def __init__(self, kernel: FakeTCMUser) -> None:
        self.kernel = kernel
        self.incoming: list[tuple[bytes, Sender] | OSError] = []
        self.options: dict[tuple[int, int], int] = {}
        self.closed = False
        # Something that a reactor can poll.
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def settimeout(self, seconds: float) -> None:
        """Do nothing: what is there is there."""

    def setblocking(self, blocking: bool) -> None:
        """Do nothing: it never blocks."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Remember the option.  :raise OSError: the kernel's ``option_error``."""
        if self.kernel.option_error:
            raise OSError(self.kernel.option_error, os.strerror(self.kernel.option_error))
        self.options[level, option] = value

    def fileno(self) -> int:
        """Return a descriptor that is readable while there is something to receive."""
        return self._ours.fileno()

    def close(self) -> None:
        """Leave the group, and receive nothing more."""
        self.closed = True
        self._ours.close()
        self._theirs.close()

    def put(self, datagram: bytes | OSError, sender: Sender = (0, 0)) -> None:
        """Have something arrive, or an error be received (``ENOBUFS``: events were lost)."""
        self.incoming.append(datagram if isinstance(datagram, OSError) else (datagram, sender))
        self._theirs.send(b".")

    def recvfrom(self, limit: int) -> tuple[bytes, Sender]:
        """Return the oldest datagram.  :raise BlockingIOError: there is none."""
        if not self.incoming:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        self._ours.recv(1)
        first = self.incoming.pop(0)
        if isinstance(first, OSError):
            raise first
        return first

    def send(self, datagram: bytes) -> int:
        """Have the kernel carry out what is asked, and answer, before this returns."""
        for message in genl.parse_datagram(datagram):
            self.kernel.asked(self, message)
        return len(datagram)


class FakeTCMUser:
    """What the kernel keeps of TCM-USER: who waits, and the features.

    As in the real one the first answer for a device wins, whoever sends it, and one of the wrong kind fails with
    EINVAL although nobody waits any more.

    :ivar sockets: all that were opened, oldest first.
    :ivar waiting: device id to the kind of DONE that it waits for; a test puts it in, an answer takes it out.
    :ivar answers: command, device id and status of each answer received.
    :ivar features: what SET_FEATURES said last: whether there shall be waiting.
    :ivar loaded: whether there is a family TCM-USER; false is a kernel without the module.
    :ivar error: the errno with which every request fails, 0 for none.
    :ivar option_error: the errno with which setting an option fails, 0 for none.
    :ivar stray: datagrams that arrive before the answer to each request.
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
        """Make a socket."""
        self.sockets.append(FakeSocket(self))
        return self.sockets[-1]

    @property
    def factory(self) -> SocketFactory:
        """What opens sockets, for :class:`~txtcmu.kernel.netlink.NetlinkListener`."""
        return cast(SocketFactory, self.open_socket)

    @property
    def members(self) -> list[FakeSocket]:
        """The sockets in the multicast group."""
        return [each for each in self.sockets if each.options.get(_ADD_MEMBERSHIP) == GROUP_ID and not each.closed]

    def announce(self, command: int, device_id: int, attributes: dict[int, bytes], family: int = FAMILY_ID) -> None:
        """Multicast an event to the members of the group.

        :param command: its kind, see :class:`~txtcmu.kernel.tcm_user.Command`.
        :param attributes: number to encoded value, beside DEVICE, MINOR (4) and DEVICE_ID or in their place.
        :param family: of the message; another than :data:`FAMILY_ID` is somebody else's.
        """
        given = {1: b"tcm-user/0/vol0/test/vol0\0", 2: pack("=I", 4), 8: pack("=I", device_id), **attributes}
        for member in self.members:
            member.put(Message(family, 0, 0, 0, GenericMessage(command, 2, given).encode()).encode())

    def asked(self, source: FakeSocket, message: Message) -> None:
        """Carry out one request, and answer it."""
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
