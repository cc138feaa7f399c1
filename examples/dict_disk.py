"""A disk in a dict.  Copied into txtcmu/plugins/, it is served by `twist tcmu --handler dict`."""

from zope.interface import implementer

from txtcmu import devconfig, factory, interfaces


@implementer(interfaces.IBackstore)
class DictDisk:
    read_only, physical_block_size = False, 512

    def __init__(self, parameters: devconfig.DeviceParameters) -> None:
        self.size, self.sectors = parameters.size, dict[int, bytes]()

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self.sectors.get(at, bytes(512)) for at in range(offset, offset + length, 512))

    def write(self, offset: int, data: memoryview) -> None:
        self.sectors |= {offset + at: bytes(data[at : at + 512]) for at in range(0, len(data), 512)}

    def flush(self) -> None: ...
    def close(self) -> None: ...


dictionary = factory.Factory(name="dict", summary="a disk in a dict, gone with the daemon", opener=DictDisk)
