"""Signatures of the control plane: HMAC-SHA256 over ``<timestamp>:<api_key>:<sha256 hex of the body>``, in hex.

One formula serves the handshake (no body), every message to an SDK (the envelope) and the SDK's acks. Timestamps are
unix seconds. Whatever is compared, is compared in constant time.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Final

import orjson

from protocol.codes import ErrorCode
from protocol.control import Ack
from protocol.errors import ProtocolError, invalid
from protocol.strict_json import loads

_SIGNATURE: Final = re.compile(r"[0-9A-Fa-f]{64}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,15}")


def body_hash(body: bytes) -> str:
    """SHA-256 of the exact bytes, in hex."""
    return hashlib.sha256(body).hexdigest()


EMPTY_BODY_HASH: Final = body_hash(b"")


def signature(secret: str, timestamp: int, api_key: str, body_hash: str) -> str:
    """The signature, 64 lower-case hex digits.

    The key of the HMAC is ``secret`` as text, in UTF-8: its hex digits are not decoded. ``timestamp`` is unix seconds.
    """
    signed = f"{timestamp}:{api_key}:{body_hash}"
    # Header bytes that are no UTF-8 may come as surrogates: they match nothing, and must not raise.
    return hmac.digest(secret.encode("utf-8", "surrogatepass"), signed.encode("utf-8", "surrogatepass"), "sha256").hex()


def verify(secret: str, timestamp: int, api_key: str, body_hash: str, given: str) -> bool:
    """Whether ``given`` is the signature; hex digits in either case, any string is safe to pass."""
    right = signature(secret, timestamp, api_key, body_hash).encode()
    return hmac.compare_digest(right, given.lower().encode("utf-8", "surrogatepass"))


def check_handshake(
    signature_header: str | None,
    timestamp_header: str | None,
    *,
    api_key: str,
    secrets: Iterable[str],
    now: float,
    max_age: float,
    required: bool,
    body_hash: str = EMPTY_BODY_HASH,
) -> str | None:
    """Check ``X-Signature`` and ``X-Signature-Timestamp`` and return the secret that made them.

    ``secrets`` are those that verify now, the current one first. None is returned for a request without a signature
    when none is required. ``now`` is unix seconds, ``max_age`` the seconds by which the timestamp may be off, either
    way.

    Raises ProtocolError: ``signature_missing``, ``signature_malformed``, ``signature_stale`` or ``signature_wrong``.
    """
    if signature_header is None and timestamp_header is None:
        if required:
            raise ProtocolError(ErrorCode.SIGNATURE_MISSING, "X-Signature and X-Signature-Timestamp are missing")
        return None
    if signature_header is None:
        raise ProtocolError(ErrorCode.SIGNATURE_MISSING, "X-Signature is missing")
    if timestamp_header is None:
        raise ProtocolError(ErrorCode.SIGNATURE_MISSING, "X-Signature-Timestamp is missing")
    if not _SIGNATURE.fullmatch(signature_header):
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "X-Signature must be 64 hex digits")
    if not _TIMESTAMP.fullmatch(timestamp_header):
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "X-Signature-Timestamp must be unix seconds")
    timestamp = int(timestamp_header)
    _check_age(timestamp, now, max_age)
    return _matching(secrets, timestamp, api_key, body_hash, signature_header)


class SignedPayload:
    """One message to be signed for many sessions: what does not depend on the session is computed once.

    ``payload`` is the unsigned message: a non-empty JSON object without white space around it, as
    :func:`protocol.codec.encode` makes it. Raises ValueError for anything else.
    """

    __slots__ = ("_hash", "_head", "payload")

    def __init__(self, payload: bytes) -> None:
        if len(payload) < 3 or payload[:1] != b"{" or payload[-1:] != b"}":
            raise ValueError("a signed payload must be a non-empty JSON object")
        self.payload = payload
        self._hash = body_hash(payload)
        self._head = b'%b,"signed_payload":"%b","timestamp":' % (payload[:-1], payload.hex().encode())

    def envelope(self, api_key: str, secret: str, timestamp: int) -> bytes:
        """The message with ``signed_payload``, ``timestamp`` (unix seconds), ``api_key`` and ``signature``."""
        made = signature(secret, timestamp, api_key, self._hash)
        return b'%b%d,"api_key":%b,"signature":"%b"}' % (self._head, timestamp, orjson.dumps(api_key), made.encode())


def verify_envelope(
    text: str | bytes,
    secrets: str | Iterable[str],
    *,
    api_key: str | None = None,
    now: float | None = None,
    max_age: float = 300,
) -> bytes:
    """The client's side: check an envelope and return the signed bytes, the only part of it that can be trusted.

    The api_key in the envelope must be ``api_key`` if that is given. If ``now`` (unix seconds) is given, the timestamp
    may be off by ``max_age`` seconds either way.

    Raises ProtocolError (``invalid_json``, ``invalid_message`` or one of the ``signature_`` codes).
    """
    body = loads(text)
    if not isinstance(body, dict):
        raise invalid("an envelope must be an object")
    given, timestamp, named, signed = (
        body.get(name) for name in ("signature", "timestamp", "api_key", "signed_payload")
    )
    if given is None:
        raise ProtocolError(ErrorCode.SIGNATURE_MISSING, "signature is missing")
    if not isinstance(given, str) or not isinstance(named, str) or not isinstance(signed, str):
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "signature, api_key and signed_payload must be strings")
    if type(timestamp) is not int:
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "timestamp must be an integer")
    try:
        payload = bytes.fromhex(signed)
    except ValueError:
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "signed_payload must be hex") from None
    if api_key is not None and named != api_key:
        raise ProtocolError(ErrorCode.SIGNATURE_WRONG, "api_key is another one")
    if now is not None:
        _check_age(timestamp, now, max_age)
    _matching([secrets] if isinstance(secrets, str) else secrets, timestamp, named, body_hash(payload), given)
    return payload


def ack_body(message_id: str, received_at: int) -> bytes:
    """The bytes that an ack's signature covers: Python's ``json.dumps`` of its three unsigned fields, sorted."""
    return json.dumps({"type": "ack", "message_id": message_id, "received_at": received_at}, sort_keys=True).encode()


def verify_ack(ack: Ack, api_key: str, secrets: Iterable[str]) -> str | None:
    """Check the signature of an ack and return the secret that made it; None for an ack without one.

    Its age does not matter: an ack counts once, for an id that is pending in its own session.

    Raises ProtocolError (``signature_malformed`` or ``signature_wrong``).
    """
    if ack.signature is None:
        return None
    if ack.timestamp is None:
        raise ProtocolError(ErrorCode.SIGNATURE_MALFORMED, "timestamp is missing beside signature")
    if ack.api_key is not None and ack.api_key != api_key:
        raise ProtocolError(ErrorCode.SIGNATURE_WRONG, "api_key is not that of the session")
    hashed = body_hash(ack_body(ack.message_id, ack.received_at))
    return _matching(secrets, ack.timestamp, api_key, hashed, ack.signature)


def _check_age(timestamp: int, now: float, max_age: float) -> None:
    if abs(now - timestamp) > max_age:
        raise ProtocolError(
            ErrorCode.SIGNATURE_STALE, f"the signature's timestamp is more than {max_age:g} s off; check the clock"
        )


def _matching(secrets: Iterable[str], timestamp: int, api_key: str, hashed: str, given: str) -> str:
    for secret in secrets:
        if verify(secret, timestamp, api_key, hashed, given):
            return secret
    raise ProtocolError(ErrorCode.SIGNATURE_WRONG, "the signature is wrong")
