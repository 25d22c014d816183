"""The tree of commands, and the one place where what goes wrong becomes a sentence and an exit status."""

import errno
import io
import os
import sys
from importlib import import_module
from typing import Any

import click

from broker import __version__
from broker.cli.errors import Failure

_COMMANDS = {
    "serve": "broker.cli.serve",
    "check-config": "broker.cli.configuration",
    "default-config": "broker.cli.configuration",
    "keys": "broker.cli.keys",
    "publish": "broker.cli.publish",
    "kill": "broker.cli.change",
    "pause": "broker.cli.change",
    "resume": "broker.cli.change",
    "status": "broker.cli.status",
    "tail": "broker.cli.tail",
    "bench": "broker.cli.bench",
}

# What is wrong where stdout goes; a pipe that nobody reads is click's to end quietly.
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Commands(click.Group):
    """A group whose commands are imported when they are called, so that a kill does not wait for what it needs not."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the manual."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[cmd_name])
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="signalbox")
def signalbox() -> None:
    """Signalbox: a WebSocket broker. Publish through Redis, reach every SDK and browser in milliseconds."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 done, 1 refused or failed, 2 wrong usage. Never shows a traceback.

    With SIGNALBOX_DEBUG set a bug of ours is raised as it is.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter still shows the rest
    try:
        signalbox(args, prog_name="signalbox")
    except Exception as error:
        if os.environ.get("SIGNALBOX_DEBUG"):
            raise
        if isinstance(error, OSError) and error.filename is None and error.errno in _CANNOT_WRITE:
            Failure(f"the output cannot be written: {error.strerror}.").show()
            sys.exit(1)
        Failure(f"this is a bug: {type(error).__name__}: {error}", "SIGNALBOX_DEBUG=1 shows where it happened.").show()
        sys.exit(1)
