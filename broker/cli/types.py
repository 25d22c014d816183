"""Arguments that are more than text; what does not fit is wrong usage, exit status 2."""

import re
from typing import Any

import click

from protocol.channels import check_channel, namespace_of
from protocol.errors import ProtocolError
from protocol.ids import check_id

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_CREDENTIAL = re.compile(r"[\x21-\x7e]+")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Id(click.ParamType[str]):
    """An organization, workflow or key id."""

    name = "id"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the grammar of ids."""
        try:
            return check_id(value, self._what)
        except ProtocolError as error:
            self.fail(error.message, param, ctx)


class Channel(click.ParamType[str]):
    """A channel: a namespace, a colon and a name."""

    name = "channel"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the grammar of channels."""
        try:
            namespace_of(check_channel(value))
        except ProtocolError as error:
            self.fail(error.message, param, ctx)
        return str(value)


class Glob(click.ParamType[str]):
    """A pattern over channel names."""

    name = "glob"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the length and the characters; any such text is a pattern."""
        try:
            return check_channel(value)
        except ProtocolError as error:
            self.fail(error.message, param, ctx)


class Credential(click.ParamType[str]):
    """An API key or its secret, which no message ever shows."""

    name = "credential"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that it can be sent in a header."""
        if _CREDENTIAL.fullmatch(value) is None:
            self.fail("must be printable ASCII without spaces and line ends", param, ctx)
        return str(value)


class Duration(click.ParamType[float]):
    """A length of time: a number with s, m, h, d or w after it; without a unit it is seconds. Converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read number and unit."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None or not 0 < float(match[1]) * _UNITS[match[2]] < 1e10:
            self.fail("must be a number with s, m, h, d or w after it, such as 90d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]
