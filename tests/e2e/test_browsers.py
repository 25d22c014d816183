"""Browsers on the event socket, as the web client uses it, against real brokers."""

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import trio

from tests.conftest import Valkey
from tests.e2e.broker import COMMAND, Broker, Installation, Key
from tests.e2e.program import Program
from tests.support import Closed, Rejected, WsClient

Measured = Callable[[str, float], None]


async def subscribe(client: WsClient, channel: str) -> None:
    """Subscribe, and wait until it holds."""
    await client.send_json(type="subscribe", channel=channel)
    assert await client.receive_type("subscribed") == {"type": "subscribed", "channel": channel}


async def event(client: WsClient) -> Any:
    """Return the next message that is no ping; pings are answered."""
    while (message := await client.receive_json())["type"] == "ping":
        await client.send_json(type="pong")
    return message


async def broadcast_elsewhere(store: Valkey, channel: str, event_type: str, data: object) -> None:
    """Call `broadcast` in a process of its own, as a web server's worker does."""
    program = (
        "import json, sys; from broker import broadcast; "
        "broadcast(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])); "
        "assert 'trio' not in sys.modules"
    )
    command = [sys.executable, "-c", program, channel, event_type, json.dumps(data)]
    await trio.run_process(command, env={"SIGNALBOX_REDIS__URL": store.url})


async def test_the_flow_of_the_web_client(second: Broker, store: Valkey, key: Key, org: str) -> None:
    """Connect, subscribe, event, heartbeat, unsubscribe: all as the web client expects it."""
    channel = f"workflow:{org}"
    async with await second.browser(key) as client, trio.open_nursery() as others:
        await client.send_json(type="subscribe", channel=channel)
        assert await client.receive_json() == {"type": "subscribed", "channel": channel}
        data = {"node_id": "agent_abc123", "status": "success", "output": {"output": "Hello!"}}
        others.start_soon(broadcast_elsewhere, store, channel, "node_status", data)
        heard = await event(client)
        assert isinstance(heard.pop("timestamp"), float)
        assert heard == {"type": "node_status", "channel": channel, "data": data}
        for _ in range(3):
            assert await client.receive_json() == {"type": "ping"}
            await client.send_json(type="pong")
        await client.send_json(type="unsubscribe", channel=channel)
        assert await event(client) == {"type": "unsubscribed", "channel": channel}
        store.client.publish(channel, '{"type": "late"}')
        assert await client.receive_json() == {"type": "ping"}


async def test_ping_left_unanswered(second: Broker, key: Key, measured: Measured) -> None:
    """A client that does not answer a ping is closed with 4408, which tells it to come back."""
    async with await second.browser(key) as client:
        assert await client.receive_json() == {"type": "ping"}
        pinged = time.monotonic()
        assert (await client.wait_closed()).code == 4408
        measured("ping unanswered (bound 400 ms) to 4408", (time.monotonic() - pinged) * 1000)


@pytest.mark.parametrize("target", ["/ws/?token=nr_live_wrong", "/ws/?token=", "/ws/", "/ws"])
async def test_bad_token(broker: Broker, target: str) -> None:
    """A bad token is told with a close that a browser can read."""
    client = await WsClient.connect(broker.address, target)
    with pytest.raises(Closed) as closed:
        await client.receive()
    assert (closed.value.code, closed.value.reason) == (1008, "Invalid or missing token")
    await client.kill()


async def test_bad_token_again_and_again(broker: Broker) -> None:
    """From the fourth time on within a minute it is refused before the upgrade."""
    for _ in range(3):
        async with await WsClient.connect(broker.address, "/ws/?token=nr_live_persistent") as client:
            assert (await client.wait_closed()).code == 1008
    with pytest.raises(Rejected) as rejected:
        await WsClient.connect(broker.address, "/ws/?token=nr_live_persistent")
    assert rejected.value.status == 401


async def test_one_event_on_two_brokers(
    broker: Broker, second: Broker, store: Valkey, key: Key, org: str, measured: Measured
) -> None:
    """What any process publishes reaches the clients of every broker on that Redis, in order, byte for byte."""
    channel = f"execution:{org}"
    async with await broker.browser(key) as here, await second.browser(key) as there:
        for client in (here, there):
            await subscribe(client, channel)
        payload = json.dumps({"type": "node_status", "channel": channel, "data": {"größe": 1.50}}, ensure_ascii=False)
        sent = time.monotonic()
        assert store.client.publish(channel, payload) == 2
        for client in (here, there):
            while (message := await client.receive()) == '{"type":"ping"}':
                pass
            assert message == payload
        measured("PUBLISH of an event to clients of two brokers", (time.monotonic() - sent) * 1000)
        for number in range(100):
            store.client.publish(channel, json.dumps({"type": "tick", "n": number}))
        for client in (here, there):
            assert [(await client.receive_type("tick"))["n"] for _ in range(100)] == list(range(100))


