"""The operator API of a broker that runs as a program, with an agent on the real SDK."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.presence import read_presence
from tests.admin.site import TOKEN
from tests.conftest import Valkey
from tests.e2e.broker import Broker, Installation


class Console:
    """What an operator's own program does: HTTP from the standard library."""

    def __init__(self, broker: Broker) -> None:
        self._base = "http://" + broker.logged("admin listening")["on"][0]

    def ask(self, method: str, path: str, **fields: object) -> Any:
        """Send a request and return the answer, which is none of the refusals."""
        request = urllib.request.Request(
            self._base + path,
            json.dumps(fields).encode() if fields else None,
            {"Authorization": f"Bearer {TOKEN}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())


def wait_present(valkey: Valkey) -> None:
    """Wait until the agent is written down as present, which takes its broker a moment."""
    deadline = time.monotonic() + 10
    while not run_sync(valkey.client, read_presence(Layout(), "acme")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_agent_is_paused_resumed_and_killed(valkey: Valkey, token_file: Path, tmp_path: Path) -> None:
    """The SDK does what the operator API says, and its confirmation is in the receipts; a revoked key cuts it off."""
    site = Installation.write(
        tmp_path, admin={"bind": "127.0.0.1:0", "token_file": str(token_file)}, redis={"url": valkey.url}
    )
    with site.serve() as broker:
        console = Console(broker)
        key = site.add_key("acme", "wf")
        with site.agent(key, broker.url) as agent:
            agent.next("connected")
            agent.next("runs")
            workflow = "/api/v1/orgs/acme/workflows/wf"
            paused = console.ask("POST", f"{workflow}/pause", reason="lunch")
            assert agent.next("paused")["reason"] == "lunch"
            receipt = console.ask("GET", paused["receipts"] + "?wait=10")
            assert (receipt["complete"], receipt["agents"], receipt["confirmed"]) == (True, 1, 1)
            console.ask("POST", f"{workflow}/resume")
            agent.next("runs")
            killed = console.ask("POST", f"{workflow}/kill", reason="runaway")
            assert agent.next("killed")["reason"] == "runaway"
            receipt = console.ask("GET", killed["receipts"] + "?wait=10")
            assert (receipt["complete"], receipt["confirmed"], receipt["actor"]) == (True, 1, "api:alice")
            assert console.ask("GET", "/status")["connections"]["control"] == 1
            wait_present(valkey)
            revoked = console.ask("DELETE", f"/api/v1/orgs/acme/api-keys/{key.key_id}")
            assert [each["workflow_id"] for each in revoked["agents"]] == ["wf"]
            opened, closed = broker.logged("connection open"), broker.logged("connection closed")
            for line in (opened, closed):
                assert (line["kind"], line["key_id"], line["org"], line["workflow"]) == (
                    "control", key.key_id, "acme", "wf",
                )  # fmt: skip
            assert (closed["connection"], closed["by"], closed["code"]) == (opened["connection"], "us", 4401)
            assert (closed["acked"], closed["unacked"]) == (2, 0)
        assert not [line for line in broker.log() if TOKEN in json.dumps(line)]
