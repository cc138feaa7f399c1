"""The ``txtcmu`` command.  Its verbs live in modules of their own, loaded when they are used."""

from __future__ import annotations

import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from txtcmu.errors import ObjectStoreError, TCMUError

__all__ = ["main"]

# Verb: the module that holds a click command of that name, with an underscore behind it if Python keeps the name.
VERBS = {
    "create": "txtcmu.cli.create",
    "doctor": "txtcmu.cli.doctor",
    "ls": "txtcmu.cli.ls",
    "rm": "txtcmu.cli.rm",
    "try": "txtcmu.testing.tryout",
    "volume": "txtcmu.cli.volume",
}

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130


class CommandLine(click.Group):
    """The verbs, each imported when it is asked for; errors of the user's are one line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one verb."""
        if cmd_name not in VERBS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(VERBS[cmd_name]), name)
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and leave with its status."""
        kwargs = {"prog_name": "txtcmu", **kwargs, "standalone_mode": False}
        try:
            status = super().main(*args, **kwargs)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "txtcmu"
            self._fail(f"{error.format_message()} See `{command} --help`.", _USAGE)
        except click.ClickException as error:
            self._fail(error.format_message(), _FAILED)
        except (KeyboardInterrupt, click.Abort):
            self._fail("interrupted", _INTERRUPTED)
        except (TCMUError, ObjectStoreError, OSError) as error:
            self._fail(str(error), _FAILED)
        sys.exit(status if isinstance(status, int) else 0)

    def _fail(self, message: str, status: int) -> None:
        click.echo("txtcmu: " + " ".join(message.split()), err=True)
        sys.exit(status)


@click.command(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(package_name="txtcmu")
def main() -> None:
    """Make, list and remove the SCSI disks that `twist tcmu` serves; try handlers; find what is wrong here."""
