"""API keys in the store."""

import contextlib
import json

import pytest

from broker.store.errors import KeyRevoked, UnknownKey, WrongSchema
from broker.store.key_record import KeyRecord, KeyStatus, hash_of
from broker.store.keys import add_key, decode_key_change, find_key, list_keys, lookup_key, revoke_key, rotate_key
from broker.store.layout import Layout
from broker.store.log import read_log
from broker.store.request import Operation, Pause
from broker.store.schema import check_schema
from broker.store.snapshot import Position
from protocol.errors import ProtocolError
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, done, out_of_memory, stopped_after


class Reversed:
    """A sealer that is easy to see through."""

    fingerprint = "mirror"

    def seal(self, secret: str, owner: str) -> str:
        return f"sealed:{owner}:" + secret[::-1]

    def unseal(self, stored: str, owner: str) -> str:
        assert stored.startswith(f"sealed:{owner}:")
        return stored.removeprefix(f"sealed:{owner}:")[::-1]


def test_new_key_reads_back(valkey: Valkey) -> None:
    """A key is found by its hash and its id exactly as it was made, and is stored without itself."""
    made = done(
        valkey,
        add_key(LAYOUT, ORG, workflow_id="wf", channels=("a:*", "b"), expires_at=9, name="ä", signature="optional"),
    )
    assert made.api_key.startswith("nr_live_")
    assert len(made.record.secret_key or "") == 64
    assert done(valkey, lookup_key(LAYOUT, hash_of(made.api_key))) == made.record
    assert done(valkey, find_key(LAYOUT, made.record.key_id)) == made.record
    assert done(valkey, list_keys(LAYOUT, ORG)) == (made.record,)
    assert made.api_key not in str(valkey.client.hgetall(LAYOUT.key(made.record.hash)))
    assert made.api_key not in repr(made)
    assert (made.record.secret_key or "?") not in repr(made)


@pytest.mark.parametrize("layout", [LAYOUT, Layout("two/")])
def test_a_key_id_leads_to_the_hash(valkey: Valkey, layout: Layout) -> None:
    """Under a key_id stands the name of the key's hash as it is in Redis; the bare SHA-256 is understood as well."""
    record = done(valkey, add_key(layout, ORG)).record
    name = valkey.client.get(layout.key_id(record.key_id))
    assert name == layout.key(record.hash).encode()
    assert valkey.client.hget(name, "key_id") == record.key_id.encode()
    valkey.client.set(layout.key_id(record.key_id), record.hash)
    assert done(valkey, find_key(layout, record.key_id)) == record


def test_listing_every_organization(valkey: Valkey) -> None:
    """Without an organization all keys below the prefix are listed, and no others."""
    other = Layout("two/")
    first = done(valkey, add_key(LAYOUT, "a")).record
    second = done(valkey, add_key(LAYOUT, "b")).record
    done(valkey, add_key(other, "c"))
    assert set(done(valkey, list_keys(LAYOUT))) == {first, second}


def test_rotation_keeps_the_old_secret_for_the_overlap(valkey: Valkey) -> None:
    """After a rotation both secrets verify until the overlap is over; with none only the new one does."""
    made = done(valkey, add_key(LAYOUT, ORG, sealer=Reversed())).record
    after = done(valkey, rotate_key(LAYOUT, made.key_id, overlap=60, actor="ops", sealer=Reversed()))
    assert (after.previous_secret, after.version) == (made.secret_key, 2)
    assert after.secret_key != made.secret_key
    now = after.previous_until - 1
    assert after.verifying_secrets(now) == (after.secret_key, made.secret_key)
    assert after.verifying_secrets(now + 1) == (after.secret_key,)
    at_once = done(valkey, rotate_key(LAYOUT, made.key_id, overlap=0, sealer=Reversed()))
    assert at_once.verifying_secrets(0) == (at_once.secret_key,)
    assert at_once.previous_secret == after.secret_key


def test_changes_are_told_to_caches_and_sessions(valkey: Valkey) -> None:
    """Every change is announced; rotation and revocation reach the organization's log once, however often repeated."""
    subscription = valkey.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(LAYOUT.key_changes())
    subscription.get_message(timeout=5)
    made = done(valkey, add_key(LAYOUT, ORG)).record
    done(valkey, rotate_key(LAYOUT, made.key_id))
    done(valkey, revoke_key(LAYOUT, made.key_id, actor="ops"))
    again = done(valkey, revoke_key(LAYOUT, made.key_id, actor="ops"))
    assert (again.status, again.version) == (KeyStatus.REVOKED, 3)
    told = [decode_key_change(subscription.get_message(timeout=5)["data"]) for _ in range(4)]
    subscription.close()
    assert [(item.change, item.version) for item in told] == [
        ("added", 1),
        ("rotated", 2),
        ("revoked", 3),
        ("revoked", 3),
    ]
    assert {(item.hash, item.key_id, item.organization_id) for item in told} == {(made.hash, made.key_id, ORG)}
    entries = done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries
    assert [json.loads(entry.message)["new_version"] for entry in entries] == [2, 3]


