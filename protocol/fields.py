"""Checks of single message fields, as attrs validators and converters.

They run whenever a message is made, whether from remote bytes or by our own code, so that a message that exists is
valid: no id, state or version is ever null or of another type. Every check names the field that it refuses.
"""

import math
from enum import StrEnum
from typing import Any, Final

import attrs

from protocol.channels import check_channel
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError, invalid
from protocol.ids import check_id, json_type
from protocol.offsets import parse_offset
from protocol.states import Outcome, State

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259 section 6)."""

MAX_TEXT: Final = 4096
"""Characters of a reason or a note that are kept; the rest is cut off: the decision matters more than its text."""


def is_id(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """An id by the grammar of :func:`protocol.ids.check_id`."""
    check_id(value, attribute.name)


def is_channel(_: object, __: "attrs.Attribute[Any]", value: object) -> None:
    """A channel by the grammar of :func:`protocol.channels.check_channel`."""
    check_channel(value)


def is_integer(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """A version, or a time in unix seconds: an integer from 0 to 2^53 - 1, never a boolean or a float."""
    if type(value) is not int:
        raise invalid(f"{attribute.name} must be an integer, not {_kind(value)}")
    if not 0 <= value <= MAX_INTEGER:
        raise invalid(f"{attribute.name} must be from 0 to 2^53 - 1")


def is_text(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """Any string that has a UTF-8 form."""
    if not isinstance(value, str):
        raise invalid(f"{attribute.name} must be a string, not {json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(f"{attribute.name} must be valid Unicode") from None


def is_flag(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """A boolean."""
    if not isinstance(value, bool):
        raise invalid(f"{attribute.name} must be a boolean, not {json_type(value)}")


def is_state(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """A :class:`~protocol.states.State`."""
    _is_member(State, attribute.name, value)


def is_outcome(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """An :class:`~protocol.states.Outcome`."""
    _is_member(Outcome, attribute.name, value)


def is_offset(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """A position in an event history, see :func:`protocol.offsets.parse_offset`."""
    if parse_offset(value) is None:
        raise invalid(f"{attribute.name} must be an offset as an event carries it, like 1705312200000-0")


def whole(value: int | float | None) -> int | None:
    """Converter of times: some languages write unix seconds as floats, whose fraction is dropped."""
    return int(value) if isinstance(value, float) and math.isfinite(value) else value  # type: ignore[return-value]  # refused next


def wanted_version(value: int | float | None) -> int | None:
    """Converter of a version that a publication brings: too large or negative is kept as the nearest bound.

    Such a version settles nothing, but the decision that it comes with must not be lost over it: what applies it treats
    the bounds as "too large" and as "stale". Integers from 2^64 on arrive as floats, hence those.
    """
    if type(value) is int or (isinstance(value, float) and value.is_integer()):
        return min(max(int(value), 0), MAX_INTEGER)
    return value  # type: ignore[return-value]  # its validator refuses what is no integer


def shortened(value: str | None) -> str | None:
    """Converter of a reason or note: at most MAX_TEXT characters are kept."""
    return value[:MAX_TEXT] if isinstance(value, str) else value


def _is_member(enum: type[StrEnum], name: str, value: object) -> None:
    if not isinstance(value, enum):
        shown = repr(value[:32]) if isinstance(value, str) else json_type(value)
        raise ProtocolError(ErrorCode.INVALID_MESSAGE, f"{name} must be one of {', '.join(enum)}, not {shown}")


def _kind(value: object) -> str:
    return "a fraction" if isinstance(value, float) else json_type(value)
