"""The grammar of ids: organizations, workflows, keys, messages, policies, approvals and executions."""

import re
from typing import Final

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

MAX_ID_LENGTH: Final = 128

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,127}")


def check_id(value: object, what: str) -> str:
    """Return ``value`` if it is an id: 1 to 128 characters of ``A-Z a-z 0-9 . _ ~ : @ -``, the first a letter or digit.

    An id therefore needs no escaping in JSON, in a URL path, or in a Redis key. ``what`` names the field in the error.

    Raises ProtocolError (``invalid_id``).
    """
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    if not isinstance(value, str):
        raise ProtocolError(ErrorCode.INVALID_ID, f"{what} must be a string, not {json_type(value)}")
    raise ProtocolError(
        ErrorCode.INVALID_ID,
        f"{what} must be 1 to {MAX_ID_LENGTH} characters of A-Z a-z 0-9 . _ ~ : @ - and begin with a letter or digit",
    )


def json_type(value: object) -> str:
    """The JSON name of a value's type, for error messages that publishers in any language understand."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"
