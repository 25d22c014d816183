import json

import pytest
import trio

from broker.control import replica
from broker.store.drive import run_sync
from broker.store.receipts import read_receipt
from broker.wire.limits import PeerLimits
from protocol.states import State
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher, running_broker
from tests.control.clients import acknowledge, eventually, snapshot
from tests.support.ws_client import WsClient


@pytest.mark.parametrize("remembered", [4096, 16])
async def test_a_client_that_does_not_read(valkey: Valkey, monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    """A full outbox collapses states, keeps the kill, is mended from snapshot and log, and never closes the session."""
    monkeypatch.setattr(replica, "MAX_REPLAYED", remembered)
    api_key, _ = add_key(valkey)
    reason = "x" * 3000
    limits = PeerLimits(outbox_bytes=65536, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)
    async with (
        running_broker(valkey, limits=limits, ack_timeout=60) as broker,
        await broker.connect(api_key) as client,
        await broker.connect(api_key) as reader,
    ):
        await snapshot(client)
        await snapshot(reader)
        send = publisher(valkey)
        for number in range(150):
            send.state_change(ORG, f"w{number % 3}", State.FLAGGED, reason=reason)
        send.kill(ORG, "victim")
        for number in range(400):
            send.policy_invalidated(ORG, f"p{number}", 1)
            send.state_change(ORG, f"w{number % 3}", State.TRIPPED, reason=reason)
        for number in range(400):
            assert (await reader.receive_type("policy_invalidated"))["policy_id"] == f"p{number}"
        kills = 0
        policies: set[str] = set()
        states: dict[str, str] = {}
        while len(policies) < 400 or not kills or states.get("victim") != "Killed" or states.get("w0") != "Tripped":
            message = await client.receive_json()
            if message["type"] == "policy_invalidated":
                policies.add(message["policy_id"])
            elif message["type"] == "state_change":
                states[message["workflow_id"]] = message["state"]
                kills += message["state"] == "Killed"
            else:
                states |= {each["workflow_id"]: each["state"] for each in message["workflows"]}


async def test_an_organization_of_thousands(broker: Broker, valkey: Valkey) -> None:
    """3,000 workflows come in parts that fit a client's frame limit, and a kill after them is not lost among them."""
    api_key, record = add_key(valkey, "mine")
    assert record.secret_key is not None
    pipe = valkey.client.pipeline(transaction=False)
    for number in range(3000):
        workflow = f"workflow-{number:05}"
        body = {"workflow_id": workflow, "state": "Paused", "version": 7, "reason": "r" * 60, "updated_at": 1}
        stored = json.dumps({**body, "message_id": f"m{number}", "actor": None, "at": 1})
        pipe.hset(LAYOUT.workflows(ORG), workflow, f"7 Paused {stored}")
    pipe.execute()
    async with await broker.connect(api_key, record.secret_key) as client:
        workflows: dict[str, str] = {}
        while len(workflows) < 3001:
            text = await client.receive()
            assert len(text) <= 256 * 1024
            workflows |= {each["workflow_id"]: each["state"] for each in json.loads(text)["workflows"]}
        assert workflows["mine"] == "Normal"
        publisher(valkey).kill(ORG, "mine")
        assert (await client.receive_json())["state"] == "Killed"


async def test_a_full_room_in_order(broker: Broker, valkey: Valkey) -> None:
    """More sessions than one turn serves get every message once and in order, and all of them are in the receipt."""
    api_key, _ = add_key(valkey)
    count = 300
    clients: list[WsClient] = []

    async def join() -> None:
        client = await broker.connect(api_key)
        await snapshot(client)
        clients.append(client)

    async with trio.open_nursery() as arrivals:
        for _ in range(count):
            arrivals.start_soon(join)
    for number in range(10):
        publisher(valkey).policy_invalidated(ORG, "p", number)
    message_id = publisher(valkey).kill(ORG, "wf").message_id
    for client in clients:
        versions = [(await client.receive_json())["new_version"] for _ in range(10)]
        assert versions == list(range(10))
        assert (await client.receive_json())["message_id"] == message_id
        await acknowledge(client, message_id, int(broker.clock()))
    await eventually(lambda: broker.counters.acks == count)

    def confirmed() -> bool:
        found = run_sync(valkey.client, read_receipt(LAYOUT, ORG, message_id))
        return found is not None and sum(each.status == "confirmed" for each in found.sessions) == count

    await eventually(confirmed)
    for client in clients:
        await client.kill()
    await eventually(lambda: broker.counters.control_sessions == 0)
    assert len(broker.plane.services.signers) == 0
