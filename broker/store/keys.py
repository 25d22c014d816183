"""API keys: looking up, making, listing, rotating and revoking them.

A key's hash and its organization's set live in different slots, so that these are sequences of commands. Each is
ordered so that stopping anywhere in it is safe and running it again mends it: what grants comes last, what takes away
comes first.
"""

import secrets
from typing import Literal

import attrs
import orjson
from attrs.validators import instance_of

from broker.store.apply import apply
from broker.store.errors import KeyRevoked, UnknownKey
from broker.store.key_record import KeyRecord, SignatureRule, decode_key, encode_key, hash_of
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.replies import integer, items, maybe_text, text
from broker.store.request import Operation, command, load_script
from broker.store.sealer import UNSEALED, Sealer
from protocol.control import KeyRotatedInput
from protocol.ids import check_id

REVOKE = load_script("revoke_key")
ROTATE = load_script("rotate_key")

Change = Literal["added", "rotated", "revoked"]


@attrs.frozen
class NewKey:
    """A key that was just made: the only time that ``api_key`` is known."""

    api_key: str = attrs.field(repr=False)
    record: KeyRecord


@attrs.frozen
class KeyChange:
    """What the channel of key changes carries."""

    hash: str = attrs.field(validator=instance_of(str))
    key_id: str
    organization_id: str
    change: Change
    version: int


def decode_key_change(payload: bytes) -> KeyChange:
    """Read a message of the channel of key changes. Raises ValueError for anything else."""
    try:
        return KeyChange(**orjson.loads(payload))
    except TypeError as error:
        raise ValueError(f"no key change: {error}") from None


def lookup_key(layout: Layout, key_hash: str, sealer: Sealer = UNSEALED) -> Operation[KeyRecord | None]:
    """Read the key whose SHA-256 hex is ``key_hash``; None if there is none."""
    reply = yield command("HGETALL", layout.key(key_hash))
    return decode_key(key_hash, reply, sealer)


def find_key(layout: Layout, key_id: str, sealer: Sealer = UNSEALED) -> Operation[KeyRecord | None]:
    """Read a key by its key_id; None if there is none."""
    check_id(key_id, "key_id")
    name = maybe_text((yield command("GET", layout.key_id(key_id))))
    return (yield from lookup_key(layout, name.removeprefix(layout.key("")), sealer)) if name else None


def list_keys(
    layout: Layout, organization_id: str | None = None, sealer: Sealer = UNSEALED
) -> Operation[tuple[KeyRecord, ...]]:
    """Read every key of an organization, or of all: revoked and expired ones too, oldest first."""
    if organization_id is None:
        hashes = yield from all_hashes(layout)
    else:
        check_id(organization_id, "organization_id")
        reply = yield command("SMEMBERS", layout.org_keys(organization_id))
        hashes = {text(member) for member in items(reply)}
    found: list[KeyRecord] = []
    for key_hash in hashes:
        record = yield from lookup_key(layout, key_hash, sealer)
        if record is not None:
            found.append(record)
    return tuple(sorted(found, key=lambda record: (record.created_at, record.key_id)))


def add_key(
    layout: Layout,
    organization_id: str,
    *,
    workflow_id: str | None = None,
    channels: tuple[str, ...] = (),
    expires_at: int | None = None,
    name: str = "",
    signature: SignatureRule | None = None,
    api_key: str | None = None,
    sealer: Sealer = UNSEALED,
) -> Operation[NewKey]:
    """Make a key with a secret of 64 hex digits; ``api_key`` is made up unless given.

    ``expires_at`` is unix seconds, ``channels`` are globs.

    Raises ProtocolError for ids that are none, and SealError for a ``sealer`` that cannot seal.
    """
    check_id(organization_id, "organization_id")
    if workflow_id is not None:
        check_id(workflow_id, "workflow_id")
    now = integer(items((yield command("TIME")))[0])
    api_key = api_key or "nr_live_" + secrets.token_urlsafe(32)
    record = KeyRecord(
        hash=hash_of(api_key),
        key_id="key_" + secrets.token_hex(8),
        organization_id=organization_id,
        workflow_id=workflow_id,
        secret_key=secrets.token_hex(32),
        channels=channels,
        expires_at=expires_at,
        name=name,
        signature=signature,
        created_at=now,
    )
    yield from put_key(layout, record, sealer)
    return NewKey(api_key, record)


