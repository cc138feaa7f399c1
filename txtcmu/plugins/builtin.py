"""The handlers that come with txtcmu."""

from txtcmu.backstores.dir import DirFactory
from txtcmu.backstores.file import FileFactory
from txtcmu.backstores.memory import MemoryFactory
from txtcmu.backstores.s3 import S3Factory

dir = DirFactory()
memory = MemoryFactory()
file = FileFactory()
s3 = S3Factory()