def test_revoked_key_stays_revoked(valkey: Valkey) -> None:
    """A revoked key cannot be rotated back to life, and an unknown one is called unknown."""
    made = done(valkey, add_key(LAYOUT, ORG)).record
    done(valkey, revoke_key(LAYOUT, made.key_id))
    with pytest.raises(KeyRevoked):
        done(valkey, rotate_key(LAYOUT, made.key_id))
    with pytest.raises(UnknownKey):
        done(valkey, revoke_key(LAYOUT, "nobody"))
    with pytest.raises(ProtocolError):
        done(valkey, find_key(LAYOUT, "no body"))


@pytest.mark.parametrize("steps", range(1, 4))
def test_adding_that_stops_anywhere_grants_nothing(valkey: Valkey, steps: int) -> None:
    """A program that dies before the last write of a new key leaves no key that opens anything."""
    stopped_after(valkey, add_key(LAYOUT, ORG, api_key="nr_live_x"), steps)
    assert done(valkey, lookup_key(LAYOUT, hash_of("nr_live_x"))) is None
    assert done(valkey, list_keys(LAYOUT, ORG)) == ()


@pytest.mark.parametrize("steps", range(6))
def test_revoking_that_stops_anywhere_is_mended_by_another_try(valkey: Valkey, steps: int) -> None:
    """However far the first try came, after the second the key is revoked once and its sessions are told once."""
    made = done(valkey, add_key(LAYOUT, ORG)).record

    stopped_after(valkey, revoke_key(LAYOUT, made.key_id), steps)
    after = done(valkey, revoke_key(LAYOUT, made.key_id))
    assert (after.status, after.version) == (KeyStatus.REVOKED, 2)
    assert len(done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries) == 1


def test_revoking_while_memory_is_full(valkey: Valkey) -> None:
    """A key that is in wrong hands is shut out just then, too, and its sessions are told."""
    made = done(valkey, add_key(LAYOUT, ORG))
    with out_of_memory(valkey):
        assert done(valkey, revoke_key(LAYOUT, made.record.key_id)).status is KeyStatus.REVOKED
    log = done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0)))
    assert [each.type for each in log.entries] == ["key_rotated"]


def test_refusal() -> None:
    """A key is refused when revoked, and from the very second that it expires."""
    record = KeyRecord(hash="h", key_id="k", organization_id=ORG, expires_at=100)
    assert (record.refusal(99.9), record.refusal(100)) == (None, "expired")


def test_key_change_of_another_shape() -> None:
    """Whatever else is published on the channel of changes is a ValueError."""
    like_one = b'{"hash": [], "key_id": "k", "organization_id": "o", "change": "added", "version": 1}'
    for payload in (b"", b"[]", b"{}", b'{"hash": 1, "surplus": 2}', b"\xff", like_one):
        with pytest.raises(ValueError, match=r"\S"):
            decode_key_change(payload)


def test_schema(valkey: Valkey) -> None:
    """An empty store is marked; one that bears another version is refused in words."""
    done(valkey, check_schema(LAYOUT))
    done(valkey, check_schema(LAYOUT))
    valkey.client.set(LAYOUT.schema(), "2")
    with pytest.raises(WrongSchema, match=r"version 2.*understands 1"):
        done(valkey, check_schema(LAYOUT))


def test_a_record_shows_no_secret() -> None:
    """A record keeps its secrets, the former one too, to itself when it is written into a log or a traceback."""
    assert "hidden" not in repr(KeyRecord("hash", "key_1", ORG, secret_key="hidden-1", previous_secret="hidden-2"))


def test_caches_are_told_before_clients(valkey: Valkey) -> None:
    """A client that asks for its new secret upon key_rotated must not get the old one: the log comes last."""
    made = done(valkey, add_key(LAYOUT, ORG)).record
    for change in (rotate_key(LAYOUT, made.key_id), revoke_key(LAYOUT, made.key_id)):
        told = _requests(valkey, change)
        announced = [at for at, words in enumerate(told) if words[:2] == ("PUBLISH", LAYOUT.key_changes())]
        logged = [at for at, words in enumerate(told) if LAYOUT.live(ORG) in words]
        assert len(announced) == len(logged) == 1
        assert announced < logged


def _requests(valkey: Valkey, operation: Operation[object]) -> list[tuple[object, ...]]:
    """Run an operation, and return the words of all that it asked for."""
    asked: list[tuple[object, ...]] = []

    def noted() -> Operation[object]:
        reply: object = None
        request = next(operation)
        with contextlib.suppress(StopIteration):
            while True:
                assert not isinstance(request, Pause)
                asked.append(request.args)
                reply = yield request
                request = operation.send(reply)
        return None

    done(valkey, noted())
    return asked
