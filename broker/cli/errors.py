"""How commands fail: a sentence on stderr, a hint where one helps, exit status 1. Wrong usage is click's, status 2."""

from typing import IO, Any

import click


class Failure(click.ClickException):
    """The command was refused, or could not be carried out. `hint` tells what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence and the hint on stderr."""
        click.echo(f"signalbox: {self.message}", file=file, err=True)
        if self.hint:
            click.echo(self.hint, file=file, err=True)
