"""The broker-wide subscriptions, over a Redis that is away at the start and one that refuses."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog
import trio

from broker.control import feed, rooms
from broker.keys.cache import FRESH_SECONDS
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, add_key, running_broker
from tests.control.clients import eventually, snapshot

KEYS = LAYOUT.key_changes()


def is_heard(server: Valkey) -> bool:
    """Whether somebody hears both control input and changes of keys."""
    return bool(server.client.pubsub_numpat() and server.client.pubsub_numsub(KEYS)[0][1])


def refused(logs: list[MutableMapping[str, Any]]) -> set[str]:
    """Which of the broker-wide subscriptions were said to be refused."""
    lines = [line for line in logs if line["event"] == "a subscription is refused"]
    return {line["channel"] for line in lines} & {"control:*", KEYS}


def allow(server: Valkey, rule: str) -> None:
    """Change what everybody may subscribe to."""
    server.client.execute_command("ACL", "SETUSER", "default", rule)  # type: ignore[no-untyped-call]


async def test_a_start_without_redis(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that starts while Redis is away hears of control input and of changes of keys once it is there."""
    monkeypatch.setattr(feed, "CONFIRM_SECONDS", 0.05)
    real, away = own_valkey.socket, own_valkey.socket.with_name("away")
    real.rename(away)
    async with running_broker(own_valkey) as broker:
        assert not broker.plane.feed.is_deaf  # nothing can be heard, but the link says so itself
        away.rename(real)
        await eventually(lambda: is_heard(own_valkey) and not broker.plane.feed.is_deaf)
        await eventually(lambda: broker.plane.services.rooms.blind_since is None)


async def test_refused_on_a_later_connection(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose channels are taken away and given back is heard again, and is known to be deaf in between."""
    monkeypatch.setattr(feed, "REFUSED_SECONDS", 0.02)
    monkeypatch.setattr(rooms, "UNHEARD_SECONDS", 0.02)
    api_key, _ = add_key(own_valkey)
    with structlog.testing.capture_logs() as logs:
        async with running_broker(own_valkey) as broker, await broker.connect(api_key) as client:
            await snapshot(client)
            assert is_heard(own_valkey)
            allow(own_valkey, "resetchannels")
            await eventually(lambda: broker.plane.feed.is_deaf)
            assert not is_heard(own_valkey)
            await eventually(lambda: refused(logs) == {"control:*", KEYS})
            allow(own_valkey, "allchannels")
            await eventually(lambda: is_heard(own_valkey) and not broker.plane.feed.is_deaf)
            own_valkey.client.publish(
                f"control:{ORG}", json.dumps({"type": "state_change", "workflow_id": "wf", "state": "killed"})
            )
            assert (await client.receive_type("state_change"))["state"] == "Killed"
    assert len([line for line in logs if line.get("channel") == "control:*"]) == 1


async def test_a_key_that_is_revoked_while_nobody_hears(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis lets the broker hear changes of keys again, it looks at once for those that went by."""
    monkeypatch.setattr(feed, "REFUSED_SECONDS", 0.02)
    api_key, record = add_key(own_valkey)
    async with running_broker(own_valkey) as broker, await broker.connect(api_key) as client:
        await snapshot(client)
        allow(own_valkey, "resetchannels")
        await eventually(lambda: broker.plane.feed.is_deaf)
        await eventually(lambda: broker.plane.feed._link.state.up and not broker.plane.feed._link.restoring)
        own_valkey.client.hset(LAYOUT.key(record.hash), "status", "revoked")
        allow(own_valkey, "allchannels")
        with trio.fail_after(FRESH_SECONDS / 2):  # before it looks of its own accord
            await client.receive_type("key_rotated")
