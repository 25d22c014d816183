"""What careless and malicious publishers put on Redis: a real broker passes on none of it, and serves on."""

import json

import pytest

from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.e2e.hostile import bystanders, connect
from tests.support import Rejected, WsClient

pytestmark = pytest.mark.usefixtures("no_errors_are_logged")

BAD_EVENTS = {
    "no JSON": b"hello",
    "empty": b"",
    "not UTF-8": b'{"type": "\xff"}',
    "no object": b"[]",
    "no type": b"{}",
    "type that is no text": b'{"type": 7}',
    "not a number": b'{"type": "a", "data": NaN}',
    "a bomb": b'{"type": "a", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "another channel": b'{"type": "a", "channel": "workflow:elsewhere"}',
    "2 MiB": b'{"type": "a", "data": "' + b"x" * (2 << 20) + b'"}',
    **{
        f"reserved type {name}": b'{"type": "%s"}' % name.encode()
        for name in (
            "ping",
            "pong",
            "subscribe",
            "subscribed",
            "unsubscribe",
            "unsubscribed",
            "error",
            "resync_required",
        )
    },
}


async def test_events(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """Publications that are no events are dropped and logged, and the next good one arrives."""
    channel = f"workflow:{org}"
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        await client.send_json(type="subscribe", channel=channel)
        await client.receive_type("subscribed")
        place = len(broker.program.err)
        for payload in BAD_EVENTS.values():
            assert store.client.publish(channel, payload) >= 1
        store.client.publish(channel, '{"type": "good"}')
        assert await client.receive_json() == {"type": "good", "channel": channel}
        assert broker.logged("publication dropped", place)["channel"] == channel


CHANGE = {"type": "state_change", "workflow_id": "wf", "state": "Killed"}

BAD_CONTROL: dict[str, bytes | dict[str, object]] = {
    "no JSON": b"kill wf",
    "not UTF-8": b'{"type": "state_change", "workflow_id": "\xff", "state": "Killed"}',
    "a bomb": b"[" * 1_000_000,
    "no object": b'["state_change"]',
    "no type": {"workflow_id": "wf", "state": "Killed"},
    "a type of the server": {"type": "initial_state", "organization_id": "acme", "workflows": []},
    "a type of the client": {"type": "ack", "message_id": "m", "received_at": 1},
    "resync": {"type": "resync_required", "reason": "because"},
    "another organization": {**CHANGE, "organization_id": "elsewhere"},
    "unknown state": {**CHANGE, "state": "Dead"},
    "no state": {**CHANGE, "state": None},
    "no workflow": {"type": "state_change", "state": "Killed"},
    "workflow that is no id": {**CHANGE, "workflow_id": "a b"},
    "workflow that is null": {**CHANGE, "workflow_id": None},
    "workflow that is too long": {**CHANGE, "workflow_id": "x" * 129},
    "version that is text": {**CHANGE, "version": "7"},
    "version that is true": {**CHANGE, "version": True},
    "message id that is no id": {**CHANGE, "message_id": "a\nb"},
    "outcome that is none": {
        "type": "approval_resolved",
        "approval_id": "a",
        "workflow_id": "wf",
        "execution_id": "e",
        "outcome": "maybe",
        "resolved_at": 1,
    },
}


async def test_control_input(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """What is no control message is refused and logged, changes nothing, and the next good one arrives."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        for payload in BAD_CONTROL.values():
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            assert store.client.publish(f"control:{org}", data) >= 1
        store.client.publish(f"control:{org}", json.dumps({**CHANGE, "state": "paused"}))
        change = await agent.receive_json()
        assert (change["type"], change["state"], change["version"]) == ("state_change", "Paused", 1)


@pytest.mark.parametrize("version", [-1, 0, 1 << 53, 10**30, None])
async def test_kill_of_an_absurd_version(broker: Broker, store: Valkey, key: Key, org: str, version: object) -> None:
    """A number that makes no sense does not keep a kill from its workflow."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        store.client.publish(f"control:{org}", json.dumps({**CHANGE, "version": version}))
        change = await agent.receive_json()
        assert (change["state"], change["version"]) == ("Killed", 1)


async def test_control_channels_of_nobody(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """Control input for organizations that cannot be, or have no key, is heard by nobody and stored nowhere."""
    async with bystanders(broker, store, key):
        for name in ("", " ", "a b", "{x}", "ä", "x" * 200, "a:b:c", f"{org}-without-key", "*"):
            store.client.publish(f"control:{name}", json.dumps(CHANGE))
    assert not store.client.keys(f"signalbox:{{{org}-without-key}}*")
    assert not store.client.keys("signalbox:{{x}}*")


async def test_a_kill_is_final(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """No plain publication leaves Killed, whatever version it claims."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        store.client.publish(f"control:{org}", json.dumps(CHANGE))
        assert (await agent.receive_json())["state"] == "Killed"
        for extra in ({}, {"version": 99}, {"message_id": "forged"}, {"version": (1 << 53) - 1}):
            store.client.publish(f"control:{org}", json.dumps({**CHANGE, "state": "resumed", **extra}))
    assert [entry["state"] for entry in status(broker, org, "wf")] == ["Killed"]


def status(broker: Broker, org: str, workflow: str) -> list[dict[str, object]]:
    """Return what the command line knows of a workflow."""
    return [entry for entry in broker.installation.json("status", org) if entry.get("workflow_id") == workflow]


async def test_another_organization(broker: Broker, key: Key) -> None:
    """A key opens the control plane of its own organization only, and an unknown key opens none."""
    for org, api_key, expected in (("other", key.api_key, 403), (key.organization_id, "nr_live_none", 401)):
        with pytest.raises(Rejected) as rejected:
            await WsClient.connect(broker.address, f"/ws/control/{org}", {"X-API-Key": api_key})
        assert rejected.value.status == expected


async def test_forged_acks(broker: Broker, store: Valkey, key: Key) -> None:
    """Acks of messages that were never sent here, or with a wrong signature, are refused with an error."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        await agent.send_json(type="ack", message_id="never-sent", received_at=1)
        forged = {"api_key": key.api_key, "timestamp": 1, "signature": "0" * 64}
        await agent.send_json(type="ack", message_id="never-sent", received_at=1, **forged)
        assert (await agent.receive_type("error"))["code"].startswith("signature_")
