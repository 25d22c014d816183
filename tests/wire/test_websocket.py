"""The library's connection without its constructor and its channel: it must miss neither."""

import math
import socket
import tracemalloc
import zlib

import pytest
import trio
import trio.testing
import trio_websocket
import wsproto.connection

from broker.wire import Outbox, PlainWire
from broker.wire.feed import Feed
from broker.wire.passes import Passes
from broker.wire.turnstile import Turns, Turnstile
from broker.wire.websocket import OpenWebSocket, read_messages
from protocol.inflate import Inflater
from protocol.scanner import FrameScanner

HI = b"\x81\x82\0\0\0\0hi"
HO = b"\x81\x82\0\0\0\0ho"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"

FOR_A_HANDSHAKE = {
    "_connection_proposal", "_handshake_headers", "_open_handshake", "_path", "_reject_body", "_reject_headers",
    "_reject_status", "_subprotocol",
}  # fmt: skip
"""What the library's own constructor makes besides, for upgrade requests and their answers."""


def feed_of(raw: socket.socket, reads: Turnstile | None = None) -> Feed:
    """Return what reads from one end of a socket pair."""
    wire = PlainWire(raw)
    feed = Feed(wire, Outbox(wire, 10_000), FrameScanner(1000, 8), lambda _: None, 8, 100.0)
    feed.turns = Turns(reads=reads)
    return feed


async def test_it_has_what_the_librarys_own_constructor_makes() -> None:
    """A version of the library that makes more, or other things, is noticed here."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = wsproto.connection.Connection(wsproto.connection.SERVER)
        stream = trio.testing.memory_stream_pair()[0]
        theirs_made = vars(trio_websocket.WebSocketConnection(stream, connection))  # type: ignore[arg-type]  # as ours
        websocket = OpenWebSocket(feed_of(ours), 1000, b"")
        channels = {"_send_channel", "_recv_channel"}  # are there while it runs
        assert set(vars(websocket)) | channels == set(theirs_made) - FOR_A_HANDSHAKE | {"_feed"}
        same = {"_message_size", "_message_parts", "_reader_running", "_initial_request", "_close_reason", "_pings"}
        for name in same:
            assert vars(websocket)[name] == theirs_made[name]


async def test_nothing_is_read_while_a_message_is_dealt_with() -> None:
    """Messages come one by one, in order; the next waits for the one before, and so does the end."""
    ours, theirs = socket.socketpair()
    heard: list[str | bytes] = []
    go_on = trio.Event()

    async def hear(message: str | bytes) -> None:
        heard.append(message)
        await go_on.wait()

    with ours, theirs:
        theirs.sendall(HI + HO + CLOSE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_messages, feed_of(ours), 1000, hear)
            await trio.testing.wait_all_tasks_blocked()
            assert heard == ["hi"]
            go_on.set()
        assert heard == ["hi", "ho"]


async def test_messages_of_one_read_leave_others_their_turns() -> None:
    """Between two messages everybody else has a turn, however many came together."""
    ours, theirs = socket.socketpair()
    turns = 0
    heard: list[int] = []

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def hear(_: str | bytes) -> None:
        heard.append(turns)

    with ours, theirs:
        theirs.sendall(HI * 5 + CLOSE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await read_messages(feed_of(ours), 1000, hear)
            nursery.cancel_scope.cancel()
    assert len(heard) == 5
    assert heard[-1] - heard[0] >= 3  # four, but for the order within a pass


async def test_messages_of_one_read_pass_the_turnstile_of_reads(nursery: trio.Nursery) -> None:
    """Where browsers wait for each other to be read, a further message of the same read waits, too."""
    ours, theirs = socket.socketpair()
    passes = Passes()
    passes.after_io_wait(0.0)
    reads = Turnstile(1, 0.0, math.inf, passes)
    heard: list[str | bytes] = []

    async def hear(message: str | bytes) -> None:
        heard.append(message)
        if len(heard) == 1:
            reads.at_once = 0

    with ours, theirs, trio.fail_after(10):
        theirs.sendall(HI + HO + CLOSE)
        nursery.start_soon(reads.run)
        async with trio.open_nursery() as session:
            session.start_soon(read_messages, feed_of(ours, reads), 1000, hear)
            while not reads.waiting:
                await trio.lowlevel.checkpoint()
            assert heard == ["hi"]
            reads.at_once = 1
        assert heard == ["hi", "ho"]
    nursery.cancel_scope.cancel()


async def test_a_close_is_answered_and_ends_the_reading_at_once() -> None:
    """It is for the server to end the connection (RFC 6455 section 7.1.1): it does not wait until the client does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(CLOSE)
        with trio.fail_after(5):
            reason = await read_messages(feed_of(ours), 1000, never)
        assert reason is not None
        assert reason.code == 1000
        assert theirs.recv(100) == b"\x88\x02\x03\xe8"


async def reading(reads: list[bytes]) -> tuple[list[str | bytes], bytes]:
    """Let a client send these, each a read of its own, and a close; return what was heard, and what was answered."""
    ours, theirs = socket.socketpair()
    heard: list[str | bytes] = []

    async def hear(message: str | bytes) -> None:
        heard.append(message)

    with ours, theirs, trio.fail_after(5):
        feed = feed_of(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_messages, feed, 1000, hear)
            for read in [*reads, CLOSE]:
                theirs.sendall(read)
                await trio.testing.wait_all_tasks_blocked()
        assert feed.ended
        return heard, theirs.recv(1000)


