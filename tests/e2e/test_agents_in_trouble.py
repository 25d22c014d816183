"""What must not keep a kill from an agent: its own absence, new keys, forged messages, brokers and stores that fail."""

import fcntl
import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.publisher import Publisher
from protocol.signing import body_hash, signature
from tests.conftest import Valkey
from tests.e2e.broker import COMMAND, Agent, Broker, Installation, Key
from tests.e2e.program import PATIENCE, environment
from tests.e2e.proxy import Proxy

UPGRADE = (
    b"GET /ws/control/%s HTTP/1.1\r\nHost: a\r\nX-API-Key: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Measured = Callable[[str, float], None]


def settle(agent: Agent) -> None:
    """Wait until an agent is connected and works."""
    agent.next("connected")
    agent.next("runs")


def verify(broker: Broker, key: Key, secret: str) -> int:
    """Ask the broker about a key, in a request that is signed with this secret, and return the status."""
    body = json.dumps({"api_key": key.api_key}).encode()
    now = int(time.time())
    signed = {
        "X-API-Key": key.api_key,
        "X-Signature-Timestamp": str(now),
        "X-Signature": signature(secret, now, key.api_key, body_hash(body)),
    }
    connection = http.client.HTTPConnection(*broker.address)
    try:
        connection.request("POST", "/api/v1/auth/verify", body, signed)
        return connection.getresponse().status
    finally:
        connection.close()


def test_suspended_agent(broker: Broker, org: str, agent_key: Key, publisher: Publisher) -> None:
    """An agent that is stopped and answers no ping is kept, and obeys on waking what was decided meanwhile."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        place = len(broker.program.err)
        agent.suspend()
        silent = broker.logged("client is silent, and kept", place)
        opened = [line for line in broker.log() if line["event"] == "connection open" and line.get("org") == org]
        assert (silent["org"], silent["connection"]) == (org, opened[-1]["connection"])
        publisher.state_change(org, "wf", "Killed", reason="while you slept")
        agent.wake()
        assert agent.next("killed")["reason"] == "while you slept"
        assert broker.logged("client is back", place)["org"] == org
        assert agent.end() == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_agent_suspended_for_45_seconds(
    store: Valkey, tmp_path: Path, org: str, agent_key: Key, measured: Measured
) -> None:
    """With the intervals that are the default, too, an agent that slept for 45 s obeys when it wakes."""
    site = Installation.write(tmp_path, redis={"url": store.url})
    with site.serve() as broker, site.agent(agent_key, broker.url) as agent:
        settle(agent)
        agent.suspend()
        time.sleep(45)
        site.run("kill", org, "wf", "--reason", "while you slept")
        woken = time.time()
        agent.wake()
        killed = agent.next("killed")
        measured("agent woken after 45 s to raised", (killed["at"] - woken) * 1000)
        assert agent.end() == []


def test_rotated_key(broker: Broker, org: str, agent_key: Key) -> None:
    """After `keys rotate` a running SDK, which keeps its secret, obeys: within the overlap and after it."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        (rotated,) = site.json("keys", "rotate", agent_key.key_id)
        assert rotated["secret_key"] != agent_key.secret_key
        site.run("pause", org, "wf")
        agent.next("paused")
        while verify(broker, agent_key, agent_key.secret_key) == 200:
            pass  # the overlap
        assert verify(broker, agent_key, rotated["secret_key"]) == 200
        site.run("kill", org, "wf", "--reason", "with the old secret", "--wait", "10")
        assert agent.next("killed")["reason"] == "with the old secret"
        assert agent.end() == []
        assert any(f"Key rotated: {agent_key.key_id} v2" in line for line in agent.log())
    with site.agent(agent_key, broker.url, secret=rotated["secret_key"]) as successor:
        assert successor.next("runs", "killed")["reason"] == "with the old secret"
        assert successor.end() == []


def test_forged_message(broker: Broker, org: str, agent_key: Key, publisher: Publisher) -> None:
    """The SDK rejects what is signed wrongly, and obeys the broker's next attempt, which is signed afresh."""
    site = broker.installation
    with Proxy(broker.address) as proxy, site.agent(agent_key, proxy.url) as agent:
        settle(agent)
        proxy.spoiling = True
        publisher.state_change(org, "wf", "Paused", reason="forged on the way")
        agent.program.find(agent.program.out, lambda line: line if "Invalid HMAC signature" in line else None)
        proxy.spoiling = False
        assert agent.next("runs", "paused")["reason"] == "forged on the way"
        rejections = agent.end()
        assert len(rejections) == proxy.spoiled >= 1
        assert all("Invalid HMAC signature for state_change" in line for line in rejections)


def test_agent_with_a_wrong_secret(broker: Broker, org: str, agent_key: Key) -> None:
    """An agent that has another secret rejects everything, so that its operator finds out from the first message on."""
    site = broker.installation
    with site.agent(agent_key, broker.url, secret="0" * 64) as agent:
        agent.program.find(
            agent.program.out,
            lambda line: line if "Invalid HMAC signature for initial_state message - rejecting" in line else None,
        )


def test_unknown_key(broker: Broker, org: str) -> None:
    """An agent whose key is unknown is told so by its SDK, and does not start."""
    stranger = Key("none", org, "nr_live_unknown", "0" * 64, "wf")
    with broker.installation.agent(stranger, broker.url) as agent:
        assert agent.program.wait() == 1
        assert "NullRunAuthenticationError" in "\n".join(agent.program.err)


def test_revoked_with_a_kill(broker: Broker, org: str, agent_key: Key) -> None:
    """`keys revoke --kill` stops the agents first, since none of them can be reached afterwards."""
    site = broker.installation
    with site.agent(agent_key, broker.url) as agent:
        settle(agent)
        site.run("keys", "revoke", agent_key.key_id, "--kill")
        agent.next("killed")
        assert verify(broker, agent_key, agent_key.secret_key) == 401


def test_two_brokers(broker: Broker, store: Valkey, org: str, agent_key: Key) -> None:
    """Agents of one organization on two brokers are killed alike, by one command, and both of them confirm."""
    site = broker.installation
    with (
        site.serve() as second,
        site.agent(agent_key, broker.url) as here,
        site.agent(agent_key, second.url) as there,
    ):
        settle(here)
        settle(there)
        store.client.publish(f"control:{org}", '{"type": "state_change", "workflow_id": "wf", "state": "paused"}')
        here.next("paused")
        there.next("paused")
        *_, summary = site.json("kill", org, "wf", "--wait", "10")
        assert (summary["agents"], summary["confirmed"]) == (2, 2)
        here.next("killed")
        there.next("killed")
        status = site.json("status", org)
        assert [entry["version"] for entry in status if entry.get("workflow_id") == "wf" and "version" in entry] == [2]
        assert here.end() == there.end() == []
        assert second.program.stop() == 0


def test_log_that_nobody_reads(store: Valkey, tmp_path: Path, org: str, agent_key: Key) -> None:
    """A terminal that was stopped, or a log shipper that hangs, does not keep a kill from its agent."""
    site = Installation.write(tmp_path, redis={"url": store.url}, log={"format": "json", "level": "debug"})
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with (
        os.fdopen(reading, "rb", buffering=0) as log,
        os.fdopen(writing, "wb") as stderr,
        subprocess.Popen(
            [*COMMAND, "serve", "--config", str(site.config)], stderr=stderr, env=environment()
        ) as process,
    ):
        try:
            said = b""
            while (listening := re.search(rb'"on": \["([0-9.:]+)"\], "inherited"', said)) is None:
                said += log.read(4096)
            with site.agent(agent_key, f"http://{listening[1].decode()}") as agent:
                agent.next("runs")
                host, _, port = listening[1].decode().partition(":")
                for _ in range(50):  # each of them is two lines
                    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
                        sock.sendall(UPGRADE % (org.encode(), agent_key.api_key.encode()))
                        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
                site.run("kill", org, "wf", "--wait", "10")
                agent.next("killed")
                assert agent.end() == []
        finally:
            process.kill()