async def test_resubscription_after_a_reconnect(store: Valkey, tmp_path: Path, org: str) -> None:
    """A restarted broker finds its browsers back: told to reconnect, they subscribe again and go on."""
    site = Installation.write(tmp_path, redis={"url": store.url})
    key = site.add_key(org)
    channel = f"workflow:{org}"
    with site.serve() as first:
        tail = [*COMMAND, "tail", "--url", first.url, "--token", key.api_key, "--json", channel]
        async with await first.browser(key) as browser:
            await subscribe(browser, channel)
            with Program(tail) as tailing:
                tailing.find(tailing.err, lambda line: "listening on" in line or None)
                first.program.signal(SIGTERM)
                assert (await browser.wait_closed()).code == 1012
                assert first.program.wait() == 0
                tailing.find(tailing.err, lambda line: "closed with 1012" in line or None)
                with site.serve(SIGNALBOX_SERVER__BIND=first.where) as again:
                    tailing.find(tailing.err, lambda line: "listening on" in line or None, since=2)
                    async with await again.browser(key) as browser:
                        await subscribe(browser, channel)
                        store.client.publish(channel, '{"type": "after"}')
                        assert (await browser.receive_json())["type"] == "after"
                    assert tailing.find(tailing.out, json.loads)["type"] == "after"


def test_tail_that_is_hung_up_on() -> None:
    """A server that goes in the middle of the handshake, as a draining broker may, does not keep a client waiting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Program([*COMMAND, "tail", "--url", url, "--token", "x", "workflow:a"]) as tailing:
            server.accept()[0].close()
            assert tailing.wait(10) == 1
            assert "the connection was ended without an answer" in tailing.err[0]


async def test_client_that_does_not_read(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """A client that does not read is closed with 1013, alone: the others get every event."""
    channel = f"workflow:{org}"
    async with await broker.browser(key) as lazy, await broker.browser(key) as eager:
        await subscribe(lazy, channel)
        await subscribe(eager, channel)
        filler = "x" * 100_000
        for number in range(150):
            store.client.publish(channel, json.dumps({"type": "block", "n": number, "filler": filler}))
            assert (await eager.receive_json())["n"] == number
        received = 0

        async def read_on() -> None:
            nonlocal received
            while True:
                assert (await lazy.receive_json())["n"] == received
                received += 1

        with pytest.raises(Closed) as closed:
            await read_on()
        assert closed.value.code == 1013
        assert 0 < received < 150


async def test_nobody_else_is_heard(broker: Broker, store: Valkey, org: str) -> None:
    """A key that is bound to globs sees those channels; an agent's key sees none."""
    site = broker.installation
    narrow = site.add_key(org, None, "--channel", f"workflow:{org}-*")
    async with await broker.browser(narrow) as client:
        await subscribe(client, f"workflow:{org}-a")
        for channel in (f"workflow:{org}", f"execution:{org}-a"):
            await client.send_json(type="subscribe", channel=channel)
            error = await client.receive_type("error")
            assert (error["code"], error["channel"]) == ("forbidden_channel", channel)
            store.client.publish(channel, '{"type": "secret"}')
        store.client.publish(f"workflow:{org}-a", '{"type": "open"}')
        assert (await client.receive_json())["type"] == "open"
    async with await broker.browser(site.add_key(org, "wf")) as client:
        await client.send_json(type="subscribe", channel=f"workflow:{org}")
        assert (await client.receive_type("error"))["code"] == "forbidden_channel"


async def test_a_thousand_channels_at_once(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """A whole resubscription goes through in one go, and is answered in order."""
    channels = [f"workflow:{org}-{number}" for number in range(1000)]
    async with await broker.browser(key) as client:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                for channel in channels:
                    await client.send_json(type="subscribe", channel=channel)

            nursery.start_soon(ask)
            assert [(await client.receive_type("subscribed"))["channel"] for _ in channels] == channels
        store.client.publish(channels[-1], '{"type": "hello"}')
        assert (await client.receive_json())["channel"] == channels[-1]


async def test_revoked_key(broker: Broker, key: Key) -> None:
    """A revoked key's open sockets are closed with 4401 within a second, and it opens no new one."""
    async with await broker.browser(key) as client:
        began = time.monotonic()
        broker.installation.run("keys", "revoke", key.key_id)
        assert (await client.wait_closed()).code == 4401
        assert time.monotonic() - began < 5
    async with await broker.browser(key) as client:
        assert (await client.wait_closed()).code == 1008
