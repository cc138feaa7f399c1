"""Fakes that txtcmu tests itself with, shipped for the tests of those who write backstores.

- :class:`~txtcmu.testing.contract.BackstoreContract`: what every backstore must do, as tests that yours inherit.
- :class:`~txtcmu.testing.rig.Rig`: your backstore under the real ring and the real SCSI commands, on a fake kernel, and
  :class:`~txtcmu.testing.initiator.FakeInitiator`, who sends the commands.
- :class:`~txtcmu.testing.fakekernel.FakeKernel`: one TCMU device that believes nothing, for whatever else uses a ring.
- :class:`~txtcmu.testing.fakes3.FakeS3`: an S3 server in memory that verifies signatures and fails as told.

Nothing here needs root or a kernel with TCMU, and nothing else of txtcmu imports it.
"""
