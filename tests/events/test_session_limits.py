"""What one event socket may ask for and leave unread, and what a control socket may that an event socket may not."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from broker.config import Config, Control, Limits
from broker.door import Kind
from broker.store.drive import run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from tests.conftest import Valkey
from tests.support import Closed, WsClient
from tests.support.whole import Whole, whole_broker

MESSAGE = '{"type": "pong"}'


@attrs.frozen(eq=False)
class Site:
    """A broker with a key."""

    broker: Whole
    api_key: str
    store: Valkey

    async def browser(self) -> WsClient:
        return await self.broker.browser(self.api_key)

    async def agent(self) -> WsClient:
        return await self.broker.agent(self.api_key, "acme")


Serving = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def serving(valkey: Valkey) -> Serving:
    """Return a way to run a broker with these limits."""

    @asynccontextmanager
    async def run(**limits: Any) -> AsyncIterator[Site]:
        api_key = run_sync(valkey.client, add_key(Layout(), "acme")).api_key
        config = Config(
            control=Control(handshake_signature="optional"), limits=Limits(**{"close_timeout": 0.2, **limits})
        )
        async with whole_broker(valkey.url, config) as broker:
            yield Site(broker, api_key, valkey)

    return run


async def subscribe(client: WsClient, channel: str) -> dict[str, Any]:
    """Subscribe and return the answer."""
    await client.send_json(type="subscribe", channel=channel)
    answer: dict[str, Any] = await client.receive_json()
    return answer


async def test_subscriptions(serving: Serving) -> None:
    """The last subscription allowed is made, the next is refused by name and counted; after one less there is room."""
    async with serving(max_subscriptions=3) as site, await site.browser() as client:
        for name in "abca":
            assert (await subscribe(client, f"workflow:{name}"))["type"] == "subscribed"
        error = await subscribe(client, "workflow:d")
        assert (error["type"], error["code"], error["channel"]) == ("error", "too_many_subscriptions", "workflow:d")
        assert site.broker.counters.messages_refused["too_many_subscriptions"] == 1
        await client.send_json(type="unsubscribe", channel="workflow:a")
        assert (await client.receive_json())["type"] == "unsubscribed"
        assert (await subscribe(client, "workflow:d"))["type"] == "subscribed"


@pytest.mark.parametrize(("size", "kept"), [(300, True), (301, False)])
async def test_message_bytes(serving: Serving, size: int, kept: bool) -> None:
    """A message of exactly `max_message_bytes` is read on both sockets, one byte more closes them with 1009."""
    async with serving(max_message_bytes=300) as site:
        for client in (await site.browser(), await site.agent()):
            await client.send("é" + " " * (size - 2))
            if kept:
                assert (await client.receive_type("error"))["code"] == "invalid_json"
                await client.close()
            else:
                assert (await client.wait_closed()).code == 1009
                await client.kill()


async def test_messages_within_the_burst(serving: Serving) -> None:
    """A whole resubscription and fifty messages more are taken at once, whatever the rate."""
    async with serving(max_subscriptions=20, messages_per_second=0.1) as site, await site.browser() as client:
        with trio.fail_after(5):
            for _ in range(69):
                await client.send(MESSAGE)
            assert (await subscribe(client, "workflow:a"))["type"] == "subscribed"


async def test_too_many_messages(serving: Serving) -> None:
    """Above the rate the reader pauses, and a client that goes on is closed with 4429; a control socket is kept."""
    limits = {"max_subscriptions": 1, "messages_per_second": 2, "rate_patience": 0.1}
    async with serving(**limits) as site, await site.browser() as client:
        agent = await site.agent()
        for _ in range(51 + 10):
            await client.send(MESSAGE)
            await agent.send('{"type": "ping"}')
        closed = await client.wait_closed()
        assert (closed.code, closed.reason) == (4429, "too many messages")
        await agent.receive_type("pong")
        assert len(site.broker.broker.door.peers(Kind.CONTROL)) == 1
        await agent.kill()


async def flood(site: Site, channel: str, size: int, until: Callable[[], bool]) -> None:
    """Publish events, each when the one before it was delivered, until something is so."""
    data = '{"type": "big", "data": "' + "x" * size + '"}'
    counters = site.broker.counters
    while not until():
        delivered = counters.publications
        site.store.client.publish(channel, data)
        while counters.publications == delivered:
            await trio.lowlevel.checkpoint()


async def test_outbox_bytes(serving: Serving) -> None:
    """A browser that does not read is closed with 1013 when more than `outbox_bytes` wait; others get everything."""
    async with serving(outbox_bytes=100_000, max_publication_bytes=90_000) as site, await site.browser() as slow:
        await subscribe(slow, "workflow:a")
        counters = site.broker.counters
        (peer,) = site.broker.broker.door.peers(Kind.EVENTS)
        await flood(site, "workflow:a", 20_000, lambda: peer.pending_bytes > 50_000)
        assert not peer.closing
        await flood(site, "workflow:a", 20_000, lambda: peer.closing)
        assert peer.peak_bytes <= 100_000 + 20_100
        assert (peer.close_code, peer.close_reason) == (1013, "too slow")
        while not counters.closed[1013]:
            await trio.lowlevel.checkpoint()
        assert counters.slow_consumers == 1


async def test_write_stall(serving: Serving) -> None:
    """A browser that takes no byte for `write_stall_timeout` is closed with 1013 long before its outbox is full."""
    async with serving(write_stall_timeout=0.2, outbox_bytes=50_000_000) as site, await site.browser() as slow:
        await subscribe(slow, "workflow:a")
        (peer,) = site.broker.broker.door.peers(Kind.EVENTS)
        await flood(site, "workflow:a", 200_000, lambda: peer.pending_bytes > 1_000_000 or peer.closing)
        with trio.fail_after(10):
            while not site.broker.counters.closed[1013]:
                await trio.lowlevel.checkpoint()
        assert site.broker.counters.slow_consumers == 1


async def test_a_control_socket_that_stalls_is_kept(serving: Serving) -> None:
    """An agent that does not read stays connected past the stall timeout, and gets the newest state when it reads."""
    async with serving(write_stall_timeout=0.1, outbox_bytes=1_048_576) as site, await site.agent() as agent:
        assert (await agent.receive_json())["type"] == "initial_state"
        (peer,) = site.broker.broker.door.peers(Kind.CONTROL)
        reason = "x" * 4000
        change = '{"type": "state_change", "workflow_id": "wf%d", "state": "Flagged", "reason": "' + reason + '"}'
        while not peer.pending_bytes:
            for number in range(20):
                site.store.client.publish("control:acme", change % number)
            await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.sleep(0.5)
        assert not peer.closing
        site.store.client.publish("control:acme", '{"type": "state_change", "workflow_id": "last", "state": "Killed"}')
        try:
            while (await agent.receive_json()).get("workflow_id") != "last":
                pass
        except Closed as closed:
            raise AssertionError("the agent was let go") from closed
