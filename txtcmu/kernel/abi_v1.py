"""Where version 1 of the TCMU ABI (Linux 3.18 to 4.0) differs from :mod:`txtcmu.kernel.abi`.

The mailbox, the iovecs and the sizes of an entry and of its sense data are the same.  There are no flags, no kflags
and no uflags, no operations but PAD and CMD, and cmd_ids begin at 0.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAILBOX_VERSION: Final = 1

#: The kernel's CMDR_SIZE, mailbox included, and DATA_SIZE: nobody can change them.
RING_END: Final = 64 << 10
DATA_SIZE: Final = 257 * 4096

# CMD request: len_op u32, cmd_id u16, pad u16, cdb_off u64, iov_cnt u64; then the iovecs.
REQUEST: Final = Struct("=IH2xQQ")
IOVECS_OFFSET: Final = 24

# CMD response, laid over the request behind cmd_id; the sense buffer is where it is in version 2.
STATUS_OFFSET: Final = 8
