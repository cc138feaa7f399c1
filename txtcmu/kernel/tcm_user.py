"""The messages of the generic netlink family ``TCM-USER`` (``linux/target_core_user.h``)."""

from __future__ import annotations

from enum import IntEnum

from attrs import frozen

from txtcmu.kernel.genl import S32, U8, U32, U64, GenericMessage, MessageError, number, string

__all__ = ["FAMILY", "GROUP", "VERSION", "Attribute", "Command", "DeviceEvent", "done", "parse_event", "set_features"]

FAMILY = "TCM-USER"
GROUP = "config"
VERSION = 2


class Command(IntEnum):
    """``enum tcmu_genl_cmd``: three events, their three replies, one setting."""

    ADDED_DEVICE = 1
    REMOVED_DEVICE = 2
    RECONFIG_DEVICE = 3
    ADDED_DEVICE_DONE = 4
    REMOVED_DEVICE_DONE = 5
    RECONFIG_DEVICE_DONE = 6
    SET_FEATURES = 7


class Attribute(IntEnum):
    """``enum tcmu_genl_attr``."""

    DEVICE = 1
    MINOR = 2
    PAD = 3
    DEV_CFG = 4
    DEV_SIZE = 5
    WRITECACHE = 6
    CMD_STATUS = 7
    DEVICE_ID = 8
    SUPP_KERN_CMD_REPLY = 9


_EVENTS = (Command.ADDED_DEVICE, Command.REMOVED_DEVICE, Command.RECONFIG_DEVICE)


@frozen
class DeviceEvent:
    """What the kernel says of one device.

    :ivar command: ``ADDED_DEVICE``, ``REMOVED_DEVICE`` or ``RECONFIG_DEVICE``.
    :ivar name: the UIO device's name (:func:`txtcmu.kernel.sysfs.parse_name`); on a change of dev_config still
        the old one.
    :ivar minor: N of ``/dev/uioN``.
    :ivar device_id: what a reply names; equals ``statistics/scsi_dev/indx`` in configfs.
    :ivar dev_config: the new dev_config, in a RECONFIG that changes it.
    :ivar dev_size: the new size in bytes, in a RECONFIG that changes it.
    :ivar write_cache: the new state of the write cache, in a RECONFIG that changes it.
    """

    command: Command
    name: str
    minor: int
    device_id: int
    dev_config: str | None = None
    dev_size: int | None = None
    write_cache: bool | None = None


def parse_event(message: GenericMessage) -> DeviceEvent:
    """Return the event that ``message`` is.

    :raise MessageError: it is none.  Kernels before 4.14 send no DEVICE_ID: their events are none either, and
        only a scan finds their devices.
    """
    if message.command not in _EVENTS:
        raise MessageError(f"command {message.command} of {FAMILY} is no event")
    given = message.attributes
    return DeviceEvent(
        Command(message.command),
        string(given, Attribute.DEVICE),
        number(given, Attribute.MINOR, U32),
        number(given, Attribute.DEVICE_ID, U32),
        string(given, Attribute.DEV_CFG) if Attribute.DEV_CFG in given else None,
        number(given, Attribute.DEV_SIZE, U64) if Attribute.DEV_SIZE in given else None,
        bool(number(given, Attribute.WRITECACHE, U8)) if Attribute.WRITECACHE in given else None,
    )


def done(event: Command, device_id: int, status: int) -> GenericMessage:
    """Return the reply to an event of kind ``event``.

    :param status: 0 or a negative errno.  The kernel hands a positive one to the writer in configfs as if that
        many bytes had been written, so it is refused here.
    """
    if event not in _EVENTS:
        raise ValueError(f"{event!r} has no reply")
    if status > 0:
        raise ValueError(f"status {status} must be 0 or a negative errno")
    reply: dict[int, bytes] = {Attribute.DEVICE_ID: U32.pack(device_id), Attribute.CMD_STATUS: S32.pack(status)}
    return GenericMessage(Command(event + 3), VERSION, reply)


def set_features(replies: bool) -> GenericMessage:
    """Return the message that tells the kernel whether to wait for replies, from any daemon, until told otherwise."""
    return GenericMessage(Command.SET_FEATURES, VERSION, {Attribute.SUPP_KERN_CMD_REPLY: U8.pack(replies)})
