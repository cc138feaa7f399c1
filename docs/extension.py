"""A Sphinx extension: what the site says of interfaces, handlers and commands comes from the code itself.

``.. interfaces:: MODULE`` documents the zope interfaces that a module names in ``__all__``, of which autodoc sees no
method; ``.. handlers::`` the handlers that come with txtcmu; ``.. commands::`` the table of SCSI commands.

References in docstrings mean what they mean in their module, and only one to something that does not exist is an error.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from pydoc import locate
from textwrap import indent
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from zope.interface.interface import InterfaceClass, Method

from txtcmu.interfaces import IBackstoreFactory
from txtcmu.plugins import builtin
from txtcmu.scsi.opcodes import ROWS


class _Generated(SphinxDirective):
    """A directive that stands for reStructuredText."""

    def run(self) -> list[nodes.Node]:
        """Parse it in place."""
        node: Any = nodes.container()
        lines = "\n".join(self.lines()).splitlines()
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, node)
        parsed: list[nodes.Node] = node.children
        return parsed

    def lines(self) -> Iterable[str]:
        """Return the text."""
        raise NotImplementedError


class InterfacesDirective(_Generated):
    """``.. interfaces:: MODULE``."""

    required_arguments = 1

    def lines(self) -> Iterator[str]:
        """Document each interface with its attributes and methods, in the order of the source."""
        module = import_module(self.arguments[0])
        yield f".. py:module:: {module.__name__}\n"
        yield f"{inspect.getdoc(module)}\n"
        signatures = _signatures(module)
        for name in module.__all__:
            interface = getattr(module, name)
            if not isinstance(interface, InterfaceClass):
                raise self.error(f"{module.__name__}.{name} is no interface")
            yield from _interface(interface, signatures)


def _signatures(module: Any) -> dict[tuple[str, str], str]:
    """Return the parameters of each method as the source has them: zope.interface keeps no annotations."""
    return {
        (definition.name, method.name): ast.unparse(method.args)
        for definition in ast.parse(inspect.getsource(module)).body
        if isinstance(definition, ast.ClassDef)
        for method in definition.body
        if isinstance(method, ast.FunctionDef)
    }


def _interface(interface: Any, signatures: dict[tuple[str, str], str]) -> Iterator[str]:
    yield f".. py:class:: {interface.__name__}\n"
    yield indent(inspect.cleandoc(interface.__doc__), "   ") + "\n"
    for name, member in interface.namesAndDescriptions():
        if isinstance(member, Method):
            yield f"   .. py:method:: {name}({signatures[interface.__name__, name]})\n"
        else:
            yield f"   .. py:attribute:: {name}\n"
        yield indent(inspect.cleandoc(member.__doc__), "      ") + "\n"


class HandlersDirective(_Generated):
    """``.. handlers::``."""

    def lines(self) -> Iterator[str]:
        """Show what ``twist tcmu --list-handlers`` shows, and the options that a command line may not hold."""
        for factory in filter(IBackstoreFactory.providedBy, vars(builtin).values()):
            secrets: frozenset[str] = getattr(factory, "secrets", frozenset())
            yield f"``{factory.name}``: {factory.summary}\n"
            yield "   .. code-block:: text\n"
            yield indent(factory.config_help.strip(), "      ") + "\n"
            yield f"   Options: {_names(factory.options)}.\n"
            if secrets:
                yield f"   Only in the configuration file: {_names(secrets)}.\n"


def _names(options: Iterable[str]) -> str:
    return ", ".join(f"``{option}``" for option in sorted(options)) or "none"


class CommandsDirective(_Generated):
    """``.. commands::``."""

    def lines(self) -> Iterator[str]:
        """Make a table with a line for each row of :data:`txtcmu.scsi.opcodes.ROWS`."""
        yield ".. list-table::\n   :header-rows: 1\n"
        titles = ("Code", "Command", "Data", "CDB usage", "Notes")
        for cells in (titles, *map(_command, ROWS)):
            first, *others = (cell or "-" for cell in cells)
            yield f"   * - {first}"
            yield from (f"     - {cell}" for cell in others)


def _command(row: Any) -> tuple[str, ...]:
    code = f"{row.operation_code:02X}h"
    if row.service_action is not None:
        code += f"/{row.service_action:02X}h"
    notes = [
        note
        for applies, note in (
            (row.by_kernel, "answered by the kernel"),
            (row.requires, f"only with {row.requires}"),
            (row.writes, "changes the medium"),
            (row.while_not_ready, "also while not ready"),
        )
        if applies
    ]
    return code, row.name, row.direction.value, f"``{row.usage.hex(' ').upper()}``", ", ".join(notes)


def _resolve(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Resolve a name as the module that uses it would; what exists but is not on this site is no link and no error."""
    if node.get("refdomain") != "py":
        return None
    module, class_, target = node.get("py:module"), node.get("py:class"), node["reftarget"]
    for name in (f"{module}.{class_}.{target}", f"{module}.{target}", target):
        found = locate(name)
        if found is not None:
            break
    else:
        return None
    full_name = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    link = env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], full_name, node, content
    )
    return content if link is None else link


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.connect("missing-reference", _resolve)
    app.add_directive("interfaces", InterfacesDirective)
    app.add_directive("handlers", HandlersDirective)
    app.add_directive("commands", CommandsDirective)
    return {"parallel_read_safe": True}
