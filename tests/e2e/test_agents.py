"""Agents on the real SDK against a real broker: what an operator decides reaches them while they run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trustme

from broker.publisher import Publisher
from tests.conftest import Valkey
from tests.e2e.broker import Agent, Broker, Installation, Key
from tests.support import WsClient

Measured = Callable[[str, float], None]


def applied_at(store: Valkey, org: str) -> float:
    """Return when the newest entry of an organization's log was made, in unix milliseconds."""
    reply: Any = store.client.xrevrange(f"signalbox:{{{org}}}:log", count=1)
    return float(reply[0][0].split(b"-")[0])


def publish(store: Valkey, org: str, **fields: Any) -> float:
    """PUBLISH a control message as any program can, and return when, in unix milliseconds."""
    now = time.time() * 1000
    assert store.client.publish(f"control:{org}", json.dumps(fields)) >= 1
    return now


def settle(agent: Agent) -> None:
    """Wait until an agent is connected and works."""
    agent.next("connected")
    agent.next("runs")


def test_killed_by_the_command_line(broker: Broker, store: Valkey, org: str, measured: Measured) -> None:
    """The SDK authenticates, connects, gets its snapshot, and raises at once on `signalbox kill`, which it confirms."""
    site = broker.installation
    key = site.add_key(org, "wf")
    with site.agent(key, broker.url) as agent:
        assert agent.next("connected")["states"] == {"wf": "Normal"}
        agent.next("runs")
        *_, summary = site.json("kill", org, "wf", "--reason", "runaway loop", "--wait", "10")
        assert (summary["agents"], summary["confirmed"]) == (1, 1)
        killed = agent.next("killed")
        assert killed["reason"] == "runaway loop"
        measured("signalbox kill, applied to raised in the agent", killed["at"] * 1000 - applied_at(store, org))
        measured("signalbox kill, applied to receipt", summary["slowest_ms"])
        assert agent.end() == []


def test_paused_resumed_and_killed_by_plain_publish(
    broker: Broker, store: Valkey, org: str, agent_key: Key, measured: Measured
) -> None:
    """A plain PUBLISH from any program pauses, resumes and kills; the SDK's log has nothing to complain about."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        change = {"type": "state_change", "workflow_id": "wf"}
        for state, event, reason in (
            ("paused", "paused", "lunch"),
            ("resumed", "runs", None),
            ("Paused", "paused", "again"),
            ("NORMAL", "runs", None),
            ("Killed", "killed", "enough"),
        ):
            sent = publish(store, org, **change, state=state, reason=reason)
            told = agent.next("runs", "paused", "killed")
            assert (told["event"], told["reason"]) == (event, reason)
            measured(f"PUBLISH {state} to {event} in the agent", told["at"] * 1000 - sent)
        assert agent.end() == []
        assert len([line for line in agent.log() if "ACK sent" in line]) == 3


def test_paused_and_resumed_by_the_command_line(broker: Broker, org: str, agent_key: Key) -> None:
    """`pause` and `resume` work as `kill` does."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        site.run("pause", org, "wf", "--reason", "look at this")
        assert agent.next("paused")["reason"] == "look at this"
        site.run("resume", org, "wf")
        agent.next("runs")
        assert agent.end() == []


def test_killed_while_no_agent_was_connected(broker: Broker, org: str, agent_key: Key) -> None:
    """A kill that nobody was there to hear is known to the next agent that connects, before it does anything."""
    site = broker.installation
    site.run("kill", org, "wf", "--reason", "stay down")
    with site.agent(agent_key, broker.url) as agent:
        assert agent.next("connected")["states"] == {"wf": "Killed"}
        assert agent.next("runs", "killed")["reason"] == "stay down"
        assert agent.end() == []


