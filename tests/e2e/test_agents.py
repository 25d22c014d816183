"""Agents on the real SDK against a real broker: what an operator decides reaches them while they run."""

import json
import time
from collections.abc import Callable
from typing import Any

from broker.publisher import Publisher
from tests.conftest import Valkey
from tests.e2e.broker import Agent, Broker, Key

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
