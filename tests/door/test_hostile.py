"""What strangers send, and the answer that each of them gets; afterwards the door still serves everybody else."""

import socket
import struct

import attrs
import pytest
import trio

from broker.http import HttpBounds
from tests.door.conftest import BOUNDS, Site
from tests.support import RawClient

QUICK = attrs.evolve(BOUNDS, handshake_timeout=0.2, idle_timeout=0.2, linger=0.2)


def get(path: bytes = b"/health/live", *headers: bytes, method: bytes = b"GET", host: bytes = b"Host: a") -> bytes:
    """The bytes of a request."""
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", host, *headers, b"", b""])


HOSTILE = {
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)), 400, "bad_request"),
    "garbage with a line end": (b"GARBAGE\r\n\r\n", 400, "bad_request"),
    "binary zeros": (bytes(64) + b"\r\n", 400, "bad_request"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "two Hosts": (get(b"/", b"Host: b"), 400, "bad_request"),
    "Host that is not ASCII": (get(host="Host: köln.example".encode()), 400, "bad_request"),
    "Host in latin-1": (get(host=b"Host: k\xf6ln"), 400, "bad_request"),
    "bad punycode in Host": (get(b"/nothing", host=b"Host: xn--\xff\xfe.example"), 400, "bad_request"),
    "space in Host": (get(host=b"Host: a b"), 400, "bad_request"),
    "path that is not ASCII": (get("/höhe".encode()), 400, "bad_request"),
    "control character in the path": (get(b"/a\x01b"), 400, "bad_request"),
    "broken escape": (get(b"/%zz"), 400, "bad_request"),
    "escape that is not UTF-8": (get(b"/%ff"), 400, "bad_request"),
    "query that is not UTF-8": (get(b"/health/live?a=%ff"), 400, "bad_request"),
    "too many query fields": (get(b"/health/live?" + b"a=1&" * 40), 400, "bad_request"),
    "no path": (get(b"health"), 400, "bad_request"),
    "asterisk": (get(b"*", method=b"OPTIONS"), 400, "bad_request"),
    "CONNECT": (get(b"example.com:443", method=b"CONNECT"), 400, "bad_request"),
    "traversal": (get(b"/../../etc/passwd"), 404, "not_found"),
    "newline in a header": (get(b"/", b"X: a\rb"), 400, "bad_request"),
    "header without a name": (get(b"/", b": a"), 400, "bad_request"),
    "space before the colon": (get(b"/", b"X : a"), 400, "bad_request"),
    "two Content-Lengths": (
        get(b"/api/v1/auth/verify", b"Content-Length: 1", b"Content-Length: 2", method=b"POST") + b"xx",
        400,
        "bad_request",
    ),
    "a list of Content-Lengths": (
        get(b"/api/v1/auth/verify", b"Content-Length: 1, 2", method=b"POST") + b"xx",
        400,
        "bad_request",
    ),
    "negative Content-Length": (get(b"/", b"Content-Length: -1"), 400, "bad_request"),
    "huge Content-Length": (
        get(b"/api/v1/auth/verify", b"Content-Length: 99999999999999999999", method=b"POST"),
        413,
        "body_too_large",
    ),
    "absurd Content-Length": (get(b"/", b"Content-Length: " + b"9" * 3000, method=b"POST"), 400, "bad_request"),
    "Content-Length and chunked": (
        get(b"/api/v1/auth/verify", b"Content-Length: 5", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
        400,
        "bad_request",
    ),
    "unknown transfer coding": (
        get(b"/api/v1/auth/verify", b"Transfer-Encoding: gzip, chunked", method=b"POST"),
        501,
        "bad_request",
    ),
    "bad chunk": (
        get(b"/api/v1/auth/verify", b"Transfer-Encoding: chunked", method=b"POST") + b"zz\r\nabc\r\n",
        400,
        "bad_request",
    ),
    "chunks larger than allowed": (
        get(b"/api/v1/auth/verify", b"Transfer-Encoding: chunked", method=b"POST") + b"2000\r\n" + b"x" * 0x2000,
        413,
        "body_too_large",
    ),
    "a body that is not JSON": (
        get(b"/api/v1/auth/verify", b"Content-Length: 4", b"Connection: close", method=b"POST") + b"\xff\xfe\x00{",
        400,
        "bad_request",
    ),
    "a JSON bomb": (
        get(b"/api/v1/auth/verify", b"Content-Length: 1000", b"Connection: close", method=b"POST") + b"[" * 1000,
        400,
        "bad_request",
    ),
    "upgrade without a key": (
        get(b"/ws/?token=x", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        400,
        "bad_upgrade",
    ),
    "upgrade with a short key": (
        get(
            b"/ws/?token=x",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: c2hvcnQ=",
        ),
        400,
        "bad_upgrade",
    ),
    "upgrade of another version": (
        get(
            b"/ws/?token=x",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 8",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        426,
        "bad_upgrade",
    ),
    "upgrade with a body": (
        get(
            b"/ws/?token=x",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Content-Length: 5",
        )
        + b"hello",
        400,
        "bad_upgrade",
    ),
    "upgrade where there is no WebSocket": (
        get(
            b"/health/live",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        404,
        "not_found",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_bytes(site: Site, case: str) -> None:
    """Whatever does not parse is answered with a status and a JSON error, and the connection is closed."""
    data, status, code = HOSTILE[case]
    async with await site.raw() as client:
        await client.send(data)
        reply = await client.reply()
        assert (reply.status, reply.error_code) == (status, code)
        if status != 404 or "upgrade" in case:
            assert reply.headers["connection"] == "close"
            assert await client.read_to_end() == b""
    async with await site.raw() as other:
        assert (await other.request("GET", "/health/live")).status == 200
    assert site.services.counters.crashed == 0


async def test_version_answer_names_13(site: Site) -> None:
    """A WebSocket of another version is told which one is spoken here (RFC 6455 section 4.2.2)."""
    async with await site.raw() as client:
        await client.send(HOSTILE["upgrade of another version"][0])
        assert (await client.reply()).headers["sec-websocket-version"] == "13"


async def test_websocket_path_without_upgrade(site: Site) -> None:
    """A plain request for a WebSocket's path is told to upgrade, and the connection goes on."""
    async with await site.raw() as client:
        for path in ("/ws", "/ws/", "/ws/?token=nr_live_good", "/ws/control/acme"):
            reply = await client.request("GET", path)
            assert (reply.status, reply.error_code) == (426, "upgrade_required")
            assert reply.headers["upgrade"] == "websocket"


async def test_head_of_a_megabyte(site: Site) -> None:
    """A head that does not end is cut off at the bound with 431, which even a client that still sends can read."""
    async with await site.raw() as client:
        await client.send_quietly(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: " + b"x" * 1_000_000)
        reply = await client.reply()
        assert (reply.status, reply.error_code) == (431, "head_too_large")


@pytest.mark.parametrize(("size", "status"), [(4096, 200), (4097, 431)])
async def test_head_at_the_bound(site: Site, size: int, status: int) -> None:
    """A head of exactly `max_head_bytes` is served, one byte more is not."""
    bare = get(b"/health/live", b"X: ")
    async with await site.raw() as client:
        await client.send(get(b"/health/live", b"X: " + b"x" * (size - len(bare))))
        assert (await client.reply()).status == status


@pytest.mark.parametrize(("size", "status"), [(1024, 200), (1025, 413)])
async def test_body_at_the_bound(site: Site, size: int, status: int) -> None:
    """A body of exactly `max_body_bytes` is served, one byte more is not."""
    body = b'{"api_key": "nr_live_good"}'
    async with await site.raw() as client:
        reply = await client.request("POST", "/api/v1/auth/verify", body=body.ljust(size))
        assert reply.status == status


@pytest.mark.parametrize("bounds", [QUICK])
async def test_head_a_byte_at_a_time(site: Site, bounds: HttpBounds) -> None:
    """The deadline is for the whole head: sending a byte now and then does not extend it; the answer is 408."""
    async with await site.raw() as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            for byte in get(b"/health/live", b"X: " + b"x" * 10_000):
                if not await client.send_quietly(bytes([byte])):
                    return
                await trio.sleep(0.01)

        nursery.start_soon(trickle)
        reply = await client.reply()
        assert (reply.status, reply.error_code) == (408, "request_timeout")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bounds", [QUICK])
async def test_silent_connection(site: Site, bounds: HttpBounds) -> None:
    """A connection that brings nothing is closed without a word."""
    async with await site.raw() as client:
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("bounds", [QUICK])
async def test_idle_connection(site: Site, bounds: HttpBounds) -> None:
    """A connection that stays idle after an answer is closed without a word."""
    async with await site.raw() as client:
        assert (await client.request("GET", "/health/live")).status == 200
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("bounds", [QUICK])
async def test_slow_body(site: Site, bounds: HttpBounds) -> None:
    """A body that does not arrive in time is answered with 408."""
    async with await site.raw() as client:
        await client.send(get(b"/api/v1/auth/verify", b"Content-Length: 10", method=b"POST") + b"{")
        assert (await client.reply()).status == 408
        assert await client.read_to_end() == b""


async def test_half_a_head_then_gone(site: Site) -> None:
    """A client that ends its stream in the middle of a head is told so."""
    stream = await trio.open_tcp_stream(*site.address)
    async with RawClient(stream) as client:
        await client.send(b"GET / HT")
        await stream.send_eof()
        assert (await client.reply()).status == 400


async def test_reset_in_every_phase(site: Site) -> None:
    """A reset before, in and after a head hurts nobody, and is no bug of ours."""
    for data in (b"", b"GET / H", get(), get(b"/api/v1/auth/verify", b"Content-Length: 10", method=b"POST")):
        stream = await trio.open_tcp_stream(*site.address)
        await stream.send_all(data) if data else None
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    async with await site.raw() as client:
        assert (await client.request("GET", "/health/live")).status == 200
    assert site.services.counters.crashed == 0


async def test_a_bug_ends_one_connection_only(site: Site) -> None:
    """A session that fails ends its own connection with 1011, is counted, and gives its place back."""
    site.application.crash = True
    client = await site.websocket("/ws/?token=nr_live_good")
    assert (await client.wait_closed()).code == 1011
    await client.kill()
    site.application.crash = False
    async with await site.websocket("/ws/?token=nr_live_good") as other:
        assert await other.receive() == "events k1"
        assert site.services.counters.crashed == 1
        assert site.door.state.slots.taken == 1
