"""What a connection leaves behind when it is over: nothing that only a garbage collection would find."""

import gc
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import trio

from broker.wire import Peer, PeerLimits, PlainWire, open_peer
from broker.wire.untie import close_generators
from protocol.frames import text_frame

LIMITS = PeerLimits(outbox_bytes=10_000, max_message_bytes=1000, max_fragments=8, close_timeout=0.2)
OURS = ("broker.", "protocol.", "wsproto", "trio_websocket", "h11")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep the collector from doing what is to be proven unnecessary."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    """Count the objects that there are, by type."""
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if kind.__module__.startswith(OURS))


async def talk(peer: Peer) -> None:
    """Serve a session that echoes."""

    async def send_back(message: str | bytes) -> None:
        assert isinstance(message, str)
        if message == "bye":
            peer.close_soon(4000)
        peer.send(text_frame(message.encode()))

    async with trio.open_nursery() as tasks:
        peer.start(tasks)
        await peer.listen(send_back)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        b"",  # the client goes without a word
        b"\x81\x82\0\0\0\0hi",  # a message, then gone
        b"\x81\x82\0\0\0\0h",  # gone in the middle of one
        b"\x88\x82\0\0\0\0\x03\xe8",  # a close frame
        b"\x81\x02hi",  # a violation
        b"\x81\x83\0\0\0\0bye",  # we close, and nobody answers
        b"\x81\xfe\xff\xff\0\0\0\0",  # too big
    ],
)
async def test_nothing_is_left_of_a_connection(uncollected: None, sent: bytes) -> None:
    """Counting references frees all its objects, however it ended."""
    before = alive()
    ours, theirs = socket.socketpair()

    async def serve(sock: socket.socket) -> None:
        async with open_peer(PlainWire(sock), b"", LIMITS) as peer:
            await talk(peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ours)
        await trio.testing.wait_all_tasks_blocked()
        theirs.sendall(sent)
        await trio.testing.wait_all_tasks_blocked()
        theirs.close()
    assert alive() - before == Counter()


def test_only_generators_within_the_library_are_closed() -> None:
    """What does not belong to the libraries is not looked into."""

    class Foreign:
        def __init__(self) -> None:
            self.generator = (number for number in range(3))

    foreign = Foreign()
    assert close_generators({"a": foreign}) == 0
    assert next(foreign.generator) == 0
    assert close_generators({"a": {"b": foreign.generator}}) == 1
    assert next(foreign.generator, None) is None
