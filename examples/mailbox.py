"""Raw SCSI: a processor device (SPC-2, type 03h) that hands messages from one initiator to another.

SEND leaves a message, RECEIVE waits for one.  On Linux, sg_raw speaks to it:

    sg_raw -s 5 -i message /dev/sgX 0a 00 00 00 05 00
    sg_raw -r 4096 -o message /dev/sgX 08 00 00 10 00 00
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue, QueueOverflow
from zope.interface import implementer

from txtcmu.devconfig import DeviceParameters
from txtcmu.errors import BusyError, CheckCondition
from txtcmu.factory import Factory
from txtcmu.interfaces import ICommandHandler
from txtcmu.iovec import gather, scatter

ILLEGAL_REQUEST = 0x05
INVALID_OPERATION_CODE, INVALID_FIELD_IN_CDB = (0x20, 0x00), (0x24, 0x00)

PROCESSOR, SPC_2, RESPONSE_DATA_FORMAT = 0x03, 0x04, 0x02
STANDARD_DATA = bytes([PROCESSOR, 0, SPC_2, RESPONSE_DATA_FORMAT, 31, 0, 0, 0]) + b"txtcmu  mailbox         0001"


@implementer(ICommandHandler)
class Mailbox:
    def __init__(self, parameters: DeviceParameters) -> None:
        self._messages: DeferredQueue[bytes] = DeferredQueue(size=64)
        self._methods = {
            0x00: self._test_unit_ready,
            0x03: self._request_sense,
            0x08: self._receive,
            0x0A: self._send,
            0x12: self._inquiry,
        }

    def handle(self, command: Any) -> Deferred[None] | None:
        method = self._methods.get(command.cdb[0])
        if method is None:
            raise CheckCondition(ILLEGAL_REQUEST, *INVALID_OPERATION_CODE, field=0)
        return method(command)

    def close(self) -> None: ...

    def _test_unit_ready(self, command: Any) -> None:
        scatter(b"", command.buffers)

    def _inquiry(self, command: Any) -> None:
        if command.cdb[1] & 1:  # EVPD: there are no pages
            raise CheckCondition(ILLEGAL_REQUEST, *INVALID_FIELD_IN_CDB, field=1, field_bit=0)
        allocation_length = int.from_bytes(command.cdb[3:5], "big")
        scatter(STANDARD_DATA[:allocation_length], command.buffers)

    def _request_sense(self, command: Any) -> None:
        no_sense = bytes([0x70, 0, 0, 0, 0, 0, 0, 10]).ljust(18, b"\0")
        scatter(no_sense[: command.cdb[4]], command.buffers)

    def _send(self, command: Any) -> None:
        length = int.from_bytes(command.cdb[2:5], "big")
        if length > command.length:
            raise CheckCondition(ILLEGAL_REQUEST, *INVALID_FIELD_IN_CDB, field=2)
        message = bytes(gather(command.buffers)[:length])  # a copy: the buffer is ours until we return
        try:
            self._messages.put(message)
        except QueueOverflow:
            raise BusyError("the mailbox is full") from None

    def _receive(self, command: Any) -> Deferred[None]:
        # The buffer is ours until the Deferred fires.  Cancelled, the queue forgets about it, and no message is lost.
        length = int.from_bytes(command.cdb[2:5], "big")
        return self._messages.get().addCallback(lambda message: scatter(message[:length], command.buffers))


mailbox = Factory(name="mailbox", summary="a SCSI processor that passes messages on", opener=Mailbox)
