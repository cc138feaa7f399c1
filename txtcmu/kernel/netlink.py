"""The transport of ``TCM-USER`` events and replies; which devices to answer for is the consumer's decision.

Two sockets.  Events come on one, in the multicast group, through the reactor.  Requests have one of their own:
the kernel handles a request before ``send`` returns, so its acknowledgement is always there to be read, even
while a flood of events has filled the other socket's buffer.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txtcmu.errors import KernelError
from txtcmu.kernel import genl, tcm_user
from txtcmu.kernel.genl import GenericMessage, Message, MessageError
from txtcmu.kernel.tcm_user import Command, DeviceEvent

__all__ = ["NetlinkConsumer", "NetlinkListener", "RequestSocket", "SocketFactory", "open_socket", "resolve"]

SocketFactory = Callable[[], socket.socket]

_NETLINK_GENERIC = 16
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_BROADCAST_ERROR = 4
_SO_RCVBUFFORCE = 33

# An event takes about 1 KiB of buffer, headers of the kernel included: thousands of devices created in one go.
_RECEIVE_BUFFER = 8 << 20
_LARGEST_DATAGRAM = 1 << 16
_DATAGRAMS_PER_TURN = 64
# Never waited for: the answer is there when send returns.  It only keeps a broken fake from hanging a test.
_ANSWER_TIMEOUT = 5.0


class NetlinkConsumer(Protocol):
    """Who hears of the kernel's devices.  Called in the reactor's thread; must not block, nor touch configfs.

    While replies are on, every event that a consumer owns must be answered through the listener, or the process
    that wrote to configfs hangs.  An event of a device that it does not own must not be answered at all.
    """

    def device_added(self, event: DeviceEvent) -> None:
        """Hear of a device that is being enabled."""

    def device_removed(self, event: DeviceEvent) -> None:
        """Hear of a device that goes; nothing may look at its configfs directory before the reply."""

    def device_reconfigured(self, event: DeviceEvent) -> None:
        """Hear of a new dev_config, size or write cache, of which the event names exactly one."""

    def events_lost(self) -> None:
        """Hear that events may have been dropped: scan the UIO devices."""

    def netlink_lost(self, error: BaseException) -> None:
        """Hear that the socket broke; no more events come."""


def open_socket() -> socket.socket:
    """Return a new generic netlink socket, bound, with a port id of the kernel's choice."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    made.bind((0, 0))
    return made


def _from_kernel(sender: Any) -> bool:
    """Tell whether the kernel itself sent a datagram: any root process could send one too."""
    return bool(sender[0] == 0)


class RequestSocket:
    """A generic netlink socket for requests; each call returns when the kernel has carried the request out."""

    def __init__(self, make_socket: SocketFactory = open_socket) -> None:
        self._socket = make_socket()
        self._socket.settimeout(_ANSWER_TIMEOUT)
        self._sequence = 0

    def ask(self, family_id: int, request: GenericMessage) -> list[GenericMessage]:
        """Send a request and return the messages that came before its acknowledgement.

        :raise OSError: the kernel refused it, with its errno.
        """
        self._sequence += 1
        flags = genl.NLM_F_REQUEST | genl.NLM_F_ACK
        self._socket.send(Message(family_id, flags, self._sequence, 0, request.encode()).encode())
        answers = []
        while True:
            datagram, sender = self._socket.recvfrom(_LARGEST_DATAGRAM)
            if not _from_kernel(sender):
                continue
            for message in genl.parse_datagram(datagram):
                if message.sequence != self._sequence:
                    continue
                if message.type != genl.NLMSG_ERROR:
                    answers.append(GenericMessage.parse(message.payload))
                    continue
                error = genl.error_of(message)
                if error:
                    raise OSError(error, os.strerror(error))
                return answers

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def resolve(requests: RequestSocket) -> genl.Family:
    """Return the family ``TCM-USER`` as this kernel numbers it.

    :raise KernelError: it has none.
    """
    try:
        answers = requests.ask(genl.CONTROL_FAMILY, genl.family_request(tcm_user.FAMILY))
        family = genl.parse_family(answers[0])
        family.groups[tcm_user.GROUP]
    except FileNotFoundError:
        raise KernelError("the kernel has no TCM-USER: load it with `modprobe target_core_user`") from None
    except OSError as error:
        raise _refusal(error) from error
    except (MessageError, LookupError) as error:
        raise KernelError(f"the kernel described TCM-USER in a way unknown to txtcmu ({error}): report this") from error
    return family


def _refusal(error: OSError) -> KernelError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return KernelError("netlink: permission denied: run as root, or with CAP_NET_ADMIN")
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return KernelError("the kernel has no generic netlink: TCMU needs it, boot a distribution's kernel")
    return KernelError(f"netlink: {error.strerror or error}")


