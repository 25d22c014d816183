"""Restarts again and again, under traffic: every agent hears every decision on its first socket; every ack counts."""

import itertools
import random
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from tests.conftest import Valkey
from tests.daemon.test_handover import Service, running_service
from tests.support.ws_client import WsClient

AGENTS = 12
RESTARTS = 5


@attrs.define(eq=False)
class HeardBy:
    """What one agent knows."""

    states: dict[str, str] = attrs.field(factory=dict)
    versions: dict[str, int] = attrs.field(factory=dict)
    approvals: set[str] = attrs.field(factory=set)
    snapshots: int = 0

    def take(self, workflow: dict[str, Any]) -> None:
        """Learn a state, unless it is older than what is known, as SDKs do."""
        name = workflow["workflow_id"]
        if workflow["version"] >= self.versions.get(name, -1):
            self.versions[name] = workflow["version"]
            self.states[name] = workflow["state"]


async def listen(client: WsClient, heard: HeardBy) -> None:
    """Be an agent: learn everything, and acknowledge what wants to be, sooner or later."""
    try:
        await _listen(client, heard)
    finally:
        await client.kill()


async def _listen(client: WsClient, heard: HeardBy) -> None:
    while True:
        message = await client.receive_json()
        match message["type"]:
            case "initial_state":
                heard.snapshots += 1
                for workflow in message["workflows"]:
                    heard.take(workflow)
            case "state_change":
                heard.take(message)
            case "approval_resolved":
                heard.approvals.add(message["approval_id"])
        if message["type"] == "approval_resolved" or message.get("state") in ("Killed", "Paused"):
            if random.random() < 0.1:
                await trio.sleep(random.uniform(0, 0.05))
            await client.send_json(type="ack", message_id=message["message_id"], received_at=int(time.time()))


@attrs.define(eq=False)
class Operator:
    """Decides something all the time, and remembers what."""

    publisher: Publisher
    states: dict[str, str] = attrs.field(factory=dict)
    approvals: set[str] = attrs.field(factory=set)
    kills: list[str] = attrs.field(factory=list)

    async def decide(self) -> None:
        """Decide until cancelled."""
        for number in itertools.count():
            await trio.to_thread.run_sync(self._decide, number)
            await trio.sleep(random.uniform(0.01, 0.05))

    def _decide(self, number: int) -> None:
        name = f"wf-{number % 40}"
        killed = self.states.get(name) == "Killed"
        choice = random.choice(["approve", "pause", "resume", "kill"])
        if choice == "approve" or killed:
            self.publisher.approval_resolved("acme", f"a-{number}", name, "e", "approved")
            self.approvals.add(f"a-{number}")
        elif choice == "kill":
            self.kills.append(self.publisher.kill("acme", name).message_id)
            self.states[name] = "Killed"
        elif choice == "pause":
            self.publisher.pause("acme", name)
            self.states[name] = "Paused"
        else:
            self.publisher.resume("acme", name)
            self.states[name] = "Normal"


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_storm(valkey: Valkey, tmp_path: Path) -> None:
    """Five restarts at random moments, while decisions are made all the time, lose none of them, and no agent."""
    async with running_service(valkey, tmp_path) as service:
        api_key = run_sync(valkey.client, add_key(Layout(""), "acme")).api_key
        await _storm(service, valkey, api_key)


async def _storm(service: Service, valkey: Valkey, api_key: str) -> None:
    operator = Operator(Publisher(valkey.client))
    agents = [HeardBy() for _ in range(AGENTS)]
    async with trio.open_nursery() as nursery:
        for heard in agents:
            client = await service.connect(api_key)
            client.patience = 60
            nursery.start_soon(listen, client, heard)
        async with trio.open_nursery() as deciding:
            deciding.start_soon(operator.decide)
            for _ in range(RESTARTS):
                await trio.sleep(random.uniform(0, 0.4))
                await service.restart()
            deciding.cancel_scope.cancel()
        with trio.move_on_after(30):
            while any(_missing(heard, operator) for heard in agents):  # noqa: ASYNC110
                await trio.sleep(0.05)
            while any(_confirmed(valkey, each) < AGENTS for each in operator.kills):  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert [_missing(heard, operator) for heard in agents] == [{}] * AGENTS
        assert {each: _confirmed(valkey, each) for each in operator.kills} == dict.fromkeys(operator.kills, AGENTS)
        nursery.cancel_scope.cancel()
    assert all(heard.snapshots > 1 for heard in agents)
    assert len(operator.approvals) > 10


def _missing(heard: HeardBy, operator: Operator) -> dict[str, object]:
    """What an agent does not know, or knows otherwise."""
    states = {
        name: heard.states.get(name) for name, state in operator.states.items() if heard.states.get(name) != state
    }
    return {**states, **dict.fromkeys(operator.approvals - heard.approvals, "approval")}


def _confirmed(valkey: Valkey, message_id: str) -> int:
    """How many sessions have confirmed a message."""
    found = valkey.client.hgetall(f"signalbox:{{acme}}:receipts:{message_id}")
    return repr(found).count("confirmed")
