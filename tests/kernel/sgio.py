"""One SCSI command through the SG_IO ioctl (include/scsi/sg.h), with a timeout of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import NamedTuple

_SG_IO = 0x2285
_TO_DEVICE = -2
_FROM_DEVICE = -3
_NONE = -1


class _Header(ctypes.Structure):
    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class Outcome(NamedTuple):
    """How a command ended: SAM status, the host adapter's status (0 = it did arrive), sense data, Data-In, residual."""

    status: int
    host_status: int
    sense: bytes
    data: bytes
    residual: int


def sg_io(path: str, cdb: bytes, data_in_length: int = 0, timeout: float = 60.0, data_out: bytes = b"") -> Outcome:
    """Send ``cdb`` to a disk; the kernel aborts the command after ``timeout`` seconds."""
    data = ctypes.create_string_buffer(data_out, max(1, data_in_length, len(data_out)))
    sense = ctypes.create_string_buffer(64)
    command = ctypes.create_string_buffer(cdb, len(cdb))
    header = _Header(
        interface_id=ord("S"),
        dxfer_direction=_TO_DEVICE if data_out else _FROM_DEVICE if data_in_length else _NONE,
        cmd_len=len(cdb),
        mx_sb_len=len(sense),
        dxfer_len=len(data_out) or data_in_length,
        dxferp=ctypes.addressof(data),
        cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense),
        timeout=int(timeout * 1000),
    )
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _SG_IO, header)
    finally:
        os.close(descriptor)
    return Outcome(
        header.status, header.host_status, sense.raw[: header.sb_len_wr], data.raw[:data_in_length], header.resid
    )
