import json
from typing import Any

import pytest
import structlog
import trio

from broker.control import reader
from broker.control.carried import CarriedSession
from broker.control.reader import MAX_BAD_MESSAGES
from broker.store.snapshot import Position
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher
from tests.control.clients import acknowledge, eventually, opened, snapshot


async def test_snapshot_first_then_changes_signed(broker: Broker, valkey: Valkey) -> None:
    """A session gets its bound workflow in the snapshot, then a kill within the second, both rightly signed."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    async with await broker.connect(api_key, record.secret_key) as client:
        first = opened(await client.receive(), api_key, record.secret_key)
        assert first == {
            "type": "initial_state",
            "organization_id": ORG,
            "workflows": [{"workflow_id": "wf", "state": "Normal", "version": 0, "reason": None, "updated_at": 0}],
        }
        applied = await trio.to_thread.run_sync(lambda: publisher(valkey).kill(ORG, "wf", reason="costs"))
        change = opened(await client.receive(), api_key, record.secret_key)
        assert (change["state"], change["version"], change["reason"]) == ("Killed", 1, "costs")
        assert change["message_id"] == applied.message_id


async def test_the_last_line_of_a_session_counts_its_messages(broker: Broker, valkey: Valkey) -> None:
    """`told` is how many messages there were: the snapshot and each change, once."""
    api_key, _ = add_key(valkey, "wf")
    with structlog.testing.capture_logs() as logs:
        async with await broker.connect(api_key) as client:
            await snapshot(client)
            for _ in range(3):
                await trio.to_thread.run_sync(lambda: publisher(valkey).pause(ORG, "wf"))
                await client.receive_type("state_change")
        await eventually(lambda: any(line["event"] == "connection closed" for line in logs))
    (closed,) = (line for line in logs if line["event"] == "connection closed")
    assert closed["told"] == 4


async def test_nothing_is_answered_before_the_snapshot(broker: Broker, valkey: Valkey) -> None:
    """A client that speaks at once still hears `initial_state` first."""
    api_key, _ = add_key(valkey, "w")
    async with await broker.connect(api_key) as client:
        await client.send_json(type="ping")
        await client.send("nonsense")
        assert [(await client.receive_json())["type"] for _ in range(3)] == ["initial_state", "pong", "error"]


async def test_a_ping_is_answered_in_time_also_without_a_snapshot(
    broker: Broker, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store does not answer a client would take silence for death."""
    monkeypatch.setattr(reader, "OPENING_SECONDS", 0.05)
    api_key, _ = add_key(valkey, "w")
    await broker.plane.services.keys.lookup(api_key)
    valkey.client.client_pause(500)
    async with await broker.connect(api_key) as client:
        await client.send_json(type="ping")
        assert [(await client.receive_json())["type"] for _ in range(2)] == ["pong", "initial_state"]


async def test_a_session_that_is_taken_up_late(broker: Broker, valkey: Valkey) -> None:
    """Approvals from while nobody held the connection come from the log, also from before the replay window."""
    api_key, record = add_key(valkey)
    publisher(valkey).policy_invalidated(ORG, "p", 1)
    publisher(valkey).approval_resolved(ORG, "ap", workflow_id="a", execution_id="x", outcome="approved")
    log = LAYOUT.log(ORG)
    client: Any = valkey.client
    (epoch,) = client.hmget(LAYOUT.meta(ORG), "epoch")
    entries = [(entry.decode().split("-"), fields) for entry, fields in client.xrange(log)]
    client.delete(log)
    for (ms, seq), fields in entries:  # an hour ago
        client.xadd(log, fields, f"{int(ms) - 3_600_000}-{seq}")
    first_ms = int(entries[0][0][0]) - 3_600_000
    broker.carried[api_key] = CarriedSession(
        record=record,
        api_key=api_key,
        secret=record.secret_key,
        position=Position(epoch.decode(), 1, first_ms),
        pending=(),
        sent=1,
        acked=0,
        last_ack=0.0,
        clock_skew=None,
        wrong_signatures=0,
        silent=False,
    )
    async with await broker.connect(api_key) as agent:
        await snapshot(agent)
        assert (await agent.receive_json())["type"] == "approval_resolved"