async def test_the_library_is_made_for_those_who_need_it() -> None:
    """Messages that are whole and by themselves in a read are delivered without it."""
    ours, theirs = socket.socketpair()
    heard: list[str | bytes] = []

    async def hear(message: str | bytes) -> None:
        heard.append(message)

    with ours, theirs:
        before = next(OpenWebSocket.CONNECTION_ID)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_messages, feed_of(ours), 1000, hear)
            for message in (HI, HO, HI):
                theirs.sendall(message)
                await trio.testing.wait_all_tasks_blocked()
            assert heard == ["hi", "ho", "hi"]
            assert next(OpenWebSocket.CONNECTION_ID) == before + 1
            theirs.sendall(HI + HO)  # two in one read
            await trio.testing.wait_all_tasks_blocked()
            assert next(OpenWebSocket.CONNECTION_ID) == before + 3
            theirs.sendall(HI)
            await trio.testing.wait_all_tasks_blocked()
            theirs.sendall(CLOSE)
    assert heard == ["hi", "ho", "hi", "hi", "ho", "hi"]


@pytest.mark.parametrize(("together", "then", "may_stay"), [(1, 0, 0), (8, 1, 1)])
async def test_what_was_read_is_not_kept(together: int, then: int, may_stay: int) -> None:
    """An idle connection has no memory of its messages, but that the library keeps the last that it dealt with."""
    ours, theirs = socket.socketpair()
    size = 60_000
    heard: list[int] = []

    async def hear(message: str | bytes) -> None:
        heard.append(len(message))

    packed = zlib.compressobj(wbits=-15)
    payload = (packed.compress(b"x" * size) + packed.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
    large = bytes((0xC1, 0x80 | len(payload), 0, 0, 0, 0)) + payload
    with ours, theirs:
        wire = PlainWire(ours)
        scanner = FrameScanner(size, 8, compressed=True)
        feed = Feed(wire, Outbox(wire, 10_000), scanner, lambda _: None, 8, 100.0, Inflater(size))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_messages, feed, size, hear)
            await trio.testing.wait_all_tasks_blocked()
            tracemalloc.start()
            theirs.sendall(large * together)
            await trio.testing.wait_all_tasks_blocked()
            theirs.sendall(HI * then)  # and the last read, until the next
            await trio.testing.wait_all_tasks_blocked()
            kept, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            nursery.cancel_scope.cancel()
    assert heard == [size] * together + [2] * then
    assert most > size * together
    assert kept < size * (may_stay + 0.5)


async def test_a_message_in_tiny_pieces_takes_little_memory() -> None:
    """What is kept of an unfinished message is a small multiple of its bytes, however they come."""
    ours, theirs = socket.socketpair()
    size = 4000
    heard: list[str | bytes] = []

    async def hear(message: str | bytes) -> None:
        heard.append(message)

    text = "".join("abcdefgh"[at * at % 8] for at in range(size))
    with ours, theirs:
        wire = PlainWire(ours)
        feed = Feed(wire, Outbox(wire, 10_000), FrameScanner(size, 8), lambda _: None, 8, 100.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_messages, feed, size, hear)
            theirs.sendall(b"\x81\xfe" + size.to_bytes(2) + bytes(4) + text[:1].encode())
            await trio.testing.wait_all_tasks_blocked()
            tracemalloc.start()
            for letter in text[1:-1].encode():
                theirs.sendall(bytes((letter,)))
                await trio.testing.wait_all_tasks_blocked()
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            theirs.sendall(text[-1:].encode())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert heard == [text]
    assert kept < size * 5


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        ([HI, b"\x89\x81\0\0\0\0p", HO], ["hi", "ho"]),  # a ping between
        ([b"\x01\x81\0\0\0\0a", b"\x80\x81\0\0\0\0b", HI], ["ab", "hi"]),  # a message in two frames
        ([HI[:3], HI[3:], HO], ["hi", "ho"]),  # a frame in two reads
        ([b"\x82\x88\0\0\0\0", HI, HO], [HI, "ho"]),  # a payload that looks like a message
        ([b"\x01\x80\0\0\0\0", b"\x89\x80\0\0\0\0", b"\x80\x82\0\0\0\0hi"], ["hi"]),
        ([b"\x82\x82\0\0\0\0hi", HO], [b"hi", "ho"]),  # a binary one
        ([HI + HO, HI], ["hi", "ho", "hi"]),
        ([HI + HO[:4], HO[4:], HI], ["hi", "ho", "hi"]),
    ],
)
async def test_messages_in_any_pieces(reads: list[bytes], said: list[str | bytes]) -> None:
    """What the library is needed for and what it is not make one sequence."""
    heard, answer = await reading(reads)
    assert heard == said
    assert answer.endswith(b"\x88\x02\x03\xe8")


@pytest.mark.parametrize(
    "error",
    [KeyError("a bug"), trio.ClosedResourceError(), trio.BrokenResourceError(), trio_websocket.ConnectionClosed(None)],
)
async def test_an_error_in_a_session_is_not_taken_for_one_of_the_library(error: Exception) -> None:
    """The library swallows errors of these kinds; one of ours must get through."""
    ours, theirs = socket.socketpair()

    async def fail(_: str | bytes) -> None:
        raise error

    with ours, theirs:
        theirs.sendall(HI)
        with pytest.raises(RuntimeError) as caught:
            await read_messages(feed_of(ours), 1000, fail)
        assert caught.value.__cause__ is error


async def never(message: str | bytes) -> None:
    """Be given nothing."""
    raise AssertionError(message)