def put_key(layout: Layout, record: KeyRecord, sealer: Sealer = UNSEALED) -> Operation[None]:
    """Write a key as it is, be it new or one that the store has lost."""
    yield command("SET", layout.key_id(record.key_id), layout.key(record.hash))
    yield command("SADD", layout.org_keys(record.organization_id), record.hash)
    yield command("HSET", layout.key(record.hash), *encode_key(record, sealer))
    yield from _announce(layout, record, "added")


def revoke_key(
    layout: Layout,
    key_id: str,
    *,
    actor: str | None = None,
    limits: LogLimits | None = None,
    sealer: Sealer = UNSEALED,
) -> Operation[KeyRecord]:
    """Revoke a key for good: caches are told at once, and its organization's sessions by key_rotated.

    Revoking again repeats the telling, should an earlier try have stopped half-way. Returns the revoked record.

    Raises UnknownKey.
    """
    before = yield from _existing(layout, key_id, sealer)
    yield REVOKE((layout.key(before.hash),), actor or "")
    return (yield from _tell(layout, before, "revoked", actor, limits, sealer))


def rotate_key(
    layout: Layout,
    key_id: str,
    *,
    overlap: float = 60.0,
    actor: str | None = None,
    limits: LogLimits | None = None,
    sealer: Sealer = UNSEALED,
) -> Operation[KeyRecord]:
    """Give a key a new secret; the old one verifies for ``overlap`` more seconds (0: not at all).

    Returns the new record, with the new secret.

    Raises UnknownKey, KeyRevoked for a key that no longer opens anything, and SealError for a master key that cannot
    read its secrets.
    """
    before = yield from _existing(layout, key_id, sealer)
    sealed = sealer.seal(secrets.token_hex(32), before.hash)
    reply = yield ROTATE((layout.key(before.hash),), sealed, int(overlap), actor or "")
    if text(reply) != "rotated":
        raise KeyRevoked(key_id)
    return (yield from _tell(layout, before, "rotated", actor, limits, sealer))


def _existing(layout: Layout, key_id: str, sealer: Sealer) -> Operation[KeyRecord]:
    record = yield from find_key(layout, key_id, sealer)
    if record is None:
        raise UnknownKey(key_id)
    return record


def _tell(
    layout: Layout, before: KeyRecord, change: Change, actor: str | None, limits: LogLimits | None, sealer: Sealer
) -> Operation[KeyRecord]:
    """Tell caches first, so that a client that asks for its new secret upon key_rotated does not get the old one."""
    after = yield from lookup_key(layout, before.hash, sealer)
    if after is None:
        raise UnknownKey(before.key_id)
    yield from _announce(layout, after, change)
    message = KeyRotatedInput(after.key_id, after.version, message_id=f"{after.key_id[:100]}~{after.version}")
    yield from apply(layout, after.organization_id, message, actor=actor, limits=limits)
    return after


def _announce(layout: Layout, record: KeyRecord, change: Change) -> Operation[None]:
    told = KeyChange(record.hash, record.key_id, record.organization_id, change, record.version)
    yield command("PUBLISH", layout.key_changes(), orjson.dumps(attrs.asdict(told)))


def all_hashes(layout: Layout) -> Operation[set[str]]:
    """Find the SHA-256 hex of every API key that there is."""
    found: set[str] = set()
    start = layout.key("")
    cursor = "0"
    while True:
        reply = yield command("SCAN", cursor, "MATCH", f"{start}*", "COUNT", 500)
        position, names = items(reply)
        found |= {text(name)[len(start) :] for name in items(names)}
        cursor = str(integer(position))
        if cursor == "0":
            return found
