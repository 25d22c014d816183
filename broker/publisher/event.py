"""An event as JSON: the shape that every subscriber gets."""

from decimal import Decimal
from typing import Any, Final

import orjson

from protocol.channels import OWN_NAMESPACES, check_channel, namespace_of
from protocol.errors import ProtocolError
from protocol.events import check_event

MAX_PUBLICATION_BYTES: Final = 1048576
"""The default of ``limits.max_publication_bytes``: brokers drop what is larger."""


def encode_event(
    channel: str, event_type: str, data: Any, timestamp: float, max_bytes: int = MAX_PUBLICATION_BYTES
) -> bytes:
    """Encode ``{"type", "channel", "timestamp", "data"}``; ``data`` is left out when None.

    ``timestamp`` is unix seconds. In ``data``, datetime, date and time become ISO 8601 strings, Decimal a number with
    all its digits, UUID a string, an enum its value, a dataclass an object, a set an array, NaN null.

    Raises ValueError for a channel or type that no broker would deliver and for an event above ``max_bytes``, and
    TypeError for data that has no JSON form.
    """
    event = {"type": event_type, "channel": channel, "timestamp": timestamp}
    if data is not None:
        event["data"] = data
    try:
        check_channel(channel)
        if namespace_of(channel) in OWN_NAMESPACES:
            raise ValueError(
                f"channel {channel!r} belongs to the control plane and carries no events: kill, pause and resume have "
                "commands, methods and requests of their own"
            )
        payload = orjson.dumps(event, default=_encode_more, option=orjson.OPT_NON_STR_KEYS)
        check_event(payload, channel)
    except ProtocolError as error:
        raise ValueError(error.message) from None
    if len(payload) > max_bytes:
        raise ValueError(f"the event has {len(payload)} bytes, and brokers drop events above {max_bytes}")
    return payload


def _encode_more(value: object) -> object:
    match value:
        case Decimal():
            if not value.is_finite():
                raise ValueError(f"{value} is not a number that JSON knows")
            return orjson.Fragment(str(value).encode())
        case set() | frozenset():
            return list(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")
