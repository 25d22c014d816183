"""What an operation asks of Redis: one command, or one call of a script."""

import hashlib
from collections.abc import Generator
from importlib.resources import files
from typing import TypeAlias, TypeVar

import attrs

T = TypeVar("T")

Argument: TypeAlias = bytes | str | int


@attrs.frozen
class Command:
    """One Redis command with its arguments."""

    args: tuple[Argument, ...]


@attrs.frozen(eq=False)
class Script:
    """A Lua script and the SHA-1 hex by which Redis caches it."""

    text: str
    sha: str

    def __call__(self, keys: tuple[str, ...], *args: Argument) -> "ScriptCall":
        """The request that runs this script once, atomically."""
        return ScriptCall(self, keys, args)


@attrs.frozen
class ScriptCall:
    """One run of a script over its keys and arguments."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]

    def evalsha(self) -> tuple[Argument, ...]:
        """The command for a server that has the script cached."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def eval(self) -> tuple[Argument, ...]:
        """The command that brings the script along."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


@attrs.frozen
class Pause:
    """A point in a long computation at which an event loop should look after its other tasks."""


Request: TypeAlias = Command | ScriptCall | Pause

Operation: TypeAlias = Generator[Request, object, T]
"""An operation yields requests, receives their replies, and returns a result: it does no I/O itself."""


def command(*args: Argument) -> Command:
    """A command from its words."""
    return Command(args)


def load_script(*names: str) -> Script:
    """The script made of the named files of this package's ``lua`` directory, one after the other."""
    folder = files(__package__) / "lua"
    text = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
