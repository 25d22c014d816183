"""What strangers, broken clients and careless publishers send to a real broker, which answers each and serves on."""

import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.support import Closed, RawClient, Rejected, WsClient

UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
SOCKETS = ("events", "control")


@pytest.fixture(autouse=True)
def nothing_is_held_against_others(broker: Broker) -> Iterator[None]:
    """Insist that no test here makes the broker log an error of its own."""
    place = len(broker.program.err)
    yield
    said = [json.loads(line) for line in broker.program.err[place:]]
    assert [record for record in said if record["level"] in ("error", "critical")] == []


async def connect(broker: Broker, key: Key, kind: str) -> WsClient:
    """Open an event socket or a control session (past its snapshot)."""
    if kind == "events":
        return await broker.browser(key)
    path = f"/ws/control/{key.organization_id}"
    client = await WsClient.connect(broker.address, path, {"X-API-Key": key.api_key})
    assert (await client.receive_json())["type"] == "initial_state"
    return client


@asynccontextmanager
async def bystanders(broker: Broker, store: Valkey, key: Key) -> AsyncIterator[None]:
    """Keep sockets of both kinds open meanwhile, and insist that they, and new ones, are served afterwards."""
    org = key.organization_id
    channel = f"workflow:{org}-bystander"
    async with await broker.browser(key) as browser, await connect(broker, key, "control") as agent:
        await browser.send_json(type="subscribe", channel=channel)
        await browser.receive_type("subscribed")
        yield
        store.client.publish(channel, '{"type": "still here"}')
        assert (await browser.receive_json())["type"] == "still here"
        change = {"type": "state_change", "workflow_id": "bystander", "state": "Flagged"}
        store.client.publish(f"control:{org}", json.dumps(change))
        while (await agent.receive_type("state_change"))["workflow_id"] != "bystander":
            pass  # what was not acknowledged is sent again
        for kind in SOCKETS:
            await (await connect(broker, key, kind)).close()


def request(*lines: bytes) -> bytes:
    """The head of a request."""
    return b"\r\n".join([*lines, b"", b""])


HEADS = {
    "garbage": (os.urandom(64).replace(b"\n", b"x") + b"\r\n\r\n", 400, "bad_request"),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400, "bad_request"),
    "Host that is not ASCII": (request(b"GET /ws/ HTTP/1.1", "Host: köln.example".encode()), 400, "bad_request"),
    "Host that is bad punycode": (request(b"GET /ws/ HTTP/1.1", b"Host: xn--\xff", *UPGRADE, KEY), 400, "bad_request"),
    "upgrade without a key": (request(b"GET /ws/ HTTP/1.1", b"Host: a", *UPGRADE), 400, "bad_upgrade"),
    "control upgrade without a key": (
        request(b"GET /ws/control/acme HTTP/1.1", b"Host: a", *UPGRADE),
        400,
        "bad_upgrade",
    ),
    "control upgrade without an API key": (
        request(b"GET /ws/control/acme HTTP/1.1", b"Host: a", *UPGRADE, KEY),
        401,
        "api_key_missing",
    ),
    "a megabyte of headers": (
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 990) for n in range(1000)) + b"\r\n",
        431,
        "head_too_large",
    ),
}


@pytest.mark.parametrize("case", HEADS)
async def test_heads(broker: Broker, store: Valkey, key: Key, case: str) -> None:
    """What is no proper request is answered with a status and a JSON error."""
    data, status, code = HEADS[case]
    async with bystanders(broker, store, key), await broker.raw() as client:
        await client.send_quietly(data)
        reply = await client.reply()
        assert (reply.status, reply.error_code) == (status, code)


async def test_subprotocol_that_is_not_ascii(broker: Broker, store: Valkey, key: Key) -> None:
    """Whatever a browser offers as subprotocols cannot hurt: the upgrade is answered one way or the other."""
    target = f"GET /ws/?token={key.api_key} HTTP/1.1".encode()
    async with bystanders(broker, store, key), await broker.raw() as client:
        await client.send(request(target, b"Host: a", *UPGRADE, KEY, b"Sec-WebSocket-Protocol: caf\xc3\xa9"))
        assert (await client.read_until(b"\r\n")).split()[1] in (b"101", b"400")


