"""The codec: every message survives it, and nothing but ProtocolError leaves it."""

import json
from collections.abc import Callable
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec, control, events
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.states import Outcome, State
from tests.protocol import strategies
from tests.protocol.strategies import attempt, examples

Decoder = Callable[[bytes], Any]

DIRECTIONS: dict[str, tuple[Any, Decoder, Any]] = {
    "control server": (strategies.control_server, codec.decode_control_server, codec.CONTROL_SERVER),
    "control client": (strategies.control_client, codec.decode_control_client, codec.CONTROL_CLIENT),
    "control input": (strategies.control_input, codec.decode_control_input, codec.CONTROL_INPUT),
    "event server": (strategies.event_server, codec.decode_event_server, codec.EVENT_SERVER),
    "event client": (strategies.event_client, codec.decode_event_client, codec.EVENT_CLIENT),
}
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)
STATE_CHANGE = control.StateChange("acme", "wf", State.KILLED, 7, None, 1705312200, "m-1")


def refusal(decode: Decoder, payload: bytes) -> ProtocolError:
    """Decode what must be refused."""
    with pytest.raises(ProtocolError) as caught:
        decode(payload)
    return caught.value


@each_direction
@given(data=st.data())
@examples
def test_every_message_round_trips(direction: str, data: st.DataObject) -> None:
    """What is encoded decodes to an equal message, as text and as bytes, and any JSON reader sees its tag."""
    messages, decode, _ = DIRECTIONS[direction]
    message = data.draw(messages)
    encoded = codec.encode(message)
    assert decode(encoded) == message
    assert decode(encoded.decode()) == message  # type: ignore[arg-type]
    assert json.loads(encoded)["type"] == codec.tag_of(message)


@each_direction
def test_tables_hold_their_unions(direction: str) -> None:
    """Every class of a union has a tag, and no table has a class of another union."""
    unions = {
        "control server": control.ServerMessage,
        "control client": control.ClientMessage,
        "control input": control.ControlInput,
        "event server": events.EventServerMessage,
        "event client": events.EventClientMessage,
    }
    assert set(DIRECTIONS[direction][2].values()) == set(get_args(unions[direction]))


@each_direction
@given(payload=st.binary() | st.text().map(str.encode) | strategies.json_values.map(lambda v: json.dumps(v).encode()))
@examples
def test_any_bytes_give_a_message_or_the_one_error(direction: str, payload: bytes) -> None:
    """No bytes whatever raise anything but ProtocolError."""
    result = attempt(DIRECTIONS[direction][1], payload)
    if isinstance(result, ProtocolError):
        assert result.code in set(ErrorCode)
        assert result.message


@given(text=st.text(st.characters()))
@examples
def test_text_with_surrogates_is_refused_like_any_other(text: str) -> None:
    """A str that has no UTF-8 form is not JSON; it raises nothing else."""
    with pytest.raises(ProtocolError):
        codec.decode_event_client('{"type":"subscribe","channel":"\ud800' + text)


@each_direction
@given(data=st.data())
@examples
def test_a_damaged_message_is_refused_by_the_name_of_the_field(direction: str, data: st.DataObject) -> None:
    """A field that is replaced by any JSON value is either still right or named by the error."""
    messages, decode, _ = DIRECTIONS[direction]
    body = json.loads(codec.encode(data.draw(messages)))
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(strategies.json_values)
    result = attempt(decode, json.dumps(body).encode())
    if isinstance(result, ProtocolError):
        assert result.message.startswith(name)
    else:
        assert decode(codec.encode(result)) == result


@each_direction
@given(data=st.data())
@examples
def test_a_missing_field_is_named(direction: str, data: st.DataObject) -> None:
    """Without a field that has no default the error says which one is missing."""
    messages, decode, _ = DIRECTIONS[direction]
    message = data.draw(messages)
    body = json.loads(codec.encode(message))
    optional = {field.name for field in attrs.fields(type(message)) if field.default is None}
    name = data.draw(st.sampled_from(sorted(body.keys() - optional)))
    del body[name]
    error = refusal(decode, json.dumps(body).encode())
    assert (error.code, error.message) == (ErrorCode.INVALID_MESSAGE, f"{name} is missing")


@each_direction
@given(data=st.data())
@examples
def test_unknown_fields_are_ignored(direction: str, data: st.DataObject) -> None:
    """A newer peer may say more than we know."""
    messages, decode, _ = DIRECTIONS[direction]
    message = data.draw(messages)
    body = json.loads(codec.encode(message)) | {"x_new": data.draw(strategies.json_values)}
    assert decode(json.dumps(body).encode()) == message


def test_the_wire_form_is_exact() -> None:
    """Compact, the tag first, null written out where a field has no default, and left out where it has one."""
    assert codec.encode(STATE_CHANGE) == (
        b'{"type":"state_change","organization_id":"acme","workflow_id":"wf","state":"Killed","version":7,'
        b'"reason":null,"updated_at":1705312200,"message_id":"m-1"}'
    )
    assert codec.encode(events.Subscribed("workflow:a")) == b'{"type":"subscribed","channel":"workflow:a"}'
    assert codec.encode(events.EventError("c", "m")) == b'{"type":"error","code":"c","message":"m"}'
    assert codec.encode(control.Pong()) == b'{"type":"pong"}'


@pytest.mark.parametrize("value", [None, True, 1.0, -1, 2**53, "3", [], {}])
def test_a_version_is_nothing_but_an_integer(value: object) -> None:
    """Null, booleans, floats and strings are no versions on the way to a client."""
    body = json.loads(codec.encode(STATE_CHANGE)) | {"version": value}
    assert refusal(codec.decode_control_server, json.dumps(body).encode()).message.startswith("version must be")


