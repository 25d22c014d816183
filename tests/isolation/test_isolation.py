"""An organization, a key, a glob never sees what is another's: random worlds on a whole broker and a real Valkey."""

import json
from collections import Counter
from functools import partial
from typing import Any

import attrs
import pytest
import redis
import trio
from hypothesis import HealthCheck, example, given, settings

from broker.config import Config, Control
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from tests.conftest import Valkey
from tests.isolation.world import CHANNELS, FORBIDDEN, ORGS, Change, Event, KeySpec, World, matches, may_see, worlds
from tests.support import RawClient, Rejected, WsClient
from tests.support.whole import Whole, whole_broker

LAYOUT = Layout()
CONFIG = Config(control=Control(handshake_signature="optional"))
OBSERVER = KeySpec("observer", None, ("*",), with_ticket=False)
"""Sees every channel: when it has seen the end of each, nothing is under way any more."""


@attrs.define(eq=False)
class Client:
    """A key with its browser and its agent, and all that they were told."""

    spec: KeySpec
    api_key: str
    browser: WsClient
    agent: WsClient
    answers: dict[str, str] = attrs.field(factory=dict)
    events: list[tuple[str, int]] = attrs.field(factory=list)
    changes: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    async def subscribe_to_everything(self) -> None:
        """Ask for every channel, also for those that nobody may have, and note each answer."""
        for channel in CHANNELS + FORBIDDEN:
            await self.browser.send_json(type="subscribe", channel=channel)
            message = await self.browser.receive_json()
            assert message["channel"] == channel
            self.answers[channel] = message["type"]

    async def watch(self, ends: int) -> None:
        """Read events until so many channels have ended, then whatever was sent before one more answer."""
        while ends:
            ends -= await self._take()
        await self.browser.send_json(type="unsubscribe", channel="workflow:none")
        while await self._take() >= 0:
            pass

    async def _take(self) -> int:
        message = await self.browser.receive_json()
        if message["type"] == "unsubscribed":
            return -1
        if message["type"] == "end":
            return 1
        assert message["type"] == "event", message
        self.events.append((message["channel"], message["n"]))
        return 0

    async def listen(self) -> None:
        """Read control messages until the last change of the organization."""
        while True:
            message = await self.agent.receive_json()
            assert message["organization_id"] == self.spec.org
            if message["type"] == "initial_state":
                continue
            assert message["type"] == "state_change"
            if message["workflow_id"] == "end":
                return
            self.changes[message["message_id"]] = message


async def connect(broker: Whole, spec: KeySpec, client: redis.Redis) -> Client:
    """Make a key, and connect with it."""
    made = run_sync(client, add_key(LAYOUT, spec.org, workflow_id=spec.workflow, channels=spec.globs))
    if spec.with_ticket:
        async with await RawClient.connect(broker.address) as raw:
            reply = await raw.request("POST", "/api/v1/tickets", {"X-API-Key": made.api_key})
        browser = await WsClient.connect(broker.address, f"/ws/?ticket={reply.json['ticket']}")
    else:
        browser = await broker.browser(made.api_key)
    agent = await broker.agent(made.api_key, spec.org)
    assert (await agent.receive_json())["type"] == "initial_state"
    return Client(spec, made.api_key, browser, agent)


def publish(world: World, client: redis.Redis) -> None:
    """Publish everything, and then the end of every channel and of every organization."""
    publisher = Publisher(client)
    for number, publication in enumerate(world.publications):
        match publication:
            case Event(channel):
                client.publish(channel, json.dumps({"type": "event", "n": number}))
            case Change(org, workflow, state, plain):
                if plain:
                    change = {"type": "state_change", "workflow_id": workflow, "state": state, "reason": str(number)}
                    client.publish(f"control:{org}", json.dumps(change))
                elif any(key.org == org for key in world.keys):
                    publisher.state_change(org, workflow, state, str(number))
    for channel in CHANNELS:
        client.publish(channel, '{"type": "end"}')
    for org in {key.org for key in world.keys}:
        client.publish(f"control:{org}", '{"type": "state_change", "workflow_id": "end", "state": "Flagged"}')


