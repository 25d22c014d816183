import time

import orjson
import trio
import trio.testing

from broker.control.member import Member
from broker.control.rest import ControlRest
from broker.keys import Admission, admit
from broker.store import keys
from broker.store.drive import run_sync
from protocol.signing import EMPTY_BODY_HASH, signature
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher
from tests.control.clients import acknowledge, eventually, opened, receive_with, snapshot


def member(broker: Broker) -> Member:
    """Return the only session's place in its room."""
    room = broker.plane.services.rooms.get(ORG)
    assert room is not None
    [found] = room.members
    return found


async def test_revoked_within_a_second(broker: Broker, valkey: Valkey) -> None:
    """A revoked key's sessions hear key_rotated and are closed with 4401; others of the organization stay."""
    api_key, record = add_key(valkey)
    other_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client, await broker.connect(other_key) as other:
        await snapshot(client)
        await snapshot(other)
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        with trio.fail_after(1):
            rotated = await client.receive_json()
            closed = await client.wait_closed()
        assert (rotated["type"], rotated["key_id"], rotated["new_version"]) == ("key_rotated", record.key_id, 2)
        assert closed.code == 4401
        assert (await other.receive_json())["message_id"] == rotated["message_id"]
        publisher(valkey).kill(ORG, "wf")
        assert (await other.receive_json())["state"] == "Killed"


async def test_expired_to_the_second(broker: Broker, valkey: Valkey) -> None:
    """A session whose key expires is closed with 4401 too."""
    api_key, _ = add_key(valkey, expires_at=int(time.time()) + 1000)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        broker.clock.offset = 1000
        with trio.fail_after(2):
            assert (await client.receive_json())["type"] == "key_rotated"
            assert (await client.wait_closed()).code == 4401


async def test_rotation_keeps_the_secret_of_the_session(broker: Broker, valkey: Valkey) -> None:
    """An open session goes on with its old secret, and resends of what it does not ack alternate with the new one."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    async with await broker.connect(api_key, record.secret_key) as client:
        opened(await client.receive(), api_key, record.secret_key)
        rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id))
        assert rotated.secret_key is not None
        told = opened(await client.receive(), api_key, record.secret_key)
        assert (told["type"], told["new_version"]) == ("key_rotated", 2)
        await eventually(lambda: member(broker).record == rotated)
        publisher(valkey).kill(ORG, "wf")
        killed = opened(await client.receive(), api_key, record.secret_key)
        assert killed["state"] == "Killed"
        assert opened(await client.receive(), api_key, rotated.secret_key) == killed
        assert opened(await client.receive(), api_key, record.secret_key) == killed


async def test_a_client_that_signs_with_the_new_secret_gets_it(broker: Broker, valkey: Valkey) -> None:
    """An ack that is signed with the new secret makes the session go on with that."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    async with await broker.connect(api_key, record.secret_key) as client:
        await client.receive()
        rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id, overlap=0))
        assert rotated.secret_key is not None
        await client.receive()
        await eventually(lambda: member(broker).record == rotated)
        publisher(valkey).kill(ORG, "wf")
        killed = opened(await client.receive(), api_key, record.secret_key)
        now = int(broker.clock())
        await acknowledge(client, killed["message_id"], now, api_key, record.secret_key)
        refused = opened(await receive_with(client, "signature_wrong"), api_key, record.secret_key)
        assert refused["code"] == "signature_wrong"
        await acknowledge(client, killed["message_id"], now, api_key, rotated.secret_key)
        await eventually(lambda: broker.counters.acks == 1)
        publisher(valkey).policy_invalidated(ORG, "p", 1)
        text = await receive_with(client, "policy_invalidated")
        assert opened(text, api_key, rotated.secret_key)["policy_id"] == "p"


