"""Strict JSON (RFC 8259): UTF-8 only, no NaN or Infinity, no number beyond a double, nesting bounded."""

from typing import Final

import orjson

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

MAX_DEPTH: Final = 64
"""Arrays and objects that may be nested in each other; ``[]`` is one deep."""


def loads(data: bytes | str, max_depth: int = MAX_DEPTH) -> object:
    """Parse one JSON document.

    Of equal names in an object the last wins, as in JavaScript. Integers beyond 64 bits become floats.

    Raises ProtocolError (``invalid_json``), which says what is wrong and where.
    """
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(ErrorCode.INVALID_JSON, f"not JSON: {error}") from None
    check_depth(data, value, max_depth)
    return value


def check_depth(data: bytes | str, value: object, max_depth: int = MAX_DEPTH) -> None:
    """Raise ProtocolError when ``value``, parsed from ``data``, is nested more than ``max_depth`` deep.

    Nesting costs an opening bracket a level, so that two counts settle nearly every real message. Only what has more
    brackets is walked, level by level, never by recursion.
    """
    raw = data.encode() if isinstance(data, str) else data
    if raw.count(b"{") + raw.count(b"[") > max_depth and _is_deeper(value, max_depth):
        raise ProtocolError(ErrorCode.INVALID_JSON, f"not acceptable JSON: nested more than {max_depth} deep")


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        deeper: list[object] = []
        for container in level:
            if isinstance(container, dict):
                deeper += [item for item in container.values() if isinstance(item, _CONTAINERS)]
            elif isinstance(container, list):
                deeper += [item for item in container if isinstance(item, _CONTAINERS)]
        if not deeper:
            return False
        level = deeper
    return True


_CONTAINERS: Final = (dict, list)