@implementer(IReadDescriptor)
class NetlinkListener:
    """Hears of devices, and answers.

    :meth:`start` and :meth:`stop` are synchronous, so that a service's ``startService`` can leave by one line.

    :ivar connected: whether events can come.
    """

    _log = Logger()

    def __init__(self, reactor: Any, consumer: NetlinkConsumer, make_socket: SocketFactory = open_socket) -> None:
        self._reactor = reactor
        self._consumer = consumer
        self._make_socket = make_socket
        self._socket: socket.socket | None = None
        self._requests: RequestSocket | None = None
        self._family = 0

    @property
    def connected(self) -> bool:
        """Whether events can come."""
        return self._socket is not None

    def start(self) -> None:
        """Join the group and begin to hear.  A scan made after this misses no device.

        :raise KernelError: the module is not loaded, or the process may not.
        """
        try:
            self._requests = RequestSocket(self._make_socket)
            family = resolve(self._requests)
            self._family = family.id
            self._socket = listening = self._make_socket()
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            # The kernel then fails a configfs operation whose event we cannot take, instead of waiting for us forever.
            listening.setsockopt(_SOL_NETLINK, _BROADCAST_ERROR, 1)
            listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, family.groups[tcm_user.GROUP])
        except OSError as error:
            self._close()
            raise _refusal(error) from error
        except KernelError:
            self._close()
            raise
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Hear and send no more; harmless when it never started."""
        if self._socket is not None:
            self._reactor.removeReader(self)
        self._close()

    def _close(self) -> None:
        for open_one in (self._socket, self._requests):
            if open_one is not None:
                open_one.close()
        self._socket = self._requests = None

    def added_done(self, device_id: int, status: int) -> Deferred[bool]:
        """Let the ``enable`` of a device end: with success (0), or failing with ``-status``.

        :param status: 0 or a negative errno.
        :return: Deferred of whether somebody was waiting.  No waiter is harmless: another daemon was first, or
            replies are off.
        """
        return self._reply(tcm_user.done(Command.ADDED_DEVICE, device_id, status))

    def removed_done(self, device_id: int, status: int = 0) -> Deferred[bool]:
        """Let the ``rmdir`` of a device go on; see :meth:`added_done`.  The kernel ignores ``status``."""
        return self._reply(tcm_user.done(Command.REMOVED_DEVICE, device_id, status))

    def reconfig_done(self, device_id: int, status: int) -> Deferred[bool]:
        """Let the write of an attribute end; see :meth:`added_done`.  A failure leaves the old value."""
        return self._reply(tcm_user.done(Command.RECONFIG_DEVICE, device_id, status))

    def set_features(self, replies: bool = True) -> Deferred[None]:
        """Tell the kernel whether devices enabled from now on wait for replies.  Outlives this process."""
        return maybeDeferred(self._request, tcm_user.set_features(replies)).addCallback(lambda _: None)

    def _reply(self, reply: GenericMessage) -> Deferred[bool]:
        return maybeDeferred(self._request, reply)

    def _request(self, request: GenericMessage) -> bool:
        if self._requests is None:
            raise KernelError("netlink: not connected")
        try:
            self._requests.ask(self._family, request)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise _refusal(error) from error
        except MessageError as error:
            raise KernelError(f"netlink: {error}") from error
        return True

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "tcmu netlink"

    def doRead(self) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        for _ in range(_DATAGRAMS_PER_TURN):
            if self._socket is None:  # a consumer stopped us
                return
            try:
                datagram, sender = self._socket.recvfrom(_LARGEST_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._reactor.removeReader(self)
                    self._lost(error)
                    return
                self._tell(self._consumer.events_lost)
                continue
            if _from_kernel(sender):
                self._received(datagram)

    def _received(self, datagram: bytes) -> None:
        try:
            messages = genl.parse_datagram(datagram)
            events = [
                tcm_user.parse_event(GenericMessage.parse(message.payload))
                for message in messages
                if message.type == self._family
            ]
        except MessageError as error:
            self._log.error("TCM-USER message not understood, scanning instead: {error}", error=str(error))
            self._tell(self._consumer.events_lost)
            return
        for event in events:
            if event.command is Command.ADDED_DEVICE:
                self._tell(self._consumer.device_added, event)
            elif event.command is Command.REMOVED_DEVICE:
                self._tell(self._consumer.device_removed, event)
            else:
                self._tell(self._consumer.device_reconfigured, event)

    def _tell(self, method: Callable[..., object], *args: object) -> None:
        # An exception out of doRead would take away every other device's events too.
        try:
            method(*args)
        except Exception:
            self._log.failure("consumer of TCM-USER events failed")

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        self._lost(reason.value or OSError("the reactor dropped the socket"))

    def _lost(self, error: BaseException) -> None:
        if self.connected:
            self._close()
            self._tell(self._consumer.netlink_lost, error)
