"""Who may import whom: the rooms of the house, from the top down (docs of the design, "the house")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parent.parent / "txtcmu"

#: Floors from the top; a room sees the floors below its own.  ``testing`` sees all and is seen by none.
FLOORS = (
    {"cli"},
    {"tap"},
    {"control"},
    {"service", "handover"},
    {"registry", "config", "iopath"},
    {"plugins"},
    {"backstores", "layers"},
    {"lun"},
    {"volume"},
    {"objectstore"},
    {"kernel", "scsi"},
    {"results", "threads", "iovec", "factory"},
    {"interfaces"},
    {"devconfig"},
    {"errors"},
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str | None:
    """Return the room of a module of txtcmu, ``None`` for any other and for the package itself."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if package == "txtcmu" else None


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """Return the dotted name of a source file."""
    parts = ["txtcmu", *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Yield every module that ``source`` imports, wherever in it; a name imported from a package counts as one."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def problems(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return what ``source`` may not import."""
    room = room_of(module)
    if room is None or room == "testing":
        return []
    if room not in FLOOR:
        return [f"{module}: the room {room} is on no floor"]
    found = []
    for imported in imports(source, module, is_package):
        other = room_of(imported)
        if other is not None and other != room and FLOOR.get(other, -1) <= FLOOR[room]:
            found.append(f"{module} imports {imported}")
    return found


def module_level_reactors(source: str) -> list[int]:
    """Return the lines on which importing ``source`` would install a reactor."""
    tree = ast.parse(source)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {node for function in ast.walk(tree) if isinstance(function, functions) for node in ast.walk(function)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if node not in inside
        and (
            (
                isinstance(node, ast.ImportFrom)
                and node.module == "twisted.internet"
                and any(alias.name == "reactor" for alias in node.names)
            )
            or (
                isinstance(node, ast.Import)
                and any(alias.name.startswith("twisted.internet.reactor") for alias in node.names)
            )
        )
    ]


class LayerTests(SynchronousTestCase):
    def test_house(self) -> None:
        """A room imports only from rooms below it; kernel and scsi never each other; nobody imports testing."""
        found = []
        for path in sorted(PACKAGE.rglob("*.py")):
            found += problems(path.read_text(), module_of(path), path.name == "__init__.py")
        self.assertEqual(found, [])

    def test_no_reactor_at_import(self) -> None:
        """Importing a module of txtcmu never installs a reactor: `twist --reactor` has the choice."""
        for path in sorted(PACKAGE.rglob("*.py")):
            self.assertEqual(module_level_reactors(path.read_text()), [], str(path))

    def test_violations_are_found(self) -> None:
        """Imports from above or beside are found in every form, inside functions and type checks, too."""
        for module, source in (
            ("txtcmu.kernel.ring", "from txtcmu.scsi.sense import Sense"),
            ("txtcmu.scsi.sense", "from ..kernel import abi"),
            ("txtcmu.scsi.sense", "from .. import kernel"),
            ("txtcmu.errors", "from . import interfaces"),
            ("txtcmu.lun.device", "def f():\n    import txtcmu.service"),
            ("txtcmu.lun.device", "if TYPE_CHECKING:\n    from txtcmu.backstores.file import FileBackstore"),
            ("txtcmu.service", "from txtcmu import registry, tap"),
            ("txtcmu.service", "from txtcmu.testing.rig import Rig"),
            ("txtcmu.cli.main", "import txtcmu.testing.fakekernel as fake"),
            ("txtcmu.attic.old", ""),
        ):
            self.assertEqual(len(problems(source, module)), 1, f"{module}: {source}")
        self.assertEqual(len(problems("from ...backstores import file", "txtcmu.lun.commands", is_package=True)), 1)

    def test_allowed(self) -> None:
        """Imports from below, from the own room, and of others' packages are not."""
        source = "import twisted.python\nfrom txtcmu.kernel import abi\nfrom .tasks import Task\nimport txtcmu.errors"
        self.assertEqual(problems(source, "txtcmu.lun.device"), [])
        self.assertEqual(problems("from txtcmu.service import TcmuService", "txtcmu.testing.rig"), [])

    def test_reactors_are_found(self) -> None:
        """A reactor imported by the module, a class or a branch of it is found; one in a function is allowed."""
        imported = "from twisted.internet import reactor\n"
        for source in (
            imported,
            "import twisted.internet.reactor",
            f"class A:\n    {imported}",
            f"if x:\n    {imported}",
        ):
            self.assertEqual(len(module_level_reactors(source)), 1, source)
        self.assertEqual(module_level_reactors(f"def f():\n    {imported}"), [])
        self.assertEqual(module_level_reactors("from twisted.internet import defer"), [])
