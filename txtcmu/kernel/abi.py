"""Every number of the TCMU shared-memory ABI (include/uapi/linux/target_core_user.h), version 2, 64-bit.

Ring fields are in native byte order; offsets were taken with ``offsetof`` on x86-64.  Offsets inside the map are
relative to its start (``cdb_off``, iovec bases), offsets inside the ring to ``cmdr_off`` (head, tail).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAILBOX_VERSION: Final = 2

# Mailbox: version u16, flags u16, cmdr_off u32, cmdr_size u32; then two words on cache lines of their own.
MAILBOX: Final = Struct("=HHII")
MAILBOX_SIZE: Final = 128
CMD_HEAD_WORD: Final = 3  # u32 index: byte 12, written by the kernel
CMD_TAIL_WORD: Final = 16  # u32 index: byte 64, written by us

FLAG_OUT_OF_ORDER: Final = 1 << 0  # TCMU_MAILBOX_FLAG_CAP_OOOC
FLAG_READ_LEN: Final = 1 << 1
FLAG_TMR: Final = 1 << 2
FLAG_KEEP_BUF: Final = 1 << 3

# Entry header: len_op u32, cmd_id u16, kflags u8, uflags u8.
HEADER: Final = Struct("=IHBB")
ALIGNMENT: Final = 8
OP_MASK: Final = 0x7
OP_PAD: Final = 0
OP_CMD: Final = 1
OP_TMR: Final = 2

UFLAGS_OFFSET: Final = 7
UFLAG_UNKNOWN_OP: Final = 0x1
UFLAG_READ_LEN: Final = 0x2
UFLAG_KEEP_BUF: Final = 0x4

# CMD request: header, iov_cnt u32, iov_bidi_cnt u32, iov_dif_cnt u32, hole, cdb_off u64, pad u64 x 2, then the
# iovecs.  One Struct for the whole entry, with room for the first iovec, spares the hot path a second unpack.
REQUEST: Final = Struct("=IHBBIII4xQ16xQQ")
IOVEC: Final = Struct("=QQ")
IOVECS_OFFSET: Final = 48
ENTRY_SIZE: Final = 112  # sizeof(struct tcmu_cmd_entry): holds four iovecs; the CDB follows the entry

# CMD response, laid over the request: cmd_id u16 in the header (kflags behind it stay the kernel's), then from
# uflags on: uflags u8, scsi_status u8, pad, read_len u32.  The sense buffer follows.
CMD_ID: Final = Struct("=H")
CMD_ID_OFFSET: Final = 4
RESPONSE: Final = Struct("=BB3xI")
RESPONSE_OFFSET: Final = 7
SENSE_OFFSET: Final = 16
SENSE_SIZE: Final = 96

# TMR entry: header, tmr_type u8, pad, cmd_cnt u32, pad; then cmd_cnt ids of 16 bits.
TMR: Final = Struct("=IHBBB3xI16x")
TMR_IDS_OFFSET: Final = 32

TMR_TYPES: Final = {
    0: "UNKNOWN",
    1: "ABORT TASK",
    2: "ABORT TASK SET",
    3: "CLEAR ACA",
    4: "CLEAR TASK SET",
    5: "LUN RESET",
    6: "TARGET WARM RESET",
    7: "TARGET COLD RESET",
    128: "LUN RESET (PREEMPT AND ABORT)",
}

MAX_CDB: Final = 260  # variable-length CDB 7Fh: 8 + ADDITIONAL CDB LENGTH, at most 255 rounded down to 4


_LENGTH_BY_GROUP: Final = (6, 10, 10, 12, 16, 12, 10, 10)

#: Operation code to how many CDB bytes the kernel copies, by group code; 0 for 7Fh, where it is 8 + ``cdb[7]``.
CDB_LENGTHS: Final = bytes(0 if code == 0x7F else _LENGTH_BY_GROUP[code >> 5] for code in range(256))


def cdb_length(opcode: int, additional: int) -> int:
    """Return how many CDB bytes the kernel copies; ``additional`` is ``cdb[7]``."""
    return CDB_LENGTHS[opcode] or 8 + additional
