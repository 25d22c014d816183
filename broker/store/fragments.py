"""Pieces of JSON that scripts splice into messages, byte for byte as the codec would write them."""

import orjson

from protocol.codec import encode
from protocol.control import (
    ApprovalResolved,
    ApprovalResolvedInput,
    ControlInput,
    KeyRotated,
    KeyRotatedInput,
    PolicyInvalidated,
    PolicyInvalidatedInput,
    StateChangeInput,
)
from protocol.errors import invalid
from protocol.fields import MAX_TEXT

NO_TIME = "-"
"""In place of a time: the message has none."""

_LAST = b',"message_id":"x"}'


def json_text(value: str | None) -> bytes:
    """A string or null as JSON, in UTF-8.

    Raises ProtocolError for a string with lone surrogates.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        raise invalid("text must be valid Unicode") from None


def actor_text(actor: str | None) -> bytes:
    """Who acts, as JSON; overlong names are cut."""
    return json_text(actor[:MAX_TEXT] if actor is not None else None)


def head_of(organization_id: str, message: ControlInput) -> bytes:
    """A message's JSON up to its time if it has one, else up to its message_id; empty for a state change.

    A state change is put together by the script, which alone knows its version.
    """
    match message:
        case StateChangeInput():
            return b""
        case PolicyInvalidatedInput():
            whole = PolicyInvalidated(organization_id, message.policy_id, message.new_version, "x")
            return encode(whole).removesuffix(_LAST)
        case KeyRotatedInput():
            return encode(KeyRotated(organization_id, message.key_id, message.new_version, "x")).removesuffix(_LAST)
        case ApprovalResolvedInput():
            resolved = ApprovalResolved(
                organization_id=organization_id,
                approval_id=message.approval_id,
                workflow_id=message.workflow_id,
                execution_id=message.execution_id,
                outcome=message.outcome,
                note=message.note,
                resolved_at=0,
                message_id="x",
            )
            return encode(resolved).removesuffix(b"0" + _LAST)


def target_of(message: ControlInput) -> tuple[str, str]:
    """The workflow that a message is about (or nothing), and all that tells its claim from another with the same id."""
    match message:
        case StateChangeInput():
            return message.workflow_id, f"{message.workflow_id}/{message.state}"
        case PolicyInvalidatedInput():
            return "", message.policy_id
        case KeyRotatedInput():
            return "", message.key_id
        case ApprovalResolvedInput():
            return message.workflow_id, message.approval_id


def time_of(message: ControlInput) -> str:
    """The time that a message brings in unix seconds, empty for "now", or NO_TIME if its kind has none."""
    match message:
        case StateChangeInput():
            given = message.updated_at
        case ApprovalResolvedInput():
            given = message.resolved_at
        case _:
            return NO_TIME
    return "" if given is None else str(given)
