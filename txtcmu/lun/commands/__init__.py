"""SCSI commands: of a disk on a backstore, and of a disk whose backstore is away."""

from txtcmu.lun.commands.base import UNREAD, changes_medium
from txtcmu.lun.commands.block import BlockCommands
from txtcmu.lun.commands.notready import NotReadyCommands

__all__ = ["UNREAD", "BlockCommands", "NotReadyCommands", "changes_medium"]