async def test_head_that_comes_a_byte_at_a_time(broker: Broker, store: Valkey, key: Key) -> None:
    """The time for a head is bounded however diligently its bytes come: 408."""
    async with bystanders(broker, store, key), await broker.raw() as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            for _ in range(200):
                await client.send_quietly(b"a")
                await trio.sleep(0.05)

        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        nursery.start_soon(trickle)
        reply = await client.reply()
        assert (reply.status, reply.error_code) == (408, "request_timeout")
        nursery.cancel_scope.cancel()


async def test_crowd_that_says_nothing(broker: Broker, store: Valkey, key: Key) -> None:
    """Connections that bring nothing keep nobody out, and are closed when their time is up."""
    async with bystanders(broker, store, key):
        crowd = [await broker.raw() for _ in range(300)]
        async with await broker.browser(key) as client:
            await client.send_json(type="subscribe", channel="workflow:a")
            assert (await client.receive_json())["type"] == "subscribed"
        for client_ in crowd:
            assert await client_.read_to_end() == b""
            await client_.aclose()


async def test_resets_in_all_phases(broker: Broker, store: Valkey, key: Key) -> None:
    """A connection that is reset before, in or after its upgrade leaves nothing behind."""
    upgrade = request(f"GET /ws/?token={key.api_key} HTTP/1.1".encode(), b"Host: a", *UPGRADE, KEY)
    async with bystanders(broker, store, key):
        for cut in (0, 10, len(upgrade) - 1, len(upgrade)):
            for _ in range(5):
                with socket.create_connection(broker.address) as sock:
                    sock.sendall(upgrade[:cut])
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One WebSocket frame, as badly formed as wanted."""
    head = bytes([(0x80 if final else 0) | reserved | opcode])
    mark = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mark | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mark | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([mark | 127]) + struct.pack(">Q", len(payload))
    return head + (bytes(4) if masked else b"") + payload


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


@pytest.mark.slow
async def test_client_that_does_not_stop(broker: Broker, store: Valkey, key: Key) -> None:
    """Who floods for more than 10 s is closed with 4429."""
    client = await broker.browser(key)
    raw = RawClient(client.stream, patience=30)
    async with bystanders(broker, store, key), raw, trio.open_nursery() as nursery:

        async def flood() -> None:
            while await raw.send_quietly(frame(1, b'{"type": "pong"}') * 100):
                pass

        nursery.start_soon(flood)
        assert struct.pack(">H", 4429) + b"too many messages" in await raw.read_to_end()
        nursery.cancel_scope.cancel()


BAD_EVENTS = {
    "no JSON": b"hello",
    "empty": b"",
    "not UTF-8": b'{"type": "\xff"}',
    "no object": b"[]",
    "no type": b"{}",
    "type that is no text": b'{"type": 7}',
    "not a number": b'{"type": "a", "data": NaN}',
    "a bomb": b'{"type": "a", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "another channel": b'{"type": "a", "channel": "workflow:elsewhere"}',
    "2 MiB": b'{"type": "a", "data": "' + b"x" * (2 << 20) + b'"}',
    **{
        f"reserved type {name}": b'{"type": "%s"}' % name.encode()
        for name in (
            "ping",
            "pong",
            "subscribe",
            "subscribed",
            "unsubscribe",
            "unsubscribed",
            "error",
            "resync_required",
        )
    },
}


async def test_events(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """Publications that are no events are dropped and logged, and the next good one arrives."""
    channel = f"workflow:{org}"
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        await client.send_json(type="subscribe", channel=channel)
        await client.receive_type("subscribed")
        place = len(broker.program.err)
        for payload in BAD_EVENTS.values():
            assert store.client.publish(channel, payload) >= 1
        store.client.publish(channel, '{"type": "good"}')
        assert await client.receive_json() == {"type": "good", "channel": channel}
        assert broker.logged("publication dropped", place)["channel"] == channel


CHANGE = {"type": "state_change", "workflow_id": "wf", "state": "Killed"}

BAD_CONTROL: dict[str, bytes | dict[str, object]] = {
    "no JSON": b"kill wf",
    "not UTF-8": b'{"type": "state_change", "workflow_id": "\xff", "state": "Killed"}',
    "a bomb": b"[" * 1_000_000,
    "no object": b'["state_change"]',
    "no type": {"workflow_id": "wf", "state": "Killed"},
    "a type of the server": {"type": "initial_state", "organization_id": "acme", "workflows": []},
    "a type of the client": {"type": "ack", "message_id": "m", "received_at": 1},
    "resync": {"type": "resync_required", "reason": "because"},
    "another organization": {**CHANGE, "organization_id": "elsewhere"},
    "unknown state": {**CHANGE, "state": "Dead"},
    "no state": {**CHANGE, "state": None},
    "no workflow": {"type": "state_change", "state": "Killed"},
    "workflow that is no id": {**CHANGE, "workflow_id": "a b"},
    "workflow that is null": {**CHANGE, "workflow_id": None},
    "workflow that is too long": {**CHANGE, "workflow_id": "x" * 129},
    "version that is text": {**CHANGE, "version": "7"},
    "version that is true": {**CHANGE, "version": True},
    "message id that is no id": {**CHANGE, "message_id": "a\nb"},
    "outcome that is none": {
        "type": "approval_resolved",
        "approval_id": "a",
        "workflow_id": "wf",
        "execution_id": "e",
        "outcome": "maybe",
        "resolved_at": 1,
    },
}


async def test_control_input(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """What is no control message is refused and logged, changes nothing, and the next good one arrives."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        for payload in BAD_CONTROL.values():
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            assert store.client.publish(f"control:{org}", data) >= 1
        store.client.publish(f"control:{org}", json.dumps({**CHANGE, "state": "paused"}))
        change = await agent.receive_json()
        assert (change["type"], change["state"], change["version"]) == ("state_change", "Paused", 1)


