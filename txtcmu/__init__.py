"""txtcmu: Python objects as SCSI disks, through Linux's TCMU, on Twisted."""
