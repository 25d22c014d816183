"""Who a client is when proxies stand between: X-Forwarded-For and the PROXY protocol, from those who are trusted."""

import ipaddress
import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Config, Server
from broker.door import Kind
from broker.door.proxies import TrustedProxies
from broker.door.proxy_header import MAX_BYTES, SIGNATURE, BadProxyHeader, read_proxy_header
from broker.http.request import parse_request
from tests.door.conftest import Site
from tests.support import RawClient, WsClient

EVENTS = "/ws/?token=nr_live_good"
UPGRADE = (
    b"GET /ws/?token=nr_live_good HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PLAIN = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


def proxy_header(host: str, port: int = 50123, command: int = 0x21, extra: bytes = b"") -> bytes:
    """A PROXY protocol header of version 2 for a client at this address."""
    address = ipaddress.ip_address(host)
    ours = bytes(len(address.packed))
    body = address.packed + ours + struct.pack("!HH", port, 443) + extra
    family = 0x11 if address.version == 4 else 0x21
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


@pytest.mark.parametrize(
    ("peer", "forwarded", "text", "host", "countable"),
    [
        ("10.0.0.1:5", ["203.0.113.7"], "203.0.113.7", "203.0.113.7", True),
        ("10.0.0.1:5", ["6.6.6.6, 203.0.113.7"], "203.0.113.7", "203.0.113.7", True),
        ("10.0.0.1:5", ["6.6.6.6", "203.0.113.7, 10.0.0.2"], "203.0.113.7", "203.0.113.7", True),
        ("10.0.0.1:5", ["203.0.113.7:4711"], "203.0.113.7", "203.0.113.7", True),
        ("10.0.0.1:5", ["[2001:db8::7]:4711"], "2001:db8::7", "2001:db8::/64", True),
        ("10.0.0.1:5", ["2001:db8::7"], "2001:db8::7", "2001:db8::/64", True),
        ("10.0.0.1:5", ["::ffff:203.0.113.7"], "203.0.113.7", "203.0.113.7", True),
        ("10.0.0.1:5", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", "10.0.0.3", False),
        ("10.0.0.1:5", ["203.0.113.7, unknown"], "10.0.0.1:5", "10.0.0.1", False),
        ("10.0.0.1:5", [""], "10.0.0.1:5", "10.0.0.1", False),
        ("10.0.0.1:5", [], "10.0.0.1:5", "10.0.0.1", False),
        ("10.0.0.1:5", ["127.0.0.1"], "127.0.0.1", "127.0.0.1", False),
        ("203.0.113.9:5", ["6.6.6.6"], "203.0.113.9:5", "203.0.113.9", True),
        ("unix", ["203.0.113.7"], "203.0.113.7", "203.0.113.7", True),
        ("127.0.0.1:5", ["203.0.113.7"], "127.0.0.1:5", "127.0.0.1", False),
    ],
)
def test_x_forwarded_for(peer: str, forwarded: list[str], text: str, host: str, countable: bool) -> None:
    """The last address that no trusted proxy vouches past is the client's; a stranger's header is not believed."""
    proxies = TrustedProxies(("10.0.0.0/8", "unix"))
    headers = tuple((b"x-forwarded-for", value.encode()) for value in forwarded)
    found = proxies.client(proxies.peer(peer), parse_request(b"GET", b"/", headers))
    assert (found.text, found.host, found.countable) == (text, host, countable)


def test_nobody_is_trusted_by_default() -> None:
    """Without configured proxies neither a header nor a unix socket changes who the client is."""
    proxies = TrustedProxies()
    request = parse_request(b"GET", b"/", ((b"x-forwarded-for", b"6.6.6.6"),))
    for peer in ("203.0.113.9:5", "[2001:db8::1]:5", "unix"):
        assert proxies.client(proxies.peer(peer), request).text == peer
        assert proxies.disbelieves(proxies.peer(peer), request)
    assert not TrustedProxies(("unix",)).disbelieves(proxies.peer("unix"), request)
    assert not proxies.disbelieves(proxies.peer("unix"), parse_request(b"GET", b"/", ()))


class Bytes:
    """A stream of given bytes, in pieces of at most three."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def receive_some(self, max_bytes: int = 3) -> bytes:
        await trio.lowlevel.checkpoint()
        size = min(3, max_bytes)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def unread(self, data: bytes) -> None:
        self.data = data + self.data


@pytest.mark.parametrize(
    ("header", "remote"),
    [
        (proxy_header("203.0.113.7"), "203.0.113.7:50123"),
        (proxy_header("2001:db8::7"), "[2001:db8::7]:50123"),
        (proxy_header("203.0.113.7", extra=b"\x04\x00\x03abc"), "203.0.113.7:50123"),
        (proxy_header("203.0.113.7", command=0x20), None),
        (SIGNATURE + b"\x20\x00\x00\x00", None),
        (SIGNATURE + b"\x21\x00\x00\x00", None),
        (SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + bytes(216), None),
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 50123 443\r\n", "203.0.113.7:50123"),
        (b"PROXY TCP6 2001:db8::7 ::1 50123 443\r\n", "[2001:db8::7]:50123"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN anything at all\r\n", None),
    ],
)
async def test_proxy_header(header: bytes, remote: str | None) -> None:
    """The header tells the client's address, in either version and any pieces; what follows it is left to be read."""
    stream = Bytes(header + b"GET /")
    assert await read_proxy_header(stream) == remote
    assert stream.data == b"GET /"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        b"PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
        b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        UPGRADE,
        SIGNATURE,
        SIGNATURE + b"\x21\x11\x00\x0c" + bytes(11),
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        SIGNATURE + b"\x21\x21\x00\x23" + bytes(35),
        SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_BYTES + 1) + bytes(MAX_BYTES + 1),
    ],
)
async def test_what_is_no_proxy_header(data: bytes) -> None:
    """Another protocol, a header cut short, one that makes no sense or one without end is refused."""
    with pytest.raises(BadProxyHeader):
        await read_proxy_header(Bytes(data))


