"""Signatures against a plain computation of our own and against the SDK that agents run."""

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nullrun.transport import generate_hmac_signature, verify_hmac_signature

from protocol import codec, control
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.signing import (
    EMPTY_BODY_HASH,
    SignedPayload,
    ack_body,
    body_hash,
    check_handshake,
    signature,
    verify,
    verify_ack,
    verify_envelope,
)
from protocol.states import State
from tests.protocol.strategies import control_server, examples, json_values

KEY, SECRET, OLD = "nr_live_abc", "5" * 64, "6" * 64
NOW = 1_705_312_200
PAYLOAD = codec.encode(control.StateChange("acme", "wf", State.KILLED, 7, "über", NOW, "m-1"))

printable = st.text(max_size=80)


@given(secret=printable, key=printable, timestamp=st.integers(0, 2**40), body=st.binary(max_size=300))
@examples
def test_the_formula(secret: str, key: str, timestamp: int, body: bytes) -> None:
    """Ours equals a plain HMAC over the same text, and the SDK's own function."""
    made = signature(secret, timestamp, key, body_hash(body))
    text = f"{timestamp}:{key}:{hashlib.sha256(body).hexdigest()}"
    assert made == hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert made == generate_hmac_signature(key, secret, timestamp, body)
    assert verify(secret, timestamp, key, body_hash(body), made)
    assert verify(secret, timestamp, key, body_hash(body), made.upper())
    assert not verify(secret, timestamp + 1, key, body_hash(body), made)


@given(given_signature=st.text(st.characters()), key=st.text(st.characters()))
@examples
def test_verifying_any_text_raises_nothing(given_signature: str, key: str) -> None:
    """Non-ASCII and surrogates in a signature or a key are only wrong."""
    assert not verify(SECRET, NOW, key, EMPTY_BODY_HASH, given_signature)


def handshake(signed: str | None, timestamp: str | None, **changes: Any) -> str | None:
    """Check a handshake whose other parts are right."""
    settings: dict[str, Any] = {"api_key": KEY, "secrets": (SECRET, OLD), "now": NOW, "max_age": 300, "required": True}
    return check_handshake(signed, timestamp, **(settings | changes))


def test_a_handshake_tells_which_secret_signed_it() -> None:
    """The current and, in the overlap, the previous secret verify; the caller learns which."""
    for secret in (SECRET, OLD):
        made = generate_hmac_signature(KEY, secret, NOW, "")
        assert handshake(made, str(NOW)) == secret
        assert handshake(made, str(NOW), required=False) == secret
    assert handshake(None, None, required=False) is None


