"""``make demo``: an S3-backed SCSI disk with a file system on it, which survives the death of its daemon."""
