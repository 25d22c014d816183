"""Bytes to messages and back: one converter, one table of tags per direction, one error.

A message is a JSON object whose ``type`` says which class it is. Unknown fields are ignored, so that peers may be newer
than we are; everything else that is not as it must be raises ProtocolError and names the field: ``invalid_json``,
``invalid_message`` (no object, or a field that is missing or of another kind), ``unknown_type``, ``invalid_id`` or
``invalid_channel``.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import cattrs
import orjson

from protocol import control, events
from protocol.channels import MAX_CHANNEL_BYTES
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError, invalid
from protocol.ids import json_type
from protocol.states import Outcome, State
from protocol.strict_json import loads

Message = (
    control.ServerMessage
    | control.ClientMessage
    | control.ControlInput
    | events.EventServerMessage
    | events.EventClientMessage
)

CONTROL_SERVER: Final[Mapping[str, type[control.ServerMessage]]] = {
    "initial_state": control.InitialState,
    "state_change": control.StateChange,
    "policy_invalidated": control.PolicyInvalidated,
    "key_rotated": control.KeyRotated,
    "approval_resolved": control.ApprovalResolved,
    "resync_required": control.ResyncRequired,
    "error": control.Error,
    "pong": control.Pong,
}
CONTROL_CLIENT: Final[Mapping[str, type[control.ClientMessage]]] = {
    "subscribed": control.Subscribed,
    "ack": control.Ack,
    "ping": control.Ping,
}
CONTROL_INPUT: Final[Mapping[str, type[control.ControlInput]]] = {
    "state_change": control.StateChangeInput,
    "policy_invalidated": control.PolicyInvalidatedInput,
    "key_rotated": control.KeyRotatedInput,
    "approval_resolved": control.ApprovalResolvedInput,
}
EVENT_SERVER: Final[Mapping[str, type[events.EventServerMessage]]] = {
    "ping": events.Ping,
    "subscribed": events.Subscribed,
    "unsubscribed": events.Unsubscribed,
    "error": events.EventError,
    "resync_required": events.ResyncRequired,
}
EVENT_CLIENT: Final[Mapping[str, type[events.EventClientMessage]]] = {
    "subscribe": events.Subscribe,
    "unsubscribe": events.Unsubscribe,
    "pong": events.Pong,
}

_DIRECTIONS: Final = (CONTROL_SERVER, CONTROL_CLIENT, CONTROL_INPUT, EVENT_SERVER, EVENT_CLIENT)
_TAGS: Final[Mapping[type, str]] = {cls: tag for table in _DIRECTIONS for tag, cls in table.items()}

M = TypeVar("M")


def tag_of(message: Message) -> str:
    """The message's ``type`` on the wire."""
    return _TAGS[type(message)]


def encode(message: Message) -> bytes:
    """The message as compact JSON: ``type`` first, then the fields in the order of its class."""
    return orjson.dumps({"type": _TAGS[type(message)], **_converter.unstructure(message)})


def decode_control_client(text: str | bytes) -> control.ClientMessage:
    """What an SDK sent. Raises ProtocolError."""
    return _decode(text, CONTROL_CLIENT)


def decode_control_server(text: str | bytes) -> control.ServerMessage:
    """What an SDK receives; the fields of a signature are ignored, see :func:`protocol.signing.verify_envelope`.

    Raises ProtocolError.
    """
    return _decode(text, CONTROL_SERVER)


def decode_control_input(payload: bytes) -> control.ControlInput:
    """What was published on an organization's control channel. Raises ProtocolError."""
    return _decode(payload, CONTROL_INPUT)


def decode_event_client(text: str | bytes) -> events.EventClientMessage:
    """What a client of the event socket sent. Raises ProtocolError, with the channel that the message was about."""
    return _decode(text, EVENT_CLIENT)


def decode_event_server(text: str | bytes) -> events.EventServerMessage:
    """What a client of the event socket receives, events themselves excepted. Raises ProtocolError."""
    return _decode(text, EVENT_SERVER)


def _decode(text: str | bytes, table: Mapping[str, type[M]]) -> M:
    body = loads(text)
    if not isinstance(body, dict):
        raise invalid(f"a message must be an object, not {json_type(body)}")
    tag = body.get("type")
    if not isinstance(tag, str):
        raise invalid(f"type must be a string, not {json_type(tag)}" if "type" in body else "type is missing")
    cls = table.get(tag)
    if cls is None:
        what = f"type must be one of {', '.join(table)}, not {tag[:64]!r}"
        raise ProtocolError(ErrorCode.UNKNOWN_TYPE, what, _channel_in(body))
    try:
        return _structure(body, cls)
    except ProtocolError as error:
        error.channel = error.channel or _channel_in(body)
        raise


def _structure(body: dict[str, object], cls: type[M], where: str = "") -> M:
    try:
        return _converter.structure(body, cls)
    except KeyError as missing:
        raise invalid(f"{where}{missing.args[0]} is missing") from None
    except ProtocolError as error:
        raise ProtocolError(error.code, f"{where}{error.message}", error.channel) from None


def _channel_in(body: dict[str, object]) -> str | None:
    channel = body.get("channel")
    return channel if isinstance(channel, str) and 0 < len(channel) <= MAX_CHANNEL_BYTES else None


def _as_given(value: object, _: object) -> object:
    return value


def _member_or_as_given(members: Mapping[str, object]) -> Callable[[object, object], object]:
    return lambda value, _: members.get(value, value) if isinstance(value, str) else value


def _workflows(value: object, _: object) -> tuple[control.Workflow, ...]:
    if not isinstance(value, list):
        raise invalid(f"workflows must be an array, not {json_type(value)}")
    for item in value:
        if not isinstance(item, dict):
            raise invalid(f"workflows must be an array of objects, not of {json_type(item)}")
    return tuple(_structure(item, control.Workflow, f"workflows[{at}].") for at, item in enumerate(value))


def _make_converter() -> cattrs.Converter:
    """A converter that coerces nothing: every leaf goes as it came to its class, whose validators name what is wrong.

    cattrs would turn null into the string "None" and 3.7 into 3. What has a default is left out when it equals it.
    """
    converter = cattrs.Converter(detailed_validation=False, omit_if_default=True)
    for leaf in (str, int, bool):
        converter.register_structure_hook(leaf, _as_given)
    for enum in (State, Outcome):
        converter.register_structure_hook(enum, _member_or_as_given({member.value: member for member in enum}))
    converter.register_structure_hook_func(lambda cls: cls == tuple[control.Workflow, ...], _workflows)
    return converter


_converter: Final = _make_converter()
