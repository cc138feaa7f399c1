"""Pure SCSI: CDB and parameter codecs, sense data, VPD and mode pages, and the table of commands.

Nothing here knows of the reactor, of the ring or of a backstore: bytes and a
:class:`~txtcmu.scsi.unit.LogicalUnit` go in, bytes, plain values or a
:class:`~txtcmu.errors.CheckCondition` come out.  The way through it:

1. :func:`~txtcmu.scsi.opcodes.find` turns a CDB into its row of the table, or refuses it.
2. :data:`~txtcmu.scsi.replies.REPLIES` answers the commands that need no backstore;
   :mod:`~txtcmu.scsi.cdb`, :mod:`~txtcmu.scsi.compare`, :mod:`~txtcmu.scsi.writesame`, :mod:`~txtcmu.scsi.unmap`,
   :mod:`~txtcmu.scsi.lba_status` and :mod:`~txtcmu.scsi.mode_select` decode and check those that need one.
3. :func:`~txtcmu.scsi.sense.sense_of` turns whatever went wrong into a status and sense data.
"""