@given(st.binary(max_size=64), st.sampled_from((b"", SIGNATURE, b"PROXY ", b"PROXY TCP4 ")))
def test_any_bytes_are_a_header_or_refused(data: bytes, start: bytes) -> None:
    """No bytes raise anything but BadProxyHeader."""

    async def read() -> None:
        try:
            await read_proxy_header(Bytes(start + data))
        except BadProxyHeader:
            return

    trio.run(read)


BEHIND_TCP = Config(server=Server(trusted_proxies=("127.0.0.1",), proxy_protocol=True))


@pytest.mark.parametrize("config", [BEHIND_TCP])
async def test_a_socket_through_a_tcp_proxy(site: Site, config: Config) -> None:
    """A trusted proxy's header names the client, in the log and for limits; its health checks are served, too."""
    async with await site.raw() as client:
        await client.send(proxy_header("203.0.113.7") + UPGRADE)
        assert (await client.reply()).status == 101
        assert await client.read_exactly(11) == b"\x81\x09events k1"
        assert [peer.remote for peer in site.door.peers(Kind.EVENTS)] == ["203.0.113.7:50123"]
    async with await site.raw() as probe:
        await probe.send(SIGNATURE + b"\x20\x00\x00\x00" + PLAIN)
        assert (await probe.reply()).status == 200


@pytest.mark.parametrize("config", [BEHIND_TCP])
async def test_a_trusted_proxy_without_its_header(site: Site, config: Config) -> None:
    """A connection of the proxy that does not begin with the header is closed: it must not be guessed about."""
    async with await site.raw() as client:
        await client.send(PLAIN)
        assert await client.read_to_end() == b""
    assert site.services.counters.refused["proxy_header"] == 1
    async with await RawClient.connect(site.path) as stranger:
        await stranger.send(PLAIN)
        assert (await stranger.reply()).status == 200


@pytest.mark.parametrize("config", [BEHIND_TCP])
async def test_a_proxy_header_from_a_stranger(site: Site, config: Config) -> None:
    """Who is not trusted cannot pass for another address: its header is no HTTP."""
    async with await RawClient.connect(site.path) as stranger:
        await stranger.send(proxy_header("203.0.113.7") + PLAIN)
        assert (await stranger.reply()).status == 400


@pytest.mark.parametrize("config", [Config(server=Server(trusted_proxies=("127.0.0.1",)))])
async def test_a_socket_through_an_http_proxy(site: Site, config: Config) -> None:
    """Behind a trusted HTTP proxy each request is its own client's, also on one kept connection."""
    async with await WsClient.connect(site.address, EVENTS, {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}) as client:
        assert await client.receive() == "events k1"
        assert [peer.remote for peer in site.door.peers(Kind.EVENTS)] == ["203.0.113.7"]