def test_our_own_code_cannot_make_an_invalid_message() -> None:
    """The checks are the classes' own: a null id does not get as far as the wire."""
    with pytest.raises(ProtocolError, match="message_id must be a string, not null"):
        attrs.evolve(STATE_CHANGE, message_id=None)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="state must be one of Normal"):
        attrs.evolve(STATE_CHANGE, state="killed")  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="reason must be valid Unicode"):
        attrs.evolve(STATE_CHANGE, reason="\ud800")


def test_input_is_read_generously() -> None:
    """State in any case, float times cut, null as missing, envelope fields dropped."""
    payload = (
        b'{"type": "state_change", "workflow_id": "wf", "state": "RESUMED", "version": null, "updated_at": 12.9,'
        b' "message_id": null, "signed_payload": "00", "signature": 5, "timestamp": "x", "api_key": []}'
    )
    assert codec.decode_control_input(payload) == control.StateChangeInput("wf", State.NORMAL, updated_at=12)


@pytest.mark.parametrize(
    ("brought", "kept"),
    [("0", 0), ("7.0", 7), ("-3", 0), ("9007199254740992", 2**53 - 1), ("1e30", 2**53 - 1), ("1" * 300, 2**53 - 1)],
)
def test_a_kill_is_not_lost_over_its_version(brought: str, kept: int) -> None:
    """A version out of range becomes the nearest bound, which settles nothing but lets the decision through."""
    payload = f'{{"type":"state_change","workflow_id":"wf","state":"killed","version":{brought}}}'.encode()
    assert codec.decode_control_input(payload) == control.StateChangeInput("wf", State.KILLED, kept)


def test_a_kill_is_not_lost_over_its_reason() -> None:
    """A reason is cut after 4096 characters, so that any workflow fits a snapshot message."""
    payload = json.dumps(
        {"type": "state_change", "workflow_id": "wf", "state": "killed", "reason": "é" * 5000}
    ).encode()
    assert codec.decode_control_input(payload) == control.StateChangeInput("wf", State.KILLED, reason="é" * 4096)


@pytest.mark.parametrize("kind", ["initial_state", "resync_required", "error", "pong", "ack", "kill", ""])
def test_only_four_types_can_be_published(kind: str) -> None:
    """What else the control plane knows, no publisher may say."""
    error = refusal(codec.decode_control_input, json.dumps({"type": kind, "workflow_id": "wf"}).encode())
    assert error.code == ErrorCode.UNKNOWN_TYPE


def test_an_error_carries_the_channel_that_it_is_about() -> None:
    """A client with many channels can tell which request was refused, for what reason ever."""
    for payload in (
        b'{"type":"subscribe","channel":"workflow:a","since":5}',
        b'{"type":"subscribe","channel":"workflow:a","since":"18446744073709551616-0"}',
        b'{"type":"jump","channel":"workflow:a"}',
    ):
        assert refusal(codec.decode_event_client, payload).channel == "workflow:a"
    odd = refusal(codec.decode_event_client, b'{"type":"subscribe","channel":"a\\u0000b"}')
    assert odd.code == ErrorCode.INVALID_CHANNEL
    assert json.loads(codec.encode(events.EventError(odd.code, odd.message, odd.channel)))["channel"] == "a\0b"
    assert refusal(codec.decode_event_client, b'{"type":"subscribe","channel":5}').channel is None


@given(value=strategies.json_values)
@examples
def test_a_refusal_can_always_be_answered(value: object) -> None:
    """Whatever a client writes for a channel, the error that refuses it can be encoded."""
    result = attempt(codec.decode_event_client, json.dumps({"type": "subscribe", "channel": value}).encode())
    if isinstance(result, ProtocolError):
        assert codec.encode(events.EventError(result.code, result.message, result.channel))


def test_a_json_bomb_is_one_error() -> None:
    """Nesting far beyond any stack is refused, not crashed on."""
    for bomb in (b"[" * 1_000_000, b'{"type":' * 100_000, b"[" * 65 + b"]" * 65):
        assert refusal(codec.decode_control_input, bomb).code == ErrorCode.INVALID_JSON


def test_workflows_must_be_objects() -> None:
    """A snapshot with anything else in it is refused by name."""
    values: list[Any] = [None, "ab", {}, [1], [[]], ["x"]]
    for value in values:
        assert snapshot_refusal(value).startswith("workflows must be an array")


def test_a_fault_inside_a_snapshot_is_located() -> None:
    """The error says which workflow and which of its fields."""
    good = {"workflow_id": "wf", "state": "Normal", "version": 0, "reason": None, "updated_at": 0}
    assert snapshot_refusal([good, {}]) == "workflows[1].workflow_id is missing"
    assert snapshot_refusal([good | {"state": 5}]).startswith("workflows[0].state must be one of Normal")


def snapshot_refusal(workflows: object) -> str:
    """Say why a snapshot with these workflows is refused."""
    body = {"type": "initial_state", "organization_id": "acme", "workflows": workflows}
    return refusal(codec.decode_control_server, json.dumps(body).encode()).message


def test_who_wants_an_ack() -> None:
    """Killed, Paused and resolved approvals are repeated until acknowledged, nothing else."""
    wanted = {state for state in State if control.wants_ack(attrs.evolve(STATE_CHANGE, state=state))}
    assert wanted == {State.KILLED, State.PAUSED}
    assert control.wants_ack(control.ApprovalResolved("acme", "a", "wf", "e", Outcome.DENIED, None, 5, "m-1"))
    assert not control.wants_ack(control.Pong())