@pytest.mark.parametrize("version", [-1, 0, 1 << 53, 10**30, None])
async def test_kill_of_an_absurd_version(broker: Broker, store: Valkey, key: Key, org: str, version: object) -> None:
    """A number that makes no sense does not keep a kill from its workflow."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        store.client.publish(f"control:{org}", json.dumps({**CHANGE, "version": version}))
        change = await agent.receive_json()
        assert (change["state"], change["version"]) == ("Killed", 1)


async def test_control_channels_of_nobody(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """Control input for organizations that cannot be, or have no key, is heard by nobody and stored nowhere."""
    async with bystanders(broker, store, key):
        for name in ("", " ", "a b", "{x}", "ä", "x" * 200, "a:b:c", f"{org}-without-key", "*"):
            store.client.publish(f"control:{name}", json.dumps(CHANGE))
    assert not store.client.keys(f"signalbox:{{{org}-without-key}}*")
    assert not store.client.keys("signalbox:{{x}}*")


async def test_a_kill_is_final(broker: Broker, store: Valkey, key: Key, org: str) -> None:
    """No plain publication leaves Killed, whatever version it claims."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        store.client.publish(f"control:{org}", json.dumps(CHANGE))
        assert (await agent.receive_json())["state"] == "Killed"
        for extra in ({}, {"version": 99}, {"message_id": "forged"}, {"version": (1 << 53) - 1}):
            store.client.publish(f"control:{org}", json.dumps({**CHANGE, "state": "resumed", **extra}))
    assert [entry["state"] for entry in status(broker, org, "wf")] == ["Killed"]


def status(broker: Broker, org: str, workflow: str) -> list[dict[str, object]]:
    """Return what the command line knows of a workflow."""
    return [entry for entry in broker.installation.json("status", org) if entry.get("workflow_id") == workflow]


async def test_another_organization(broker: Broker, key: Key) -> None:
    """A key opens the control plane of its own organization only, and an unknown key opens none."""
    for org, api_key, expected in (("other", key.api_key, 403), (key.organization_id, "nr_live_none", 401)):
        with pytest.raises(Rejected) as rejected:
            await WsClient.connect(broker.address, f"/ws/control/{org}", {"X-API-Key": api_key})
        assert rejected.value.status == expected


async def test_forged_acks(broker: Broker, store: Valkey, key: Key) -> None:
    """Acks of messages that were never sent here, or with a wrong signature, are refused with an error."""
    async with bystanders(broker, store, key), await connect(broker, key, "control") as agent:
        await agent.send_json(type="ack", message_id="never-sent", received_at=1)
        forged = {"api_key": key.api_key, "timestamp": 1, "signature": "0" * 64}
        await agent.send_json(type="ack", message_id="never-sent", received_at=1, **forged)
        assert (await agent.receive_type("error"))["code"].startswith("signature_")


async def test_megabytes_behind_a_close(broker: Broker, store: Valkey, key: Key) -> None:
    """A client that goes on sending after the end of its connection is cut off."""
    async with bystanders(broker, store, key), await broker.browser(key) as client:
        await client.send_raw(frame(8, struct.pack(">H", 1000)))
        raw = RawClient(client.stream)
        while await raw.send_quietly(bytes(1 << 20)):
            pass
        with pytest.raises(Closed):
            await client.receive()
