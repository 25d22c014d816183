"""Arguments that are more than text; what does not fit is wrong usage, exit status 2."""

import math
import re
from typing import Any
from urllib.parse import urlsplit

import click

from protocol.channels import check_channel, namespace_of
from protocol.errors import ProtocolError
from protocol.ids import check_id

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
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


class Text(click.ParamType[str]):
    """Words for people."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what was no UTF-8 on the command line."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("must be valid UTF-8", param, ctx)
        return str(value)


class Channel(click.ParamType[str]):
    """A channel: a namespace, a colon and a name; of the control plane, one organization's."""

    name = "channel"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the grammar of channels."""
        try:
            if namespace_of(check_channel(value)) == "control":
                check_id(value.partition(":")[2], "control: is of one organization at a time, and its id")
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
        if _VISIBLE.fullmatch(value) is None:
            self.fail("must be printable ASCII without spaces and line ends", param, ctx)
        return str(value)


class BrokerUrl(click.ParamType[str]):
    """Where a broker is."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check all of it that a connection needs; without a user, whose password errors would show."""
        if not _is_broker_url(value):
            self.fail("must be http://HOST:PORT, https://, ws:// or wss://", param, ctx)
        return str(value)


def _is_broker_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        return bool(
            _VISIBLE.fullmatch(url)
            and parts.scheme in ("http", "https", "ws", "wss")
            and host
            and parts.port != 0
            and parts.username is None
        )
    except ValueError:
        return False


class Finite(click.FloatRange):
    """A number in a range, and neither infinite nor NaN, which no comparison keeps out of it."""

    name = "number"  # in the complaint about what is none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Check the number, then the range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Count(click.IntRange):
    """A whole number in a range."""

    name = "integer"  # as for `Finite`


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
