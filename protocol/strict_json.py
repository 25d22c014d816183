"""Strict JSON (RFC 8259): UTF-8 only, no NaN or Infinity, no number beyond a double, nesting bounded."""

from typing import Final

import orjson

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

MAX_DEPTH: Final = 64
"""Arrays and objects that may be nested in each other; ``[]`` is one deep."""

_PARSER_DEPTH: Final = 1024
"""What orjson itself allows, as its manual says."""


def loads(data: bytes | str, max_depth: int = MAX_DEPTH) -> object:
    """Parse one JSON document that is nested at most ``max_depth`` (up to 1024) deep.

    Of equal names in an object the last wins, as in JavaScript. Integers beyond 64 bits become floats.

    Raises ProtocolError (``invalid_json``), which says what is wrong and where.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        # Each level costs an opening bracket, so that two counts settle what most messages are.
        if raw.count(b"{") + raw.count(b"[") <= max_depth:
            value: object = orjson.loads(raw)
            return value
        return _loads_bounded(raw, max_depth)
    except UnicodeEncodeError:
        raise ProtocolError(ErrorCode.INVALID_JSON, "not JSON: not valid Unicode") from None
    except orjson.JSONDecodeError as error:
        raise ProtocolError(ErrorCode.INVALID_JSON, f"not JSON: {error}") from None


def _loads_bounded(raw: bytes, max_depth: int) -> object:
    """Let the parser itself count: inside as many arrays as it allows above ``max_depth``, deeper input fails.

    Walking the parsed value instead takes twice as long as parsing it, which a large publication would make felt.
    """
    wrapping = _PARSER_DEPTH - max_depth
    try:
        value = orjson.loads(b"%b%b%b" % (b"[" * wrapping, raw, b"]" * wrapping))
        for _ in range(wrapping):
            # Input that closes arrays which it did not open has to open one again, beside the first: two values.
            (value,) = value
        return value
    except ValueError:
        orjson.loads(raw)  # says where it is wrong, if depth is not all that is
        raise ProtocolError(ErrorCode.INVALID_JSON, f"not JSON: nested more than {max_depth} deep") from None
