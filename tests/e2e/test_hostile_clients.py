"""Broken WebSockets and clients that send nonsense: a real broker answers each, and serves on."""

import struct

import pytest
import trio

from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.e2e.hostile import SOCKETS, bystanders, connect, frame
from tests.support import Closed, RawClient

pytestmark = pytest.mark.usefixtures("no_errors_are_logged")

FATAL = {
    "unmasked": (frame(1, b'{"type": "pong"}', masked=False), 1002),
    "reserved bits": (frame(1, b"{}", reserved=0x40), 1002),
    "unknown opcode": (frame(3, b"{}"), 1002),
    "fragmented ping": (frame(9, b"x", final=False), 1002),
    "ping of 126 bytes": (frame(9, bytes(126)), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "close with one byte": (frame(8, b"\x03"), 1002),
    "close with a code that nobody may send": (frame(8, struct.pack(">H", 1005)), 1002),
    "text that is not UTF-8": (frame(1, b'{"type": "\xff\xfe"}'), 1007),
    "text that ends in half a character": (frame(1, b"\xe2\x82"), 1007),
    "too long": (frame(1, bytes(65537)), 1009),
    "announced as an exabyte": (b"\x81\xff" + struct.pack(">Q", 1 << 60) + bytes(4), 1009),
    "length of 64 bits with the top bit": (b"\x81\xff" + struct.pack(">Q", 1 << 63) + bytes(4), 1002),
    "too long in fragments": (frame(1, bytes(40000), final=False) + frame(0, bytes(40000)), 1009),
    "ten thousand fragments": (frame(1, b"x", final=False) + frame(0, b"x", final=False) * 9999, 1009),
}


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize("case", FATAL)
async def test_frames(broker: Broker, store: Valkey, key: Key, case: str, kind: str) -> None:
    """What breaks the WebSocket protocol or its bounds is closed with the code that says so."""
    data, code = FATAL[case]
    async with bystanders(broker, store, key), await connect(broker, key, kind) as client:
        await client.send_raw(data)
        assert (await client.wait_closed()).code == code


MESSAGES: dict[str, tuple[str | bytes, str]] = {
    "binary": (b'{"type": "pong"}', "binary_message"),
    "no JSON": ("pong", "invalid_json"),
    "empty": ("", "invalid_json"),
    "a bomb of arrays": ("[" * 60_000, "invalid_json"),
    "a bomb of objects": ('{"type":' * 8_000, "invalid_json"),
    "nested, but whole": ('{"type": "pong", "x": ' + "[" * 100 + "]" * 100 + "}", "invalid_json"),
    "a huge number": ('{"type": "pong", "x": ' + "9" * 60_000 + "}", "invalid_json"),
    "not a number": ('{"type": "pong", "x": NaN}', "invalid_json"),
    "half a surrogate pair": ('{"type": "\\ud800"}', "invalid_json"),
    "no object": ("[1, 2]", "invalid_message"),
    "null": ("null", "invalid_message"),
    "no type": ("{}", "invalid_message"),
    "type that is no text": ('{"type": ["pong"]}', "invalid_message"),
    "unknown type": ('{"type": "shutdown"}', "unknown_type"),
    "a type of the server": ('{"type": "initial_state", "workflows": []}', "unknown_type"),
}


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize("case", MESSAGES)
async def test_messages(broker: Broker, store: Valkey, key: Key, case: str, kind: str) -> None:
    """What is no message is answered with an error that says why, and the connection lives on."""
    text, code = MESSAGES[case]
    async with bystanders(broker, store, key), await connect(broker, key, kind) as client:
        await client.send(text)
        answer = await client.receive_type("error")
        assert answer["code"] == code
        assert answer["message"]
        await client.ping(b"alive?")
        assert await client.pong_received() == b"alive?"


@pytest.mark.parametrize("kind", SOCKETS)
async def test_nothing_but_nonsense(broker: Broker, store: Valkey, key: Key, kind: str) -> None:
    """A client that sends nothing but nonsense is closed with 4400 in the end."""
    async with bystanders(broker, store, key), await connect(broker, key, kind) as client:
        for _ in range(200):
            await client.send("nonsense")
        assert (await client.wait_closed()).code == 4400


CHANNELS = {
    "control input": ("control:acme", "forbidden_channel"),
    "keyspace events": ("__keyspace@0__:signalbox:keys", "forbidden_channel"),
    "the broker's own": ("signalbox:{acme}:live", "forbidden_channel"),
    "changes of keys": ("signalbox:keys", "forbidden_channel"),
    "a namespace that is not there": ("secret:a", "forbidden_channel"),
    "no namespace": ("workflow", "forbidden_channel"),
    "no name": ("workflow:", "forbidden_channel"),
    "another case": ("Workflow:a", "forbidden_channel"),
    "a line end": ("workflow:a\r\nPUBLISH x y", "invalid_channel"),
    "a zero": ("workflow:a\0", "invalid_channel"),
    "too long": ("workflow:" + "x" * 250, "invalid_channel"),
    "a number": (7, "invalid_channel"),
    "null": (None, "invalid_channel"),
}


@pytest.mark.parametrize("case", CHANNELS)
async def test_channels(broker: Broker, store: Valkey, key: Key, case: str) -> None:
    """No client reaches a Redis channel that is not an event channel, whatever it calls it."""
    channel, code = CHANNELS[case]
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        before = store.client.pubsub_channels()
        await client.send_json(type="subscribe", channel=channel)
        answer = await client.receive_json()
        assert (answer["type"], answer["code"]) == ("error", code)
        assert sorted(store.client.pubsub_channels()) == sorted(before)


async def test_a_pattern_is_a_name(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """A star in a channel's name is a star: it subscribes to nothing else."""
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        await client.send_json(type="subscribe", channel="workflow:*")
        assert (await client.receive_json())["type"] == "subscribed"
        store.client.publish(f"workflow:{org}", '{"type": "private"}')
        store.client.publish("workflow:*", '{"type": "to the star"}')
        assert (await client.receive_json())["type"] == "to the star"


async def test_ten_thousand_subscribes(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """The first thousand are subscribed, others are refused by name; the flood is slowed down and hurts nobody."""
    client = await broker.browser(key)
    async with bystanders(broker, store, key), trio.open_nursery() as nursery:

        async def flood() -> None:
            for number in range(10_000):
                await client.send_json(type="subscribe", channel=f"workflow:{org}-{number}")

        nursery.start_soon(flood)
        for _ in range(1000):
            assert (await client.receive_json())["type"] == "subscribed"
        for _ in range(50):
            answer = await client.receive_json()
            assert (answer["type"], answer["code"]) == ("error", "too_many_subscriptions")
        nursery.cancel_scope.cancel()
    await client.kill()


async def test_client_that_does_not_stop(broker: Broker, store: Valkey, key: Key) -> None:
    """Who floods for longer than `limits.rate_patience` is closed with 4429."""
    client = await broker.browser(key)
    raw = RawClient(client.stream, patience=30)
    async with bystanders(broker, store, key), raw, trio.open_nursery() as nursery:

        async def flood() -> None:
            while await raw.send_quietly(frame(1, b'{"type": "pong"}') * 100):
                pass

        nursery.start_soon(flood)
        assert struct.pack(">H", 4429) + b"too many messages" in await raw.read_to_end()
        nursery.cancel_scope.cancel()


async def test_megabytes_behind_a_close(broker: Broker, store: Valkey, key: Key) -> None:
    """A client that goes on sending after the end of its connection is cut off."""
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        await client.send_raw(frame(8, struct.pack(">H", 1000)))
        raw = RawClient(client.stream)
        while await raw.send_quietly(bytes(1 << 20)):
            pass
        with pytest.raises(Closed):
            await client.receive()
