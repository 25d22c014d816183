"""What all connections of a door share."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import trio

from broker.door.bad_tokens import BadTokens
from broker.door.services import DoorServices
from broker.door.slots import Slots
from broker.http.bounds import HttpBounds
from broker.http.conversation import Conversation
from broker.http.gate import Gate
from broker.observe import Repeated
from broker.wire.peer import Peer, PeerLimits

__all__ = ["DoorState", "Kind"]


class Kind(StrEnum):
    """The two kinds of session."""

    CONTROL = "control"
    EVENTS = "events"


class DoorState:
    """Counts, tables and bounds, and who is here.

    Attributes:
        services: what is behind the door.
        bounds, peer_limits, tls: for those that come from now on; see `reconfigure`.
        gate: connections that are no session yet.
        slots: sessions, in all and per key.
        sessions: the open peers of each kind.
        conversations: the connections that speak HTTP.
        draining: newcomers are told to go elsewhere, where that does no harm.
        say: a log that does not repeat itself.
    """

    def __init__(self, services: DoorServices, bounds: HttpBounds | None = None) -> None:
        self.services = services
        self.say = Repeated(services.log)
        self.bad_tokens = BadTokens()
        self.sessions: dict[Kind, set[Peer]] = {kind: set() for kind in Kind}
        self.conversations: set[Conversation] = set()
        self.draining = False
        self.tls: ssl.SSLContext | None = None
        self._fixed_bounds = bounds
        self.bounds = bounds or HttpBounds.of(services.config)
        self.peer_limits = _peer_limits(services)
        self.gate = Gate(self.bounds.max_handshakes)
        limits = services.config.limits
        self.slots = Slots(limits.max_connections, limits.max_connections_per_key)

    def reconfigure(self) -> None:
        """Take up the limits of `services.config` for those that come from now on."""
        limits = self.services.config.limits
        self.bounds = self._fixed_bounds or HttpBounds.of(self.services.config)
        self.peer_limits = _peer_limits(self.services)
        self.gate.limit = self.bounds.max_handshakes
        self.slots.total, self.slots.per_key = limits.max_connections, limits.max_connections_per_key

    @contextmanager
    def present(self, kind: Kind, peer: Peer) -> Iterator[None]:
        """Count a session in for the length of the block."""
        sessions, counters = self.sessions[kind], self.services.counters
        sessions.add(peer)
        counters.event_sessions += kind is Kind.EVENTS
        try:
            yield
        finally:
            sessions.discard(peer)
            counters.event_sessions -= kind is Kind.EVENTS

    def settle(self, peer: Peer) -> None:
        """Count how a WebSocket ended, once that is known."""
        counters = self.services.counters
        counters.closed[peer.close_code] += 1
        counters.slow_consumers += peer.outbox.too_slow
        counters.outbox_peak_bytes = max(counters.outbox_peak_bytes, peer.peak_bytes)

    @property
    def keeps_alive(self) -> bool:
        """Whether a plain HTTP connection may stay for another request."""
        return not (self.draining or self.gate.is_crowded)

    def end_idle(self) -> None:
        """End the connections that are between two requests."""
        for conversation in self.conversations:
            idle: trio.CancelScope | None = conversation.idle
            if idle is not None:
                idle.cancel()


def _peer_limits(services: DoorServices) -> PeerLimits:
    limits = services.config.limits
    return PeerLimits(
        outbox_bytes=limits.outbox_bytes,
        max_message_bytes=limits.max_message_bytes,
        max_fragments=limits.max_fragments,
        close_timeout=limits.close_timeout,
    )
