"""The library's connection without its constructor and its channel: it must miss neither."""

import math
import socket

import pytest
import trio
import trio.testing
import trio_websocket
import wsproto.connection

from broker.wire import Outbox, PlainWire
from broker.wire.feed import Feed
from broker.wire.passes import Passes
from broker.wire.turnstile import Turns, Turnstile
from broker.wire.websocket import OpenWebSocket
from protocol.scanner import FrameScanner

HI = b"\x81\x82\0\0\0\0hi"
HO = b"\x81\x82\0\0\0\0ho"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"

FOR_A_HANDSHAKE = {
    "_connection_proposal", "_handshake_headers", "_open_handshake", "_path", "_reject_body", "_reject_headers",
    "_reject_status", "_subprotocol",
}  # fmt: skip
"""What the library's own constructor makes besides, for upgrade requests and their answers."""


def opened(raw: socket.socket, reads: Turnstile | None = None) -> OpenWebSocket:
    """Make a connection out of one end of a socket pair."""
    wire = PlainWire(raw)
    feed = Feed(wire, Outbox(wire, 10_000), FrameScanner(1000, 8), lambda _: None, 8, 100.0)
    feed.turns = Turns(reads=reads)
    return OpenWebSocket(feed, 1000)


async def test_it_has_what_the_librarys_own_constructor_makes() -> None:
    """A version of the library that makes more, or other things, is noticed here."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = wsproto.connection.Connection(wsproto.connection.SERVER)
        stream = trio.testing.memory_stream_pair()[0]
        theirs_made = vars(trio_websocket.WebSocketConnection(stream, connection))  # type: ignore[arg-type]  # as ours
        websocket = opened(ours)
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
            nursery.start_soon(opened(ours).run, hear)
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
            await opened(ours).run(hear)
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
            session.start_soon(opened(ours, reads).run, hear)
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
            reason = await opened(ours).run(never)
        assert reason is not None
        assert reason.code == 1000
        assert theirs.recv(100) == b"\x88\x02\x03\xe8"


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
            await opened(ours).run(fail)
        assert caught.value.__cause__ is error


async def never(message: str | bytes) -> None:
    """Be given nothing."""
    raise AssertionError(message)
