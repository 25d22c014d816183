"""Messages of both sockets, events and control input: any bytes are a message, or a ProtocolError that can be sent."""

import json

import orjson

from protocol import codec
from protocol.channels import check_channel, grant_for
from protocol.codes import ErrorCode
from protocol.control import Ack
from protocol.errors import ProtocolError
from protocol.events import EventError, check_event
from protocol.ids import check_id
from protocol.signing import SignedPayload, verify_ack, verify_envelope
from protocol.states import parse_state
from protocol.strict_json import loads
from tests.fuzz.target import Outcome, Target

CHANNEL = "workflow:fuzz"
SECRET = "5e" * 32
GRANT = grant_for(("workflow:*", "epic:[a-z]?"), None, {"workflow", "epic"})


def _round_trip(decode: object, data: bytes) -> Outcome:
    assert callable(decode)
    message = decode(data)
    again = decode(codec.encode(message))
    assert again == message, (message, again)
    return type(message).__name__


def _event(data: bytes) -> Outcome:
    sent = check_event(data, CHANNEL)
    parsed, given = orjson.loads(sent), orjson.loads(data)
    assert parsed == given | {"channel": CHANNEL}, (sent, data)
    assert json.loads(sent)["channel"] == CHANNEL
    assert check_event(sent, CHANNEL) is sent
    return "channel" in given


def _json(data: bytes) -> Outcome:
    value = loads(data)
    json.loads(data)  # strict JSON is JSON to others, too
    return type(value).__name__


def _envelope(data: bytes) -> Outcome:
    return loads(verify_envelope(data, SECRET, api_key="key", now=1000.0)) is not None


def _ack(data: bytes) -> Outcome:
    message = codec.decode_control_client(data)
    return verify_ack(message, "key", [SECRET]) if isinstance(message, Ack) else None


def _names(data: bytes) -> Outcome:
    text = data.decode("utf-8", "surrogateescape")
    outcomes: list[object] = []
    for check in (check_channel, parse_state, lambda value: check_id(value, "id")):
        try:
            check(text)
            outcomes.append(True)
        except ProtocolError as error:
            outcomes.append(str(error.code))
    if outcomes[0] is True:
        outcomes.append(GRANT.allows(text))
    return tuple(outcomes)


DECODERS = (
    lambda data: _round_trip(codec.decode_control_client, data),
    lambda data: _round_trip(codec.decode_control_server, data),
    lambda data: _round_trip(codec.decode_control_input, data),
    lambda data: _round_trip(codec.decode_event_client, data),
    lambda data: _round_trip(codec.decode_event_server, data),
    _event,
    _json,
    _envelope,
    _ack,
    _names,
)


def run(data: bytes) -> Outcome:
    """Give all but the first byte to the reader that the first byte names."""
    which = data[0] % len(DECODERS) if data else 0
    try:
        return which, DECODERS[which](data[1:])
    except ProtocolError as error:
        sendable = codec.encode(EventError(str(error.code), error.message, error.channel))
        assert len(sendable) < 4096, "an error repeats too much of what it was given"
        return which, ErrorCode(error.code).value, error.message[:24]


def _corpus() -> list[bytes]:
    envelope = SignedPayload(b'{"type":"pong"}').envelope("key", SECRET, 1000)
    messages: list[tuple[int, bytes]] = [
        (0, b'{"type":"ack","message_id":"m-1","received_at":1000}'),
        (0, b'{"type":"subscribed"}'),
        (0, b'{"type":"ping"}'),
        (
            1,
            (
                b'{"type":"initial_state","organization_id":"o","workflows":[{"workflow_id":"w","state":"Killed",'
                b'"version":3,"reason":null,"updated_at":9}]}'
            ),
        ),
        (
            1,
            (
                b'{"type":"state_change","organization_id":"o","workflow_id":"w","state":"Paused","version":4,'
                b'"reason":"r","updated_at":9,"message_id":"m"}'
            ),
        ),
        (2, b'{"type":"state_change","workflow_id":"w","state":"resumed","version":4.0,"updated_at":9.5}'),
        (2, b'{"type":"policy_invalidated","policy_id":"p","new_version":2}'),
        (2, b'{"type":"key_rotated","key_id":"k","new_version":2,"message_id":null}'),
        (
            2,
            (
                b'{"type":"approval_resolved","approval_id":"a","workflow_id":"w","execution_id":"e",'
                b'"outcome":"approved","note":"n","resolved_at":8}'
            ),
        ),
        (3, b'{"type":"subscribe","channel":"workflow:1","since":"1-1"}'),
        (3, b'{"type":"unsubscribe","channel":"workflow:1"}'),
        (4, b'{"type":"subscribed","channel":"workflow:1","recovered":true}'),
        (4, b'{"type":"error","code":"x","message":"y","channel":"z"}'),
        (5, b'{"type":"node","data":{"a":[1,2.5e3,"\\u00e9",true,null]}}'),
        (5, b'{"type":"node","channel":"workflow:fuzz"} '),
        (6, b'[[[[1e308,-0.0,12345678901234567890,"\\ud83d\\ude00"]]]]'),
        (7, envelope),
        (8, b'{"type":"ack","message_id":"m","received_at":1,"api_key":"key","timestamp":1,"signature":"00"}'),
        (9, b"workflow:abc"),
        (9, b"Killed"),
    ]
    return [bytes((which,)) + text for which, text in messages]


WORDS = (
    b'"type"', b'"channel"', b'"message_id"', b'"version"', b'"state"', b'"since"', b"null", b"true", b"-1", b"1e400",
    b"9007199254740993", b"18446744073709551616", b"1.5", b"NaN", b"[" * 70, b"]" * 70, b"{", b"}", b",", b":", b'"',
    b"\\u0000", b"\\ud800", b"\\udc00", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"*", b"[a-", b"\x7f",
    b'"type":"subscribe"', b'"workflow:fuzz"', b"Killed", b"\n", b"0x1",
)  # fmt: skip

TARGET = Target("codec", _corpus(), WORDS, run)