@pytest.mark.parametrize(
    ("signed", "timestamp", "changes", "code"),
    [
        (None, None, {}, ErrorCode.SIGNATURE_MISSING),
        (None, str(NOW), {"required": False}, ErrorCode.SIGNATURE_MISSING),
        ("0" * 64, None, {"required": False}, ErrorCode.SIGNATURE_MISSING),
        ("0" * 63, str(NOW), {}, ErrorCode.SIGNATURE_MALFORMED),
        ("g" * 64, str(NOW), {}, ErrorCode.SIGNATURE_MALFORMED),
        ("٣" * 64, str(NOW), {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, "soon", {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, "-5", {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, "1.5", {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, "٣", {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, "9" * 5000, {}, ErrorCode.SIGNATURE_MALFORMED),
        ("0" * 64, str(NOW - 301), {}, ErrorCode.SIGNATURE_STALE),
        ("0" * 64, str(NOW + 301), {}, ErrorCode.SIGNATURE_STALE),
        ("0" * 64, str(NOW), {}, ErrorCode.SIGNATURE_WRONG),
        ("0" * 64, str(NOW), {"required": False}, ErrorCode.SIGNATURE_WRONG),
        (signature(SECRET, NOW, "nr_live_other", EMPTY_BODY_HASH), str(NOW), {}, ErrorCode.SIGNATURE_WRONG),
        (signature(SECRET, NOW, KEY, EMPTY_BODY_HASH), str(NOW), {"secrets": ()}, ErrorCode.SIGNATURE_WRONG),
    ],
)
def test_a_bad_handshake_says_what_is_bad(
    signed: str | None, timestamp: str | None, changes: dict[str, Any], code: ErrorCode
) -> None:
    """Missing, malformed, stale and wrong are told apart; a signature that is there is checked though optional."""
    with pytest.raises(ProtocolError) as caught:
        handshake(signed, timestamp, **changes)
    assert caught.value.code == code
    assert SECRET not in caught.value.message


def test_the_age_of_a_handshake_has_an_exact_bound() -> None:
    """300 seconds off are still good, either way."""
    for timestamp in (NOW - 300, NOW + 300):
        assert handshake(signature(SECRET, timestamp, KEY, EMPTY_BODY_HASH), str(timestamp)) == SECRET


@given(message=control_server.filter(lambda message: not isinstance(message, control.Pong)))
@examples
def test_an_envelope_is_what_the_sdk_verifies(message: control.ServerMessage) -> None:
    """The SDK's check passes over the exact bytes, whose JSON is the unsigned message; the outer one reads the same."""
    payload, now = codec.encode(message), int(time.time())
    envelope = SignedPayload(payload).envelope(KEY, SECRET, now)
    outer = json.loads(envelope)
    signed = bytes.fromhex(outer["signed_payload"])
    assert signed == payload
    assert verify_hmac_signature(outer["api_key"], SECRET, outer["timestamp"], signed, outer["signature"])
    assert not verify_hmac_signature(outer["api_key"], OLD, outer["timestamp"], signed, outer["signature"])
    assert {name: outer[name] for name in json.loads(payload)} == json.loads(payload)
    assert codec.decode_control_server(envelope) == message
    assert verify_envelope(envelope, [OLD, SECRET], api_key=KEY, now=now) == payload


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"a":1} ', b' {"a":1}', b"null"])
def test_only_a_bare_object_can_be_signed(payload: bytes) -> None:
    """What cannot be spliced is our own mistake, said at once."""
    with pytest.raises(ValueError, match="non-empty JSON object"):
        SignedPayload(payload)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signature": None}, ErrorCode.SIGNATURE_MISSING),
        ({"signature": 5}, ErrorCode.SIGNATURE_MALFORMED),
        ({"signature": "é"}, ErrorCode.SIGNATURE_WRONG),
        ({"timestamp": None}, ErrorCode.SIGNATURE_MALFORMED),
        ({"timestamp": True}, ErrorCode.SIGNATURE_MALFORMED),
        ({"timestamp": NOW + 1}, ErrorCode.SIGNATURE_WRONG),
        ({"timestamp": NOW - 301}, ErrorCode.SIGNATURE_STALE),
        ({"api_key": None}, ErrorCode.SIGNATURE_MALFORMED),
        ({"api_key": "nr_live_other"}, ErrorCode.SIGNATURE_WRONG),
        ({"signed_payload": "0"}, ErrorCode.SIGNATURE_MALFORMED),
        ({"signed_payload": "00"}, ErrorCode.SIGNATURE_WRONG),
    ],
)
def test_a_tampered_envelope_is_refused(changes: dict[str, object], code: ErrorCode) -> None:
    """Every field that the signature rests on is checked."""
    outer = json.loads(SignedPayload(PAYLOAD).envelope(KEY, SECRET, NOW)) | changes
    with pytest.raises(ProtocolError) as caught:
        verify_envelope(json.dumps(outer), SECRET, api_key=KEY, now=NOW)
    assert caught.value.code == code


def test_a_forged_outer_body_changes_nothing() -> None:
    """What is returned are the signed bytes, whatever stands around them."""
    outer = json.loads(SignedPayload(PAYLOAD).envelope(KEY, SECRET, NOW)) | {"state": "Normal"}
    assert verify_envelope(json.dumps(outer), SECRET) == PAYLOAD


@given(value=json_values, raw=st.binary())
@examples
def test_any_envelope_gives_bytes_or_the_one_error(value: object, raw: bytes) -> None:
    """A client that is sent nonsense sees ProtocolError only."""
    for text in (raw, json.dumps(value), json.dumps({"signature": value, "timestamp": 1, "api_key": "a"})):
        with pytest.raises(ProtocolError):
            verify_envelope(text, SECRET)


def sdk_ack(secret: str, timestamp: int = NOW, received_at: int = NOW) -> control.Ack:
    """Make an ack as the SDK computes it."""
    body = {"type": "ack", "message_id": "m-1", "received_at": received_at}
    signed = generate_hmac_signature(KEY, secret, timestamp, json.dumps(body, sort_keys=True))
    return control.Ack("m-1", received_at, KEY, timestamp, signed)


def test_an_ack_of_the_sdk_verifies() -> None:
    """Over Python's sorted json.dumps, with any secret that verifies now, however old; unsigned ones pass as such."""
    assert ack_body("m-1", 5) == b'{"message_id": "m-1", "received_at": 5, "type": "ack"}'
    assert verify_ack(sdk_ack(SECRET), KEY, (SECRET, OLD)) == SECRET
    assert verify_ack(sdk_ack(OLD, timestamp=5), KEY, (SECRET, OLD)) == OLD
    assert verify_ack(control.Ack("m-1", NOW), KEY, (SECRET,)) is None


@pytest.mark.parametrize(
    ("ack", "code"),
    [
        (sdk_ack("7" * 64), ErrorCode.SIGNATURE_WRONG),
        (control.Ack("m-2", NOW, KEY, NOW, sdk_ack(SECRET).signature), ErrorCode.SIGNATURE_WRONG),
        (control.Ack("m-1", NOW + 1, KEY, NOW, sdk_ack(SECRET).signature), ErrorCode.SIGNATURE_WRONG),
        (control.Ack("m-1", NOW, "nr_live_other", NOW, sdk_ack(SECRET).signature), ErrorCode.SIGNATURE_WRONG),
        (control.Ack("m-1", NOW, KEY, None, sdk_ack(SECRET).signature), ErrorCode.SIGNATURE_MALFORMED),
        (control.Ack("m-1", NOW, KEY, NOW, ""), ErrorCode.SIGNATURE_WRONG),
    ],
)
def test_a_wrong_ack_is_refused(ack: control.Ack, code: ErrorCode) -> None:
    """Another secret, message, time, key, or half a signature."""
    with pytest.raises(ProtocolError) as caught:
        verify_ack(ack, KEY, (SECRET, OLD))
    assert caught.value.code == code
