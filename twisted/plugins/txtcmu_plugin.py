"""``twist tcmu``."""

from twisted.application.service import ServiceMaker

tcmu = ServiceMaker(  # type: ignore[no-untyped-call]
    "txtcmu", "txtcmu.tap", "Serve SCSI disks to Linux's TCMU target.", "tcmu"
)