async def test_plain_publication_is_applied_once(broker: Broker, valkey: Valkey) -> None:
    """A plain PUBLISH in any case reaches a session, normalized, and a refused one hurts nobody."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        assert await snapshot(client) == {}
        valkey.client.publish(f"control:{ORG}", "not json")
        valkey.client.publish(
            f"control:{ORG}", json.dumps({"type": "state_change", "workflow_id": "w", "state": "PAUSED"})
        )
        change = await client.receive_json()
        assert (change["type"], change["state"], change["version"]) == ("state_change", "Paused", 1)
    assert broker.counters.control_inputs_refused["invalid_json"] == 1
    assert broker.counters.control_applied["applied"] == 1


async def test_kill_while_nobody_was_there(broker: Broker, valkey: Valkey) -> None:
    """A kill made before an agent connects is in its snapshot, and sent as a message so that it can be acked."""
    api_key, _ = add_key(valkey, "wf")
    applied = await trio.to_thread.run_sync(lambda: publisher(valkey).kill(ORG, "wf"))
    async with await broker.connect(api_key) as client:
        assert (await snapshot(client))["wf"]["state"] == "Killed"
        assert (await client.receive_type("state_change"))["message_id"] == applied.message_id


async def test_resent_until_acknowledged(broker: Broker, valkey: Valkey) -> None:
    """A kill is sent again until its ack comes, and not after it."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        await trio.to_thread.run_sync(lambda: publisher(valkey).kill(ORG, "wf"))
        first, second = await client.receive_json(), await client.receive_json()
        assert first["message_id"] == second["message_id"]
        await acknowledge(client, first["message_id"], int(broker.clock()), api_key, record.secret_key)
        await client.silence(0.5)
    assert broker.counters.acks == 1


async def test_wrongly_signed_acks_end_nothing(broker: Broker, valkey: Valkey) -> None:
    """An agent that signs each of its acks with a secret that is no more hears of it each time, and stays connected."""
    api_key, _ = add_key(valkey, "wf")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        for _ in range(MAX_BAD_MESSAGES + 1):
            await acknowledge(client, "some", int(broker.clock()), api_key, "an old secret")
            assert (await client.receive_json())["code"] == "signature_wrong"
        publisher(valkey).kill(ORG, "wf")
        assert (await client.receive_json())["state"] == "Killed"
    assert broker.counters.acks_refused["signature_wrong"] == MAX_BAD_MESSAGES + 1


async def test_bad_messages_are_answered(broker: Broker, valkey: Valkey) -> None:
    """Ping gets an unsigned pong, nonsense an error, and the session lives on."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        await client.send_json(type="ping")
        assert await client.receive_json() == {"type": "pong"}
        await client.send("[]")
        assert (await client.receive_json())["code"] == "invalid_message"
        await client.send(b"\x00")
        assert (await client.receive_json())["code"] == "binary_message"
        await client.send_json(type="subscribed")
        await client.send_json(type="ping")
        assert await client.receive_json() == {"type": "pong"}


async def test_endless_nonsense_ends_it(broker: Broker, valkey: Valkey) -> None:
    """A client that sends nothing but nonsense is closed with 4400."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        for _ in range(100):
            await client.send("?")
        assert (await client.wait_closed()).code == 4400


async def test_now_and_then_nonsense_is_borne(broker: Broker, valkey: Valkey) -> None:
    """An SDK that sends something unknown now and then stays connected, however often."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        for _ in range(2):
            for _ in range(60):
                await client.send("nonsense")
            await client.send_json(type="ping")
            await client.receive_type("pong")
