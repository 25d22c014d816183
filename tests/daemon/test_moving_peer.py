"""A connection can be given from one owner to the next at any byte, in either direction."""

import itertools
import socket

import trio
import wsproto
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection
from wsproto.events import Ping, Pong, TextMessage

from broker.wire import OpenConnection, Peer, PeerLimits, PlainWire, open_peer
from protocol.frames import text_frame

LIMITS = PeerLimits(
    outbox_bytes=1 << 22, max_message_bytes=1 << 16, max_fragments=64, close_timeout=1.0, frames_per_second=1e6
)


async def hear(peer: Peer, heard: list[str]) -> None:
    """Note every message of a peer until it is over."""

    async def note(message: str | bytes) -> None:
        assert isinstance(message, str)
        heard.append(message)

    await peer.listen(note)


Moved = tuple[socket.socket, OpenConnection | None]


async def own(moved: list[Moved], heard: list[str], says: list[bytes], ready: trio.Event) -> None:
    """Own the last of `moved` for a while: hear, say something, and hand it over once `ready` is set."""
    raw, state = moved[-1]
    wire = PlainWire(raw)
    if state is not None:
        wire.unread(state.unread)
    async with open_peer(wire, b"", LIMITS) as peer:
        if state is not None:
            peer.take_up(state)
        async with trio.open_nursery() as session:
            peer.start(session)
            session.start_soon(hear, peer, heard)
            for frame in says:
                peer.send(frame)
            await ready.wait()
            peer.suspend()
            while not peer.is_settled:
                await trio.lowlevel.checkpoint()
            moved.append((raw.dup(), peer.hand_over()))
            session.cancel_scope.cancel()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at these places, wherever they lie."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.lists(st.text(max_size=40), min_size=1, max_size=3), max_size=6),
    cuts=st.lists(st.integers(0, 2000), max_size=5),
    pings=st.booleans(),
)
async def test_any_cut(messages: list[list[str]], cuts: list[int], pings: bool) -> None:
    """Whole messages, fragments and pings arrive once and in order, wherever the connection changes hands."""
    client = Connection(wsproto.ConnectionType.CLIENT)
    data = b""
    for parts in messages:
        for number, part in enumerate(parts, 1):
            data += client.send(TextMessage(data=part, message_finished=number == len(parts)))
            if pings:
                data += client.send(Ping(payload=b"p"))
    heard: list[str] = []
    ours, raw = socket.socketpair()
    ours.setblocking(False)
    moved: list[Moved] = [(raw, None)]
    with ours:
        sent = pieces(data, cuts) or [b""]
        for number, piece in enumerate(sent):
            ready = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(own, moved, heard, [text_frame(b"%d" % number)], ready)
                ours.send(piece)
                await trio.testing.wait_all_tasks_blocked()
                ready.set()
        moved[-1][0].close()
        answers, pongs = read_all(ours)
    assert heard == ["".join(parts) for parts in messages]
    assert answers == [str(number) for number in range(len(sent))]
    assert pongs == (sum(map(len, messages)) if pings else 0)


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=8), turns=st.integers(1, 4))
async def test_a_client_that_does_not_read(sizes: list[int], turns: int) -> None:
    """What the kernel has no room for moves along, a half-written frame too: the client reads every frame whole."""
    heard: list[str] = []
    ours, raw = socket.socketpair()
    ours.setblocking(False)
    moved: list[Moved] = [(raw, None)]
    texts = [str(size % 10) * size for size in sizes]
    with ours:
        for _ in range(turns):
            ready = trio.Event()
            ready.set()
            await own(moved, heard, [text_frame(text.encode()) for text in texts], ready)
        raw, state = moved[-1]
        assert state is not None
        async with open_peer(PlainWire(raw), b"", LIMITS) as peer:
            peer.take_up(state)
            async with trio.open_nursery() as nursery:
                peer.start(nursery)
                got: list[str] = []
                reader = Connection(wsproto.ConnectionType.CLIENT)
                part = ""
                while len(got) < turns * len(texts):
                    await trio.lowlevel.wait_readable(ours)
                    reader.receive_data(ours.recv(1 << 20))
                    for event in reader.events():
                        assert isinstance(event, TextMessage)
                        part += event.data
                        if event.message_finished:
                            got.append(part)
                            part = ""
                ours.shutdown(socket.SHUT_RDWR)
                nursery.cancel_scope.cancel()
    assert got == texts * turns


def read_all(sock: socket.socket) -> tuple[list[str], int]:
    """Read what a client was sent up to the end: the messages, and how many pongs there were."""
    reader = Connection(wsproto.ConnectionType.CLIENT)
    while data := sock.recv(1 << 16):
        reader.receive_data(data)
    events = list(reader.events())
    return [event.data for event in events if isinstance(event, TextMessage)], sum(
        isinstance(event, Pong) for event in events
    )