def test_every_kind_of_message(broker: Broker, store: Valkey, org: str, agent_key: Key) -> None:
    """Policies, keys and approvals reach the SDK in a form that it understands."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        publish(store, org, type="policy_invalidated", policy_id="budget", new_version=7)
        publish(store, org, type="key_rotated", key_id=agent_key.key_id, new_version=2)
        publish(
            store,
            org,
            type="approval_resolved",
            approval_id="a1",
            workflow_id="wf",
            execution_id="e1",
            outcome="approved",
            note=None,
            resolved_at=int(time.time()),
        )
        publish(store, org, type="state_change", workflow_id="wf", state="Killed")
        agent.next("killed")
        log = "\n".join(agent.log())
        assert "Policy budget invalidated (v7)" in log
        assert f"Key rotated: {agent_key.key_id} v2, org: {org}" in log
        assert "Approval approved: id=a1 exec=e1 wf=wf" in log
        assert agent.end() == []


def test_a_kill_reaches_only_its_own(broker: Broker, store: Valkey, org: str, agent_key: Key) -> None:
    """Neither another workflow's kill nor another organization's stops an agent."""
    site = broker.installation
    other = f"{org}-other"
    site.add_key(other, "wf")
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        publish(store, other, type="state_change", workflow_id="wf", state="Killed")
        publish(store, org, type="state_change", workflow_id="another", state="Killed")
        publish(store, org, type="state_change", workflow_id="wf", state="Paused", reason="after the others")
        assert agent.next("runs", "paused", "killed")["reason"] == "after the others"
        assert agent.end() == []


def test_an_organization_of_3000_workflows(broker: Broker, org: str, publisher: Publisher, measured: Measured) -> None:
    """The snapshot of a large organization fits into what the SDK accepts, and its kills come through."""
    site = broker.installation
    key = site.add_key(org, "wf-1999")
    for number in range(3000):
        publisher.state_change(org, f"wf-{number}", "Flagged", reason="its budget is nearly used up, have a look at it")
    began = time.time()
    with site.agent(key, broker.url) as agent:
        agent.next("runs")
        publisher.state_change(org, "wf-1999", "Killed", reason="over budget")
        killed = agent.next("killed")
        assert killed["reason"] == "over budget"
        measured("agent of 3,000 workflows, from its start to its end", (killed["at"] - began) * 1000)
        assert agent.end() == []
        said = [json.loads(line) for line in agent.program.out]
        assert sum("WS state push" in line.get("text", "") for line in said) == 3001


def test_agent_that_polls(broker: Broker, org: str, agent_key: Key) -> None:
    """An SDK that is told to do without a socket learns of a kill by asking."""
    site = broker.installation
    with site.agent(agent_key, broker.url, NULLRUN_TRANSPORT="http") as agent:
        agent.next("runs")
        site.run("kill", org, "wf")
        agent.next("killed")
        assert agent.end() == []


def test_agent_over_tls(store: Valkey, tmp_path: Path, org: str, agent_key: Key, measured: Measured) -> None:
    """The same over wss, with the broker's own TLS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    files = {"tls_certificate": str(tmp_path / "server.pem"), "tls_key": str(tmp_path / "server.pem")}
    site = Installation.write(tmp_path, redis={"url": store.url}, server=files)
    with site.serve() as broker:
        url = f"https://localhost:{broker.address[1]}"
        with site.agent(agent_key, url, SSL_CERT_FILE=str(tmp_path / "ca.pem")) as agent:
            settle(agent)
            sent = publish(store, org, type="state_change", workflow_id="wf", state="Killed")
            measured("PUBLISH Killed to killed in the agent, over TLS", agent.next("killed")["at"] * 1000 - sent)
            assert agent.end() == []
        assert broker.program.stop() == 0


async def test_kill_during_a_flood(
    broker: Broker, store: Valkey, org: str, key: Key, agent_key: Key, measured: Measured
) -> None:
    """A kill does not wait behind events, however many there are."""
    channel = f"workflow:{org}"
    event = json.dumps({"type": "tick", "channel": channel, "filler": "x" * 200})
    with broker.installation.agent(agent_key, broker.url) as agent:
        settle(agent)
        async with trio.open_nursery() as browsers:
            for _ in range(20):
                client = await broker.browser(key)
                await client.send_json(type="subscribe", channel=channel)
                await client.receive_type("subscribed")
                browsers.start_soon(read_on, client)
            witness = await broker.browser(key)
            await witness.send_json(type="subscribe", channel=channel)
            await witness.receive_type("subscribed")
            browsers.start_soon(trio.to_thread.run_sync, flood, store, channel, event)
            await witness.receive_type("tick")
            browsers.start_soon(read_on, witness)
            sent = publish(store, org, type="state_change", workflow_id="wf", state="Killed")
            killed = await trio.to_thread.run_sync(agent.next, "killed")
            measured("PUBLISH Killed to killed in the agent, during a flood of events", killed["at"] * 1000 - sent)
            browsers.cancel_scope.cancel()
        assert agent.end() == []


def flood(store: Valkey, channel: str, event: str) -> None:
    """Publish 30,000 events as fast as Redis takes them."""
    for _ in range(300):
        with store.client.pipeline(transaction=False) as pipeline:
            for _ in range(100):
                pipeline.publish(channel, event)
            pipeline.execute()


async def read_on(client: WsClient) -> None:
    """Read until cancelled, and drop the connection."""
    try:
        while True:
            await client.receive()
    finally:
        await client.kill()
