"""A WebSocket peer over real sockets: messages, limits, and every way in which it can end."""

import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
import trustme

from broker.wire import Peer, PeerLimits, PlainWire, TlsWire, open_peer
from protocol.frames import ping_frame, text_frame
from protocol.upgrade import switching_protocols
from tests.support import WsClient

LIMITS = PeerLimits(outbox_bytes=100_000, max_message_bytes=1000, max_fragments=8, close_timeout=5.0)
Handler = Callable[[Peer], Awaitable[None]]


@attrs.define
class Served:
    """A listening socket whose first connection is handled; `peer` is that connection once it is over."""

    address: tuple[str, int]
    done: trio.Event
    peer: Peer | None = None

    async def ended(self) -> Peer:
        """Wait for the end of the connection."""
        with trio.fail_after(10):
            await self.done.wait()
        assert self.peer is not None
        return self.peer


@asynccontextmanager
async def serving(
    handler: Handler, limits: PeerLimits = LIMITS, context: ssl.SSLContext | None = None
) -> AsyncIterator[Served]:
    """Serve one connection with `handler`, the way the door does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        served = Served(listener.getsockname(), trio.Event())

        async def serve() -> None:
            await trio.lowlevel.wait_readable(listener)
            raw, _ = listener.accept()
            wire = PlainWire(raw)
            if context is not None:
                wire = TlsWire(wire, context)
                await wire.handshake()
            head = b""
            while b"\r\n\r\n" not in head:
                head += await wire.receive_some()
            head, _, rest = head.partition(b"\r\n\r\n")
            wire.unread(rest)
            found = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            assert found is not None
            async with open_peer(wire, switching_protocols(found[1].decode()), limits) as peer:
                served.peer = peer
                async with trio.open_nursery() as tasks:
                    peer.start(tasks)
                    await handler(peer)
                    tasks.cancel_scope.cancel()
            served.done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield served
            nursery.cancel_scope.cancel()


async def echo(peer: Peer) -> None:
    """Send every message back until the peer is gone."""

    async def send_back(message: str | bytes) -> None:
        peer.send(text_frame(message.encode() if isinstance(message, str) else message))

    await peer.listen(send_back)


async def refuse(message: str | bytes) -> None:
    """Be given nothing."""
    raise AssertionError(message)


async def test_messages_both_ways_and_the_peers_close_is_answered() -> None:
    """Text is echoed, and a close from the peer is answered with its code."""
    async with serving(echo) as served, await WsClient.connect(served.address, "/") as client:
        await client.send("héllo")
        assert await client.receive() == "héllo"
        assert (await client.close(4123, "bye")).code == 4123
        peer = await served.ended()
    assert (peer.closed_by, peer.close_code, peer.close_reason) == ("peer", 4123, "bye")


PING = b"\x89\x80\0\0\0\0"
MESSAGE = b"\x81\x82\0\0\0\0hi"


@pytest.mark.parametrize("said", [b"", MESSAGE, MESSAGE[:3], PING, PING + MESSAGE[:3]])
@pytest.mark.parametrize("with_a_reset", [False, True])
async def test_who_goes_without_a_word_has_ended_it_before_anything_else_is_done(
    said: bytes, with_a_reset: bool
) -> None:
    """Sessions log the end as soon as there is nothing more to listen to."""
    ends: list[tuple[str, int]] = []

    async def listen(peer: Peer) -> None:
        await echo(peer)
        ends.append((peer.closed_by, peer.close_code))

    async with serving(listen) as served:
        with socket.create_connection(served.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + said)
            await trio.testing.wait_all_tasks_blocked()
            if with_a_reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await served.ended()
    assert ends == [("peer", 1006)]


async def test_a_peer_that_is_found_gone_by_a_write() -> None:
    """It is the one that has ended the connection, also while the session still runs and nothing has been read."""
    ours, theirs = socket.socketpair()
    async with open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as tasks:
        peer.start(tasks)
        theirs.close()
        assert not peer.send(text_frame(b"{}"))
        assert (peer.closed_by, peer.close_code) == ("peer", 1006)
        assert tasks.cancel_scope.cancel_called


async def test_frames_in_one_segment_with_the_upgrade_are_not_lost() -> None:
    """A client that does not wait for the 101 gets its answer all the same."""
    async with serving(echo) as served:
        stream = await trio.open_tcp_stream(*served.address)
        head = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        await stream.send_all(head + b"\x81\x85\0\0\0\0early")
        received = b""
        with trio.fail_after(5):
            while not received.endswith(text_frame(b"early")):
                received += await stream.receive_some()
        await stream.aclose()
        assert (await served.ended()).close_code == 1006


async def test_our_close_follows_what_is_pending_and_waits_for_the_answer() -> None:
    """Frames sent before close_soon arrive before the close frame; those after it never do."""

    async def talk(peer: Peer) -> None:
        for number in range(5):
            peer.send(text_frame(str(number).encode()))
        peer.close_soon(4401, "revoked")
        peer.close_soon(1011, "too late")
        peer.send(text_frame(b"never"))
        await peer.listen(refuse)

    async with serving(talk) as served, await WsClient.connect(served.address, "/") as client:
        for number in range(5):
            assert await client.receive() == str(number)
        closed = await client.wait_closed()
        assert (closed.code, closed.reason) == (4401, "revoked")
        peer = await served.ended()
    assert (peer.closed_by, peer.close_code) == ("us", 4401)


async def test_once_it_is_being_closed_nothing_more_is_heard() -> None:
    """What a client says behind the message for which it is closed is dropped."""
    heard: list[str | bytes] = []

    async def close_at_once(peer: Peer) -> None:
        async def hear(message: str | bytes) -> None:
            heard.append(message)
            peer.close_soon(4401, "revoked")

        await peer.listen(hear)

    async with serving(close_at_once) as served, await WsClient.connect(served.address, "/") as client:
        await client.send_raw(b"\x81\x82\0\0\0\0hi" * 3)
        assert (await client.wait_closed()).code == 4401
        await served.ended()
    assert heard == ["hi"]


async def test_it_is_settled_once_everything_read_is_dealt_with() -> None:
    """A connection is handed over between two messages, never while one is dealt with."""
    settled: list[bool] = []
    go_on = trio.Event()

    async def suspend(peer: Peer) -> None:
        async def hear(_: str | bytes) -> None:
            peer.suspend()
            await trio.testing.wait_all_tasks_blocked()
            settled.append(peer.is_settled)
            await go_on.wait()

        async with trio.open_nursery() as listening:
            listening.start_soon(peer.listen, hear)
            await trio.testing.wait_all_tasks_blocked()
            while not settled:
                await trio.lowlevel.checkpoint()
            go_on.set()
            while not peer.is_settled:
                await trio.lowlevel.checkpoint()
            listening.cancel_scope.cancel()

    with trio.fail_after(10):
        limits = attrs.evolve(LIMITS, close_timeout=0.05)  # nobody reads the client's goodbye
        async with serving(suspend, limits) as served, await WsClient.connect(served.address, "/") as client:
            await client.send("hi")
            await served.ended()
    assert settled == [False]


async def test_a_peer_that_does_not_answer_a_close_is_cut_off_after_the_timeout() -> None:
    """Neither a closing handshake nor a reader that stalls can hold a connection for longer than close_timeout."""
    limits = attrs.evolve(LIMITS, close_timeout=0.05)

    async def flood(peer: Peer) -> None:
        while not peer.closing:
            peer.send(text_frame(b"x" * 50_000))
            await trio.lowlevel.checkpoint()
        await echo(peer)

    async with serving(flood, limits) as served:
        client = await WsClient.connect(served.address, "/")
        peer = await served.ended()
        await client.kill()
    assert (peer.closed_by, peer.close_code, peer.close_reason) == ("us", 1013, "too slow")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # not UTF-8
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x81\xfe\x03\xe9\0\0\0\0", 1009),  # 1,001 bytes announced
        (b"\x01\x81\0\0\0\0a" + b"\x00\x81\0\0\0\0a" * 8, 1009),  # nine fragments
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown opcode
    ],
)
async def test_violations_are_answered_with_their_code(raw: bytes, code: int) -> None:
    """What RFC 6455 or the limits forbid ends in a close frame that says which, after what came before."""
    async with serving(echo) as served, await WsClient.connect(served.address, "/") as client:
        await client.send("before")
        await client.send_raw(raw)
        assert await client.receive() == "before"
        assert (await client.wait_closed()).code == code
        assert (await served.ended()).close_code == code


async def test_a_message_at_the_limit_is_taken_also_when_its_characters_are_long() -> None:
    """The bound counts bytes of UTF-8: exactly 1,000 pass, 1,002 do not."""
    async with serving(echo) as served, await WsClient.connect(served.address, "/") as client:
        await client.send("é" * 500)
        assert await client.receive() == "é" * 500
        await client.send("é" * 501)
        assert (await client.wait_closed()).code == 1009


async def test_pings_are_answered_and_ours_are_heard() -> None:
    """Ping frames are echoed by the library, and bytes from the peer move `last_heard`."""

    async def beat(peer: Peer) -> None:
        before = peer.last_heard
        peer.send(ping_frame(b"are you there"))
        await echo(peer)
        assert peer.last_heard > before

    async with serving(beat) as served, await WsClient.connect(served.address, "/") as client:
        await client.ping(b"abc")
        assert await client.pong_received() == b"abc"
        await client.send("x")
        await client.receive()
        assert client.pings == [b"are you there"]


async def test_a_bug_in_a_session_is_told_as_1011() -> None:
    """An exception in a session closes its own connection with 1011 and goes on to the edge that logs it."""

    async def fail(_: Peer) -> None:
        raise LookupError("a bug")

    codes: list[int] = []

    async def connect() -> None:
        async with serving(fail) as served, await WsClient.connect(served.address, "/") as client:
            codes.append((await client.wait_closed()).code)
            await served.ended()

    with pytest.raises(BaseExceptionGroup) as caught:
        await connect()
    assert caught.group_contains(LookupError)
    assert codes == [1011]


async def test_the_same_over_tls() -> None:
    """Over TLS messages, a backlog of queued frames and the closing handshake work alike."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    frames = [text_frame(f"{number:09000}".encode()) for number in range(1500)]

    async def pour(peer: Peer) -> None:
        async def begin(message: str | bytes) -> None:
            assert message == "go"
            for frame in frames:
                peer.send(frame)
            assert peer.peak_bytes > 0
            await peer.drained()
            peer.close_soon(1000, "done")

        await peer.listen(begin)

    limits = attrs.evolve(LIMITS, outbox_bytes=20_000_000)
    async with (
        serving(pour, limits, context) as served,
        await WsClient.connect(served.address, "/", tls=trust) as client,
    ):
        await client.send("go")
        for number in range(1500):
            assert await client.receive() == f"{number:09000}"
        assert (await client.wait_closed()).code == 1000
        assert (await served.ended()).close_code == 1000
