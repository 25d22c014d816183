"""What strangers send to a real broker in place of a request: each has its answer, and it serves on."""

import socket
import struct

import pytest
import trio

from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.e2e.hostile import bystanders

pytestmark = pytest.mark.usefixtures("no_errors_are_logged")

UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def request(*lines: bytes) -> bytes:
    """The head of a request."""
    return b"\r\n".join([*lines, b"", b""])


HEADS = {
    "garbage": (bytes(range(128, 192)) + b"\r\n\r\n", 400, "bad_request"),
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
