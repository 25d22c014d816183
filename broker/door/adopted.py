"""Control sockets that another process has opened, taken up where it has left them."""

import socket
from collections.abc import Awaitable, Callable

import attrs

from broker.door.address import ClientAddress
from broker.door.hosted import hosted_peer
from broker.door.state import DoorState, Kind
from broker.wire import OpenConnection, Peer, PlainWire

__all__ = ["Adopted", "serve_adopted"]


@attrs.frozen(eq=False)
class Adopted:
    """An open connection and what to do with it.

    Attributes:
        raw: its socket; ours to close.
        connection: its state.
        key_id: whose place it takes.
        session: serves the peer until it is over.
        settled: called once it is among the sessions of the door, or will never be.
    """

    raw: socket.socket
    connection: OpenConnection
    key_id: str
    session: Callable[[Peer], Awaitable[None]]
    settled: Callable[[], None]


class Once:
    """A function that is called at most once, however often one tries."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


async def serve_adopted(adopted: Adopted, state: DoorState) -> None:
    """Serve a connection until it is over, like one that came in here; nothing that it meets gets any further."""
    settled = Once(adopted.settled)
    try:
        connection = adopted.connection
        wire = PlainWire(adopted.raw, connection.remote)
        if connection.unread:
            wire.unread(connection.unread)
        address = ClientAddress.of(connection.remote)
        with state.slots.take_over(adopted.key_id, address.counted):
            async with hosted_peer(wire, b"", Kind.CONTROL, state, remote=wire.remote) as peer:
                peer.take_up(connection)
                settled()
                await adopted.session(peer)
    except Exception:
        state.services.counters.crashed += 1
        state.services.log.exception("a connection that was taken up ended with an error of ours")
    finally:
        settled()
        adopted.raw.close()
