"""Redis dies and comes back under open sockets: nobody is disconnected, and nothing that was decided is lost."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from broker.keys.watches import REREAD_SECONDS
from tests.e2e.broker import Broker, Installation
from tests.e2e.store import Store
from tests.support import WsClient

Measured = Callable[[str, float], None]


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Store]:
    """Return a store that may be killed."""
    folder = tmp_path / "data"
    folder.mkdir()
    with Store(folder) as store:
        yield store


@pytest.fixture
def site(tmp_path: Path, mortal: Store) -> Installation:
    """Return an installation on it."""
    return Installation.write(tmp_path, redis={"url": mortal.url}, control={"ack_timeout": 0.3})


async def subscribe(client: WsClient, channel: str) -> None:
    """Subscribe, and wait until it holds."""
    await client.send_json(type="subscribe", channel=channel)
    assert (await client.receive_type("subscribed"))["channel"] == channel


def down(broker: Broker) -> None:
    """Wait until a broker has noticed that its three links are gone."""
    gone = 0

    def wanted(line: str) -> bool | None:
        nonlocal gone
        gone += '"event": "link down"' in line
        return gone == 3 or None

    broker.program.find(broker.program.err, wanted)


PAUSE = '{"type": "state_change", "workflow_id": "wf", "state": "paused", "reason": "again"}'


async def test_killed_and_started_again(site: Installation, mortal: Store, measured: Measured) -> None:
    """No socket closes; subscriptions and agents' rooms come back by themselves, and what comes then arrives."""
    browsing = site.add_key("acme")
    key = site.add_key("acme", "wf")
    with site.serve() as broker, site.agent(key, broker.url) as agent:
        async with await broker.browser(browsing) as browser:
            await subscribe(browser, "workflow:a")
            agent.next("connected")
            agent.next("runs")
            mortal.kill()
            down(broker)
            await browser.send_json(type="subscribe", channel="workflow:b")
            await browser.silence(0.2)
            began = time.monotonic()
            mortal.start()
            waited_for = {("resync_required", "workflow:a"), ("subscribed", "workflow:b")}
            while waited_for:
                told = await browser.receive_json()
                waited_for.discard((told["type"], told["channel"]))
            measured("from starting Redis again to all subscriptions back", (time.monotonic() - began) * 1000)
            for channel in ("workflow:a", "workflow:b"):
                assert mortal.client.publish(channel, '{"type": "again"}') == 1
                assert (await browser.receive_type("again"))["channel"] == channel
            while mortal.client.publish("control:acme", PAUSE) == 0:
                pass
            assert agent.next("paused")["reason"] == "again"
            site.run("kill", "acme", "wf", "--reason", "for good", "--wait", "10")
            assert agent.next("killed")["reason"] == "for good"
        assert agent.end() == []
        assert broker.program.stop() == 0


def test_agent_that_comes_while_redis_is_away(site: Installation, mortal: Store) -> None:
    """An agent that connects while Redis restarts is made to wait rather than refused: refused, it never came back."""
    key = site.add_key("acme", "wf")
    site.run("kill", "acme", "wf", "--reason", "before the crash")
    with site.serve() as broker:
        mortal.kill()
        down(broker)
        with site.agent(key, broker.url) as agent:
            mortal.start()
            assert agent.next("runs", "killed")["reason"] == "before the crash"
            assert agent.end() == []


def test_crash_between_decisions(site: Installation, mortal: Store) -> None:
    """Redis crashes again and again while decisions are made; the agent ends up with the last one, every time."""
    key = site.add_key("acme", "wf")
    with site.serve() as broker, site.agent(key, broker.url) as agent:
        agent.next("runs")
        for round_ in range(2):
            mortal.kill()
            mortal.start()
            site.run("pause", "acme", "wf", "--reason", f"round {round_}")
            while agent.next("paused", "runs")["reason"] != f"round {round_}":
                pass
            mortal.kill()
            mortal.start()
            site.run("resume", "acme", "wf")
            while agent.next("paused", "runs")["event"] != "runs":
                pass
        assert agent.end() == []


def test_store_that_lost_its_data(site: Installation, mortal: Store) -> None:
    """Agents that are connected when Redis loses everything, their keys too, are still reached by all ways."""
    key = site.add_key("acme", "wf")
    with site.serve() as broker, site.agent(key, broker.url) as agent:
        agent.next("runs")
        site.run("pause", "acme", "wf")
        agent.next("paused")
        site.run("resume", "acme", "wf")
        agent.next("runs")
        mortal.lose()
        gone = "the store came back without its data: API keys are gone, too"
        # All keys are read again as soon as the link is up, not by the timer.
        broker.logged(gone, timeout=REREAD_SECONDS / 2)
        while mortal.client.publish("control:acme", PAUSE) == 0:
            pass
        assert agent.next("paused")["reason"] == "again"
        *_, summary = site.json("kill", "acme", "wf", "--wait", "10")
        assert (summary["agents"], summary["confirmed"]) == (1, 1)
        agent.next("killed")
        assert agent.end() == []


async def test_frozen_store(site: Installation, mortal: Store) -> None:
    """A Redis that hangs rather than dies holds nothing up that does not need it: pings are answered, sockets live."""
    key = site.add_key("acme")
    with site.serve() as broker:
        async with await broker.browser(key) as browser:
            await subscribe(browser, "workflow:a")
            mortal.freeze()
            await browser.send_json(type="subscribe", channel="workflow:b")
            await browser.ping(b"there?")
            assert await browser.pong_received() == b"there?"
            with trio.fail_after(5):
                async with await broker.raw() as other:
                    assert (await other.request("GET", "/health/live")).status == 200
            mortal.thaw()
            assert (await browser.receive_type("subscribed"))["channel"] == "workflow:b"
