"""A logical unit on its ring: the device's life, its outstanding tasks, and SCSI commands on a backstore."""
