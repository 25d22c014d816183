"""A whole peer on a real socket: feed, scanner, inflater, WebSocket library and outbox, to an orderly end."""

import contextlib
import socket

import trio

from broker.wire.limits import PeerLimits
from broker.wire.opening import open_peer
from broker.wire.peer import Peer
from broker.wire.plain import PlainWire, WireBroken
from protocol.deflate import Deflate
from tests.fuzz.frames import CORPUS, WORDS
from tests.fuzz.target import Outcome, Target, pieces

LIMITS = PeerLimits(outbox_bytes=8192, max_message_bytes=600, max_fragments=6, close_timeout=1.0)
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


async def run(data: bytes) -> Outcome:
    """Send the input, in two parts, and read to the end; everything that comes is sent back."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    wire = PlainWire(ours, "unix")
    deflate = Deflate() if data and data[0] & 1 else None
    parts = pieces(data[1:])
    half = len(parts) // 2
    wire.unread(b"".join(parts[:half]))
    outcome: list[object] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_other_side, stream, b"".join(parts[half:]))
            with contextlib.suppress(WireBroken):
                async with open_peer(wire, ANSWER, LIMITS, deflate=deflate) as peer, trio.open_nursery() as session:
                    peer.start(session)
                    await _echo(peer, outcome)
                    session.cancel_scope.cancel()
                outcome.append((peer.close_code, peer.closed_by))
                peer.untie()
            nursery.cancel_scope.cancel()
    await stream.aclose()
    assert ours.fileno() == -1
    return tuple(outcome)


async def _echo(peer: Peer, outcome: list[object]) -> None:
    from protocol.frames import text_frame

    async def send_back(message: str | bytes) -> None:
        outcome.append(type(message).__name__)
        peer.send(text_frame(message.encode() if isinstance(message, str) else b"binary"))

    await peer.listen(send_back)


async def _other_side(stream: trio.SocketStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(data)
        await stream.send_eof()
        while await stream.receive_some(65536):
            pass


TARGET = Target("peers", CORPUS, WORDS, run_async=run, share=0.02)