async def check_rest(broker: Whole, client: Client, world: World) -> None:
    """Insist that REST answers and control sockets are the own organization's alone."""
    headers = {"X-API-Key": client.api_key}
    own = {
        change.workflow for change in world.publications if isinstance(change, Change) and change.org == client.spec.org
    }
    async with await RawClient.connect(broker.address) as raw:
        for org in ORGS:
            reply = await raw.request("GET", f"/api/v1/orgs/{org}/status", headers)
            if org != client.spec.org:
                assert (reply.status, reply.error_code) == (403, "wrong_organization")
                with pytest.raises(Rejected) as refused:
                    await broker.agent(client.api_key, org)
                assert refused.value.status == 403
            else:
                assert {workflow["workflow_id"] for workflow in reply.json["workflows"]} - {"end"} == own
        for workflow in ("a", "ab", "acme"):
            reply = await raw.request("GET", f"/api/v1/status/{workflow}", headers)
            assert reply.status == (200 if workflow in own else 404)


async def live(world: World, valkey: Valkey) -> None:
    """Let a world happen, and insist that everyone got exactly what was for him."""
    valkey.client.flushall()
    async with whole_broker(valkey.url, CONFIG) as broker:
        clients = [await connect(broker, spec, valkey.client) for spec in (OBSERVER, *world.keys)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.subscribe_to_everything)
        publish(world, valkey.client)
        await clients[0].watch(len(CHANNELS))
        async with trio.open_nursery() as nursery:
            for client in clients[1:]:
                nursery.start_soon(client.watch, sum(may_see(client.spec, channel) for channel in CHANNELS))
                nursery.start_soon(client.listen)
        for client in clients[1:]:
            check(client, world)
            await check_rest(broker, client, world)
        for client in clients:
            await client.browser.kill()
            await client.agent.kill()


def check(client: Client, world: World) -> None:
    """Insist that one client was told what it may know, each thing once and in order, and nothing else."""
    spec = client.spec
    for channel in CHANNELS:
        assert client.answers[channel] == ("subscribed" if may_see(spec, channel) else "error"), channel
    assert {client.answers[channel] for channel in FORBIDDEN} == {"error"}
    events = [(what.channel, n) for n, what in enumerate(world.publications) if isinstance(what, Event)]
    for channel in CHANNELS:
        seen = [n for name, n in client.events if name == channel]
        assert seen == [n for name, n in events if name == channel and may_see(spec, channel)]
    changes = [
        (what.workflow, what.state, str(n))
        for n, what in enumerate(world.publications)
        if isinstance(what, Change) and what.org == spec.org
    ]
    got = [(each["workflow_id"], each["state"], each["reason"]) for each in client.changes.values()]
    assert Counter(got) == Counter(changes)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@example(
    world=World(
        (
            KeySpec("acme", None, (), False),
            KeySpec("acme2", "a", (), True),
            KeySpec("ACME", None, ("workflow:[a]",), True),
        ),
        tuple(Event(channel) for channel in CHANNELS) + tuple(Change(org, "a", "Paused", True) for org in ORGS),
    )
)
@given(world=worlds)
def test_nobody_sees_what_is_anothers(world: World, valkey_server: Valkey) -> None:
    """Whatever the keys, globs, organizations and publications: everyone gets all that is for him, and only that."""
    trio.run(partial(live, world, valkey_server))


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("workflow:[a]", "workflow:a", True),
        ("workflow:[a]", "workflow:[a]", False),
        ("workflow:*", "workflow:a:b", True),
        ("w*", "Workflow:a", False),
        ("*2", "execution:acme2:1", False),
        ("[!a]*", "b", True),
        ("[A-Z]?", "Zz", True),
        ("", "a", False),
    ],
)
def test_the_judge(glob: str, text: str, expected: bool) -> None:
    """The judge's own idea of a glob is the documented one."""
    assert matches(glob, text) is expected
