"""The door: listening sockets, the tasks of all connections, and the way to stop in order."""

import socket
import ssl
from collections.abc import Sequence
from functools import partial

import trio

from broker.door.adopted import Adopted, serve_adopted
from broker.door.arrival import Arrival
from broker.door.connection import serve_connection
from broker.door.services import DoorServices
from broker.door.state import DoorState, Kind
from broker.http.acceptor import Take, accept_forever
from broker.http.bounds import HttpBounds
from broker.wire.peer import Peer

__all__ = ["Door"]

LOOK_AGAIN = 0.02
"""Seconds between two looks at whether all sessions are over."""


class Door:
    """All that comes in on the public port.

    A drain is: `begin_drain`, tell the sessions (`peers`), `stop_accepting`, wait for `run` to return, and cancel it
    when that takes too long.

    Args:
        services: what is behind the door.
        tls: speak TLS with this context; None for plain text.
        bounds: in place of those that follow from the configuration.
    """

    def __init__(
        self, services: DoorServices, tls: ssl.SSLContext | None = None, bounds: HttpBounds | None = None
    ) -> None:
        self.state = DoorState(services, bounds)
        self.state.tls = tls
        self.closed = trio.Event()
        self._accepting = trio.CancelScope()
        self._connections: trio.Nursery | None = None

    async def run(
        self, listeners: Sequence[socket.socket], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop_accepting` was called and the last connection is over.

        Args:
            listeners: as `listen` makes them, or inherited; they are not closed here.
            task_status: is started once connections are accepted.
        """
        async with trio.open_nursery() as helpers:
            for turnstile in self.state.turnstiles:
                helpers.start_soon(turnstile.run)
            async with trio.open_nursery() as connections:
                self._connections = connections
                take = partial(self._take, connections)
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for listener in listeners:
                            acceptors.start_soon(self._accept, listener, take)
                        task_status.started()
                self.state.end_idle()
            helpers.cancel_scope.cancel()
        self.closed.set()

    def peers(self, kind: Kind) -> list[Peer]:
        """Return the sessions of one kind that are open now."""
        return list(self.state.sessions[kind])

    def adopt(self, adopted: Adopted) -> None:
        """Go on with a control socket that another process has opened; while `run` runs."""
        assert self._connections is not None, "connections are taken up while run() runs"
        self._connections.start_soon(serve_adopted, adopted, self.state)

    def begin_drain(self) -> None:
        """Let no connection stay for a further request; newcomers are still served, since they were not refused."""
        self.state.draining = True
        self.state.end_idle()

    def stop_accepting(self) -> None:
        """Take no more connections; those that wait in the backlog are left to whoever shares the listener."""
        self.state.draining = True
        self._accepting.cancel()

    def send_away(self, kind: Kind) -> list[Peer]:
        """Close each session of this kind that opens from now on with 1012 at once; returns those that are open now.

        On a busy machine a handshake may end long after everybody has been told.
        """
        self.state.sent_away.add(kind)
        return self.peers(kind)

    async def settled(self) -> None:
        """Wait until nobody is between accept and session any more."""
        await self.state.gate.wait_empty()

    async def emptied(self) -> None:
        """Wait until every session is over or handed over to another process."""
        # ASYNC110 wants an event: sessions would keep one all their lives for what happens once
        while any(not peer.handed_over for kind in Kind for peer in self.state.sessions[kind]):  # noqa: ASYNC110  see above
            await trio.sleep(LOOK_AGAIN)

    def reconfigure(self) -> None:
        """Take up the limits of `services.config` for those that come from now on."""
        self.state.reconfigure()

    def use_tls(self, context: ssl.SSLContext | None) -> None:
        """Speak TLS with this context, or plain text, with those that come from now on."""
        self.state.tls = context

    async def _accept(self, listener: socket.socket, take: Take) -> None:
        state = self.state
        await accept_forever(listener, state.gate, take, state.services.counters, state.say)

    def _take(self, connections: trio.Nursery, raw: socket.socket, address: object) -> None:
        arrival = Arrival(self.state.line, self.state.gate.enter())
        connections.start_soon(serve_connection, raw, address, arrival, self.state)
