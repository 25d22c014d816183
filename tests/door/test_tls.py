"""The same door with TLS."""

import socket
import ssl

import attrs
import pytest
import trio
import trio.testing
import trustme

from broker.config import Config, Server
from broker.http import HttpBounds
from tests.door.conftest import BOUNDS, Site, let_through
from tests.door.test_proxies import proxy_header
from tests.support import RawClient, WsClient

HELLOS = 60
HANDSHAKE = b"\x16"
"""What a handshake record begins with, the server's among them (RFC 8446 section 5.1)."""

QUICK = attrs.evolve(BOUNDS, handshake_timeout=0.3)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority for tests."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def secure(site: Site, authority: trustme.CA) -> Site:
    """The door, speaking TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    site.door.use_tls(context)
    return site


async def test_http_and_websocket_over_tls(secure: Site, trusting: ssl.SSLContext) -> None:
    """HTTP and both sockets work as they do without TLS, the end of the stream included."""
    async with await RawClient.connect(secure.address, tls=trusting) as client:
        assert (await client.request("GET", "/health/live")).status == 200
        assert (await client.request("GET", "/nothing", {"Connection": "close"})).status == 404
        assert await client.read_to_end() == b""
    async with await WsClient.connect(secure.address, "/ws/?token=nr_live_good", tls=trusting) as websocket:
        assert await websocket.receive() == "events k1"
        await websocket.send("x" * 1000)
        assert await websocket.receive() == "x" * 1000


async def test_end_of_a_refused_connection(secure: Site, trusting: ssl.SSLContext) -> None:
    """An answer that ends its connection is followed by a close_notify, which tells that nothing was cut off."""
    stream = trio.SSLStream(await trio.open_tcp_stream(*secure.address[:2]), trusting, server_hostname="localhost")
    await stream.send_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = b""
    while data := await stream.receive_some():  # raises if the stream ends without it
        answer += data
    assert answer.startswith(b"HTTP/1.1 404 ")
    await trio.aclose_forcefully(stream)
    assert secure.services.counters.crashed == 0


async def test_a_request_that_is_cut_off(secure: Site, trusting: ssl.SSLContext) -> None:
    """A client that goes within its head, without the end that TLS has for that, is not answered: no error of ours."""
    async with await trio.open_tcp_stream(*secure.address[:2]) as transport:
        stream = trio.SSLStream(transport, trusting, server_hostname="localhost")
        await stream.send_all(b"GET /health/live HTTP/1.1\r\nHo")
        await transport.send_eof()
        with trio.fail_after(5):
            while await transport.receive_some():
                pass
    assert secure.services.counters.crashed == 0


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\x05hello", bytes(100)])
async def test_no_tls(secure: Site, data: bytes) -> None:
    """What is no TLS handshake ends the connection, at once, and is counted."""
    async with await secure.raw() as client:
        await client.send(data)
        await client.read_to_end()
    while not secure.services.counters.refused["tls"]:
        await trio.lowlevel.checkpoint()
    assert secure.services.counters.crashed == 0


@pytest.mark.parametrize("bounds", [QUICK])
async def test_handshake_that_never_comes(secure: Site, bounds: HttpBounds) -> None:
    """A client that does not begin its TLS handshake is dropped at the deadline."""
    async with await secure.raw() as client:
        await client.send(b"\x16\x03\x01")
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("config", [Config(server=Server(trusted_proxies=("127.0.0.1",), proxy_protocol=True))])
@pytest.mark.parametrize("header", [proxy_header("203.0.113.7"), b"PROXY TCP4 203.0.113.7 10.0.0.1 50123 443\r\n"])
async def test_a_proxy_header_before_tls(secure: Site, config: Config, header: bytes, trusting: ssl.SSLContext) -> None:
    """A TCP proxy says who the client is in clear, in one segment with the client's TLS or not, and TLS follows."""
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream(*secure.address)
        await stream.send_all(header)
        tls = trio.SSLStream(stream, trusting, server_hostname="localhost", https_compatible=True)
        async with RawClient(tls) as client:
            reply = await client.request("POST", "/api/v1/auth/verify", {"X-API-Key": "wrong"}, b'{"api_key": "wrong"}')
            assert reply.status == 401
    assert secure.door.state.guard.failures.note("203.0.113.7", trio.current_time()) == 0.0
    assert len(secure.door.state.guard.failures) == 1


async def test_handshakes_of_a_crowd(secure: Site, trusting: ssl.SSLContext) -> None:
    """What is computed for those who come back in the same moment is computed a few at a time, and all of it is."""
    turns = secure.door.state.handshakes
    at_once, turns.at_once, turns.at_least = turns.at_once, 0, 0.0
    clients = []
    for _ in range(HELLOS):
        client = socket.create_connection(secure.address[:2])
        client.sendall(hello(trusting))
        clients.append(client)
    await let_through(turns, HELLOS, at_once)
    for client in clients:
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(client)
        assert client.recv(1) == HANDSHAKE
        client.close()


async def test_a_handshake_waits_once_and_not_before_it_is_there(secure: Site, trusting: ssl.SSLContext) -> None:
    """Whoever drips it a byte at a time takes nobody's turn, and has one turn like everybody else."""
    turns = secure.door.state.handshakes
    turns.at_once = 0
    sent = hello(trusting)
    with socket.create_connection(secure.address[:2]) as client, trio.fail_after(30):
        for piece in (sent[:1], sent[1:-1]):
            client.sendall(piece)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert turns.waiting == 0
        client.sendall(sent[-1:])
        while not turns.waiting:
            await trio.lowlevel.checkpoint()
        turns.at_once = 1
        await trio.lowlevel.wait_readable(client)
        assert client.recv(1) == HANDSHAKE


def hello(trusting: ssl.SSLContext) -> bytes:
    """Return what a client begins with."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()
