"""One API key as it is stored. The key itself is stored nowhere, only its SHA-256."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal

import attrs
import orjson

from broker.store.errors import DamagedKey
from broker.store.replies import fields
from broker.store.sealer import Sealer
from protocol.errors import ProtocolError
from protocol.fields import MAX_INTEGER
from protocol.ids import check_id

SignatureRule = Literal["required", "optional"]


class KeyStatus(StrEnum):
    """Whether a key opens anything; expiry is a matter of time, not of status."""

    ACTIVE = "active"
    REVOKED = "revoked"


@attrs.frozen
class KeyRecord:
    """An API key: whom it is for, what it may see, and the secrets that sign for it.

    ``hash`` is the SHA-256 hex of the API key. ``version`` rises with every rotation and with the revocation. Times are
    unix seconds. ``previous_secret`` verifies until ``previous_until``. ``channels`` are globs. ``signature`` overrides
    the broker's setting for handshakes, None leaves it. ``workflow_id`` None: the key is for the whole organization.
    """

    hash: str
    key_id: str
    organization_id: str
    workflow_id: str | None = None
    secret_key: str | None = attrs.field(default=None, repr=False)
    previous_secret: str | None = attrs.field(default=None, repr=False)
    previous_until: int = 0
    channels: tuple[str, ...] = ()
    status: KeyStatus = KeyStatus.ACTIVE
    expires_at: int | None = None
    version: int = 1
    name: str = ""
    signature: SignatureRule | None = None
    created_at: int = 0

    def refusal(self, now: float) -> Literal["revoked", "expired"] | None:
        """Why the key opens nothing at ``now`` (unix seconds); None if it does."""
        if self.status is not KeyStatus.ACTIVE:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return None

    def verifying_secrets(self, now: float) -> tuple[str, ...]:
        """The secrets that may sign a request at ``now``: the current one, inside the overlap the previous one too."""
        previous = self.previous_secret if now < self.previous_until else None
        return tuple(secret for secret in (self.secret_key, previous) if secret)


SIGNATURE_RULES: Final[dict[str, SignatureRule]] = {"required": "required", "optional": "optional"}


def hash_of(api_key: str) -> str:
    """The SHA-256 hex by which an API key is looked up."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()


def shown_of(record: KeyRecord, now: float) -> dict[str, object]:
    """What may be shown of a key, in JSON's terms: neither its secrets nor its hash. ``now`` is unix seconds."""
    return {
        "key_id": record.key_id,
        "organization_id": record.organization_id,
        "workflow_id": record.workflow_id,
        "channels": list(record.channels),
        "status": record.refusal(now) or "active",
        "expires_at": record.expires_at,
        "version": record.version,
        "name": record.name,
        "signature": record.signature,
        "created_at": record.created_at,
    }


def encode_key(record: KeyRecord, sealer: Sealer) -> tuple[str, ...]:
    """The record as fields and values of a Redis hash; what is None or empty is left out."""
    values = {
        "key_id": record.key_id,
        "organization_id": record.organization_id,
        "workflow_id": record.workflow_id,
        "secret_key": sealer.seal(record.secret_key, record.hash) if record.secret_key else None,
        "previous_secret": sealer.seal(record.previous_secret, record.hash) if record.previous_secret else None,
        "previous_until": str(record.previous_until),
        "channels": orjson.dumps(record.channels).decode(),
        "status": record.status.value,
        "expires_at": str(record.expires_at) if record.expires_at is not None else None,
        "version": str(record.version),
        "name": record.name,
        "signature": record.signature,
        "created_at": str(record.created_at),
    }
    return tuple(word for name, value in values.items() if value for word in (name, value))


def decode_key(key_hash: str, reply: object, sealer: Sealer) -> KeyRecord | None:
    """The record that a hash holds; None for an empty one.

    Raises DamagedKey for a hash that is no key, and SealError when ``sealer`` cannot read its secrets.
    """
    found = fields(reply)
    if "key_id" not in found:
        return None
    sealed, previous = found.get("secret_key"), found.get("previous_secret")
    expires = found.get("expires_at")
    secret_key = sealer.unseal(sealed, key_hash) if sealed else None
    previous_secret = sealer.unseal(previous, key_hash) if previous else None
    try:
        return KeyRecord(
            hash=key_hash,
            key_id=_id(found, "key_id"),
            organization_id=_id(found, "organization_id"),
            workflow_id=found.get("workflow_id") or None,
            secret_key=secret_key,
            previous_secret=previous_secret,
            previous_until=int(found.get("previous_until") or 0),
            channels=_globs(found.get("channels") or "[]"),
            status=KeyStatus(found["status"]),
            expires_at=int(expires) if expires else None,
            version=_version(found.get("version") or "1"),
            name=found.get("name", ""),
            signature=SIGNATURE_RULES.get(found.get("signature", "")),
            created_at=int(found.get("created_at") or 0),
        )
    except KeyError as error:
        raise DamagedKey(found["key_id"], f"{error.args[0]} is missing") from None
    except ValueError as error:
        raise DamagedKey(found["key_id"], str(error)) from None


def _globs(channels: str) -> tuple[str, ...]:
    globs = orjson.loads(channels)
    if not isinstance(globs, list) or not all(isinstance(glob, str) for glob in globs):
        raise ValueError("channels is no array of strings")
    return tuple(globs)


def _id(found: Mapping[str, str], name: str) -> str:
    try:
        return check_id(found[name], name)
    except ProtocolError as error:
        raise ValueError(error.message) from None


def _version(text: str) -> int:
    version = int(text)
    if not 0 < version < MAX_INTEGER:
        raise ValueError("version is out of range")
    return version
