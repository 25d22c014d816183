"""Messages of the event socket, and the check that every published event passes once."""

from typing import Final

import attrs
import orjson
from attrs import field
from attrs.validators import optional

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError, invalid
from protocol.fields import is_channel, is_flag, is_offset, is_text
from protocol.ids import json_type
from protocol.strict_json import loads


@attrs.frozen
class Subscribe:
    """The client wants a channel's events, after ``since`` (the last offset that it saw) where history is kept."""

    channel: str = field(validator=is_channel)
    since: str | None = field(default=None, validator=optional(is_offset))


@attrs.frozen
class Unsubscribe:
    """The client has had enough of a channel."""

    channel: str = field(validator=is_channel)


@attrs.frozen
class Pong:
    """The client is there."""


@attrs.frozen
class Ping:
    """The broker asks whether the client is there; a Pong must follow."""


@attrs.frozen
class Subscribed:
    """Every event of the channel from now on will be sent. ``recovered`` answers ``since``; None is left out."""

    channel: str = field(validator=is_channel)
    recovered: bool | None = field(default=None, validator=optional(is_flag))


@attrs.frozen
class Unsubscribed:
    """No event of the channel will be sent any more."""

    channel: str = field(validator=is_channel)


@attrs.frozen
class EventError:
    """A message of the client was refused; the connection lives on.

    ``channel`` repeats what the client sent, which need not be a channel; it is left out when it is None.
    """

    code: str = field(validator=is_text)
    message: str = field(validator=is_text)
    channel: str | None = field(default=None, validator=optional(is_text))


@attrs.frozen
class ResyncRequired:
    """Events of the channel may have been missed; the client should fetch what it shows anew."""

    channel: str = field(validator=is_channel)
    reason: str = field(validator=is_text)


EventServerMessage = Ping | Subscribed | Unsubscribed | EventError | ResyncRequired
EventClientMessage = Subscribe | Unsubscribe | Pong

RESERVED_TYPES: Final = frozenset(
    {"subscribe", "unsubscribe", "pong", "ping", "subscribed", "unsubscribed", "error", "resync_required"}
)
"""Types that belong to the protocol; an event that bore one could lie to a client about its session."""


def check_event(payload: bytes, channel: str) -> bytes:
    """Check one publication on ``channel`` and return the bytes that every subscriber gets.

    The payload must be strict JSON (see :mod:`protocol.strict_json`), an object with a string ``type`` that is not
    reserved. Its ``channel`` must equal ``channel``; one that has none gets it, otherwise the bytes stay as they are.
    The size is the caller's to check.

    Raises ProtocolError (``invalid_json``, ``invalid_message``, ``reserved_type``, ``channel_mismatch``).
    """
    event = loads(payload)
    if not isinstance(event, dict):
        raise invalid(f"an event must be an object, not {json_type(event)}")
    event_type = event.get("type")
    if not isinstance(event_type, str):
        raise invalid(f"type must be a string, not {json_type(event_type)}" if "type" in event else "type is missing")
    if event_type in RESERVED_TYPES:
        raise ProtocolError(ErrorCode.RESERVED_TYPE, f"type {event_type!r} belongs to the protocol")
    named = event.get("channel")
    if named == channel:
        return payload
    if named is None and "channel" not in event:
        # The object has a type, hence a member, hence the comma is right; nothing but white space follows its brace.
        end = payload.rindex(b"}")
        return b'%b,"channel":%b}' % (payload[:end], orjson.dumps(channel))
    shown = repr(named[:64]) if isinstance(named, str) else json_type(named)
    raise ProtocolError(ErrorCode.CHANNEL_MISMATCH, f"channel must be the one published on, not {shown}")
