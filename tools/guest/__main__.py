"""Run a command in a guest with a stock Debian kernel: ``python -m tools.guest run -- COMMAND``."""

import argparse
import os
import signal
import sys
import termios
from collections.abc import Sequence
from functools import partial

from tools.guest import accel, debian, initramfs, kernel
from tools.guest.machine import Machine
from tools.guest.qemu import Hardware

__all__ = ["main"]

NO_STATUS = 125
"""Our exit status when the guest never got to the command's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "prepare":
            return _prepare()
        return _run(options)
    except debian.PackageError as error:
        print(f"guest: {error}", file=sys.stderr)
        return NO_STATUS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.guest", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="fetch kernel and packages, make the initramfs, find out whether KVM works")
    run = verbs.add_parser("run", help="boot, run a command in the checkout, exit with its status")
    run.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for all of it (%(default)s)")
    run.add_argument("--memory", type=int, default=2048, metavar="MIB", help="of the guest (%(default)s)")
    run.add_argument("--processors", type=int, default=2, metavar="N", help="of the guest (%(default)s)")
    run.add_argument("--disk", type=int, default=0, metavar="MIB", help="an empty /dev/vda of this size")
    run.add_argument("--counted", action="store_true", help="let the guest's clock count instructions")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    run.add_argument("command", nargs="*", metavar="COMMAND", help="without any, a shell on this terminal")
    return parser


def _prepare() -> int:
    booted = kernel.fetch()
    accel.choose(booted, initramfs.build(booted))
    debian.fetch_tcmu_runner()
    return 0


def _run(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NO_STATUS))  # end as for ^C: stopping what was started
    environment = dict(setting.partition("=")[::2] for setting in options.env)
    hardware = Hardware(options.memory, options.processors, options.disk, options.counted)
    sinks = {"stdout": partial(_write, 1), "stderr": partial(_write, 2)}
    terminal = None
    if not options.command and sys.stdin.isatty():
        terminal = termios.tcgetattr(0)  # QEMU sets it to raw, and is killed before it could restore it
    try:
        with Machine(options.command, sinks, environment, hardware) as machine:
            status = machine.wait(options.timeout if options.command else float("inf"))
            if status is None:
                reason = "died" if machine.gone else f"not finished after {options.timeout:g} s"
                _show(f"guest: {reason}", machine)
            elif status != 0 and options.command:
                _show(f"guest: {options.command[0]} ended with status {status}", machine)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if terminal is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, terminal)
    return NO_STATUS if status is None else status


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, at once, past any buffering."""
    while data:
        data = data[os.write(descriptor, data) :]


def _show(reason: str, machine: Machine) -> None:
    print(f"{reason}; its console ended with:", file=sys.stderr)
    print(machine.console_tail(), file=sys.stderr)
    print(f"guest: more in {machine.directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