async def test_handshake_signed_with_the_previous_secret(broker: Broker, valkey: Valkey) -> None:
    """A client that still has the previous secret is signed with it, and told the new one when it verifies its key."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id))
    async with await broker.connect(api_key, record.secret_key) as client:
        opened(await client.receive(), api_key, record.secret_key)
    rest = ControlRest(broker.plane.services)
    at = int(broker.clock())
    for secret, told in ((record.secret_key, rotated.secret_key), (rotated.secret_key, None), (None, None)):
        admission = admit(
            rotated,
            api_key=api_key,
            now=at,
            signature=None if secret is None else signature(secret, at, api_key, EMPTY_BODY_HASH),
            timestamp=None if secret is None else str(at),
            max_age=300,
        )
        assert isinstance(admission, Admission)
        status, body = rest.auth_verify(admission)
        assert (status, body.get("secret_key")) == (200, told)
        assert (body["organization_id"], body["workflow_id"], body["key_version"]) == (ORG, "wf", 2)


async def test_status_with_and_without_a_room(broker: Broker, valkey: Valkey) -> None:
    """Status answers are the same from the broker's own copy as from the store; 404 for what never changed."""
    api_key, _ = add_key(valkey)
    rest = ControlRest(broker.plane.services)
    publisher(valkey).pause(ORG, "wf", reason="lunch")

    async def ask() -> list[bytes]:
        asked = rest.workflow_status(ORG, "wf"), rest.org_status(ORG), rest.workflow_status(ORG, "no")
        return [orjson.dumps(await each) for each in asked]

    without = await ask()
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        await eventually(lambda: broker.plane.services.rooms.current(ORG))
        within = await ask()
    assert without == within
    (status, body), (listed, of_all), (unknown, _) = map(orjson.loads, within)
    assert (status, body["state"], body["reason"]) == (200, "Paused", "lunch")
    assert (listed, of_all) == (200, {"organization_id": ORG, "workflows": [body]})
    assert unknown == 404


async def test_an_ack_with_the_previous_secret(broker: Broker, valkey: Valkey) -> None:
    """Inside the overlap an ack may be signed with the old secret, but that makes no session go back to it."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id))
    assert rotated.secret_key is not None
    async with await broker.connect(api_key, rotated.secret_key) as client:
        await client.receive()
        killed = publisher(valkey).kill(ORG, "wf").message_id
        await receive_with(client, killed)
        await acknowledge(client, killed, int(broker.clock()), api_key, record.secret_key)
        await eventually(lambda: broker.counters.acks == 1)
        assert member(broker).secret == rotated.secret_key


async def test_a_session_that_is_over_watches_no_key(broker: Broker, valkey: Valkey) -> None:
    """What a session held is given back at its end: its place, its signer, and the watch over its key."""
    api_key, record = add_key(valkey)
    async with await broker.connect(api_key, record.secret_key) as client:
        await client.receive()
        assert (len(broker.plane.services.members), len(broker.plane.services.signers)) == (1, 1)
    await eventually(lambda: broker.counters.control_sessions == 0)
    services, lookups = broker.plane.services, broker.counters.key_lookups
    services.keys.suspect_all()
    await trio.testing.wait_all_tasks_blocked()
    assert (len(services.members), len(services.signers), broker.counters.key_lookups) == (0, 0, lookups)


async def test_after_a_break_everything_is_asked_for_again(broker: Broker, valkey: Valkey) -> None:
    """A subscription link that is back has missed things: until that is looked up neither room nor key is sure."""
    api_key, _ = add_key(valkey)
    services = broker.plane.services
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        await eventually(lambda: services.rooms.current(ORG))
        lookups, repairs = broker.counters.key_lookups, broker.counters.gap_repairs
        broker.plane.feed.on_restored()
        assert services.rooms.current(ORG) is None
        assert broker.counters.gap_repairs == repairs + 1
        await services.keys.lookup(api_key)
        assert broker.counters.key_lookups > lookups
        await eventually(lambda: services.rooms.current(ORG))
