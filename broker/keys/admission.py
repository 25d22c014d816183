"""Who is let in: one decision for both sockets and for the REST calls."""

import attrs

from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.signing import body_hash, check_handshake


@attrs.frozen
class Refusal:
    """A request that is not let in: the HTTP status of the answer, and its error code and message."""

    status: int
    code: str
    message: str


@attrs.frozen
class Admission:
    """A request that is let in.

    Attributes:
        record: the key that it came with.
        secret: the secret that its signature verified with, None if it bore no signature.
    """

    record: KeyRecord
    secret: str | None = attrs.field(default=None, repr=False)

    @property
    def signed_with_previous(self) -> bool:
        """Whether the client still signs with the secret that was rotated out."""
        return self.secret is not None and self.secret != self.record.secret_key


def judge(record: KeyRecord | None, now: float) -> Refusal | None:
    """Say why a key admits nobody: unknown, revoked or expired at unix time `now`; None if it is good."""
    if record is None:
        return Refusal(401, ErrorCode.API_KEY_UNKNOWN, "this API key is not known")
    match record.refusal(now):
        case "revoked":
            return Refusal(401, ErrorCode.API_KEY_REVOKED, "this API key was revoked")
        case "expired":
            return Refusal(401, ErrorCode.API_KEY_EXPIRED, "this API key has expired")
        case None:
            return None


def admit(
    record: KeyRecord | None,
    *,
    api_key: str,
    now: float,
    signature: str | None,
    timestamp: str | None,
    max_age: float,
    required: bool = False,
    body: bytes = b"",
) -> Admission | Refusal:
    """Decide about a request; a signature that is present is always checked.

    Args:
        record: what the key cache found for `api_key`.
        api_key: as the client sent it; it is part of what is signed.
        now: unix time in seconds.
        signature: the X-Signature header, None if absent.
        timestamp: the X-Signature-Timestamp header, None if absent.
        max_age: how far the timestamp may be off, in seconds.
        required: whether a signature must be there.
        body: the request's body; empty for an upgrade.
    """
    refused = judge(record, now)
    if refused is not None:
        return refused
    assert record is not None
    try:
        secret = check_handshake(
            signature,
            timestamp,
            api_key=api_key,
            secrets=record.verifying_secrets(now),
            now=now,
            max_age=max_age,
            required=required,
            body_hash=body_hash(body),
        )
    except ProtocolError as error:
        return Refusal(401, error.code, error.message)
    return Admission(record, secret)
