"""The one check that a published event passes before its bytes go to every subscriber."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import EVENT_CLIENT, EVENT_SERVER
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.events import RESERVED_TYPES, check_event
from protocol.strict_json import loads
from tests.protocol.strategies import attempt, channels, examples, json_values, texts

CHANNEL = "workflow:my-wf"
types = texts.filter(lambda text: text not in RESERVED_TYPES)


def code_of(payload: bytes) -> str:
    """Return the code that a publication is refused with."""
    with pytest.raises(ProtocolError) as caught:
        check_event(payload, CHANNEL)
    return caught.value.code


@given(channel=channels, kind=types, data=json_values, spaces=st.sampled_from(["", " ", "\n\t "]))
@examples
def test_an_event_that_names_its_channel_passes_unchanged(channel: str, kind: str, data: object, spaces: str) -> None:
    """The very same bytes go out, white space and order included."""
    event = {"type": kind, "channel": channel, "data": data}
    for payload in (json.dumps(event), json.dumps(event, ensure_ascii=False, indent=1)):
        raw = (spaces + payload + spaces).encode()
        assert check_event(raw, channel) is raw


@given(channel=channels, kind=types, data=json_values, spaces=st.sampled_from(["", " ", "\n\t "]))
@examples
def test_an_event_without_a_channel_gets_it(channel: str, kind: str, data: object, spaces: str) -> None:
    """The channel is added and nothing else changes; the result passes the check itself."""
    event = {"data": data, "type": kind}
    raw = (spaces + json.dumps(event) + spaces).encode()
    sent = check_event(raw, channel)
    assert loads(sent) == {**json.loads(raw), "channel": channel}
    assert check_event(sent, channel) is sent


@given(payload=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@examples
def test_any_bytes_pass_or_give_the_one_error(payload: bytes) -> None:
    """No publication raises anything but ProtocolError."""
    result = attempt(check_event, payload, CHANNEL)
    assert isinstance(result, bytes) or result.code in set(ErrorCode)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"hello", ErrorCode.INVALID_JSON),
        (b'{"type":"x","data":NaN}', ErrorCode.INVALID_JSON),
        (b'{"type":"x","data":"\xff"}', ErrorCode.INVALID_JSON),
        (b'{"type":"x","data":' + b"[" * 64 + b"]" * 64 + b"}", ErrorCode.INVALID_JSON),
        (b'["type"]', ErrorCode.INVALID_MESSAGE),
        (b'"type"', ErrorCode.INVALID_MESSAGE),
        (b"{}", ErrorCode.INVALID_MESSAGE),
        (b'{"type":null}', ErrorCode.INVALID_MESSAGE),
        (b'{"type":["ping"]}', ErrorCode.INVALID_MESSAGE),
        (b'{"type":"x","channel":null}', ErrorCode.CHANNEL_MISMATCH),
        (b'{"type":"x","channel":["workflow:my-wf"]}', ErrorCode.CHANNEL_MISMATCH),
        (b'{"type":"x","channel":"workflow:other"}', ErrorCode.CHANNEL_MISMATCH),
        (b'{"type":"x","channel":"workflow:my-wf","channel":"workflow:other"}', ErrorCode.CHANNEL_MISMATCH),
        (b'{"type":"x","type":"subscribed","channel":"workflow:my-wf"}', ErrorCode.RESERVED_TYPE),
        (b'{"type":"\\u0070ing"}', ErrorCode.RESERVED_TYPE),
    ],
)
def test_what_does_not_fit_is_refused(payload: bytes, code: ErrorCode) -> None:
    """Each kind of fault has its code, also when escapes or repeated names hide it."""
    assert code_of(payload) == code


def test_every_type_of_the_protocol_is_reserved() -> None:
    """No event can pass for a message of the protocol, in either direction."""
    assert EVENT_SERVER.keys() | EVENT_CLIENT.keys() == RESERVED_TYPES
    for kind in RESERVED_TYPES:
        assert code_of(json.dumps({"type": kind, "channel": CHANNEL}).encode()) == ErrorCode.RESERVED_TYPE


def test_an_event_may_be_as_deep_as_the_bound() -> None:
    """Depth counts from the event itself: 63 levels inside it are the most."""
    raw = b'{"type":"x","channel":"workflow:my-wf","data":' + b"[" * 63 + b"]" * 63 + b"}"
    assert check_event(raw, CHANNEL) is raw
