"""What all connections of a door share."""

import math
import ssl
from enum import StrEnum
from functools import partial

import trio

from broker.config import Limits
from broker.door.arrival import Line
from broker.door.bad_tokens import BadTokens
from broker.door.guard import Guard
from broker.door.proxies import TrustedProxies
from broker.door.rates import Rates
from broker.door.services import DoorServices
from broker.door.slots import Slots
from broker.http.bounds import HttpBounds
from broker.http.conversation import Conversation
from broker.http.gate import Gate
from broker.observe import Repeated
from broker.wire.limits import PeerLimits
from broker.wire.peer import Peer
from broker.wire.turnstile import Turns, Turnstile

__all__ = ["DoorState", "Kind"]


EARLY = 0.004
"""Up to how many seconds after a pass of the loop has begun nobody need wait at any turnstile."""

HANDSHAKES = partial(Turnstile, at_once=4, at_least=500.0, early=EARLY)
"""TLS handshakes, each of which computes for 0.2 to 2 ms."""

REQUESTS = partial(Turnstile, at_once=16, at_least=500.0, early=EARLY)
"""Requests that had to be waited for."""

ENTRIES = partial(Turnstile, at_once=6, at_least=500.0, early=EARLY)
"""Event upgrades."""

CROWD = 128
"""Newcomers, on their way to a session or waiting in the kernel, above which every event upgrade waits for its turn."""

EXITS = partial(Turnstile, at_once=16, at_least=1000.0, early=EARLY)
"""Sessions that end because their peers have gone."""

READS = partial(Turnstile, at_once=32, at_least=2000.0, early=EARLY)
"""Reads from browsers, and what follows from them."""


class Kind(StrEnum):
    """The two kinds of session."""

    CONTROL = "control"
    EVENTS = "events"


class DoorState:
    """Counts, tables and bounds, and who is here.

    Attributes:
        services: what is behind the door.
        bounds, peer_limits, proxies, tls: for those that come from now on; see `reconfigure`. Peer limits are per kind.
        gate, line: connections that are no session yet, in all and by address.
        slots: sessions, in all, per key and per address.
        handshakes, requests: the turnstiles of TLS handshakes and of requests: thousands that come back in the same
            moment would hold the loop for seconds, and a kill with it. Those whose request has come with the connection
            are let in a few at a time already.
        entries: the turnstile of event upgrades; control upgrades pass none. Nobody can tell an agent from a browser
            before its request is read. Opening a session is the greater part of what a newcomer costs: a hundred in one
            pass would hold the loop for 20 ms, and the agent in a crowd of browsers would wait for the sessions of all
            who came before. Here they wait, and those whose requests are still to be read come first. Who waits is
            inside the gate, which is bounded.
        exits: the turnstile of connections whose peers have gone: thousands that break in the same moment, as they do
            when a load balancer dies, would hold the loop for a second.
        reads: the turnstile of what browsers say: thousands that answer a ping in the same moment would, too.
        turnstiles: all of these; they must be run.
        turns: which of them the sockets of a kind pass. Agents say little, and what they say is about a kill.
        guard: hears of wrong credentials.
        ticket_rates, request_rates: how many tickets a key may have, and how many plain requests an address.
        sessions: the open peers of each kind.
        conversations: the connections that speak HTTP.
        draining: newcomers are told to go elsewhere, where that does no harm.
        sent_away: kinds of session that nobody may begin any more; see `Door.send_away`.
        say: a log that does not repeat itself.
    """

    def __init__(self, services: DoorServices, bounds: HttpBounds | None = None) -> None:
        self.services = services
        self.say = Repeated(services.log)
        self.bad_tokens = BadTokens()
        self.sessions: dict[Kind, set[Peer]] = {kind: set() for kind in Kind}
        self.conversations: set[Conversation] = set()
        self.draining = False
        self.sent_away: set[Kind] = set()
        self.tls: ssl.SSLContext | None = None
        self._fixed_bounds = bounds
        self.bounds = bounds or HttpBounds.of(services.config)
        limits = services.config.limits
        self.gate = Gate(self.bounds.max_handshakes)
        self.line = Line(self.gate, limits.max_handshakes_per_address)
        self.slots = Slots(limits.max_connections, limits.max_connections_per_key, limits.max_connections_per_address)
        passes = services.passes
        self.handshakes = HANDSHAKES(passes=passes)
        self.requests = REQUESTS(passes=passes)
        self.entries = ENTRIES(passes=passes)
        self.exits = EXITS(passes=passes)
        self.reads = READS(passes=passes)
        self.turnstiles = (self.handshakes, self.requests, self.entries, self.exits, self.reads)
        self.turns = {Kind.CONTROL: Turns(self.exits), Kind.EVENTS: Turns(self.exits, self.reads)}
        self.guard = Guard(services)
        self.ticket_rates = Rates(limits.tickets_per_second)
        self.request_rates = Rates(limits.requests_per_second)
        self.reconfigure()

    def reconfigure(self) -> None:
        """Take up the limits of `services.config` for those that come from now on."""
        config = self.services.config
        limits = config.limits
        self.bounds = self._fixed_bounds or HttpBounds.of(config)
        self.peer_limits = {kind: _peer_limits(limits, kind) for kind in Kind}
        self.proxies = TrustedProxies(config.server.trusted_proxies, config.server.proxy_protocol)
        self.gate.limit = self.bounds.max_handshakes
        self.line.per_address = limits.max_handshakes_per_address
        self.slots.total, self.slots.per_key = limits.max_connections, limits.max_connections_per_key
        self.slots.per_address = limits.max_connections_per_address
        self.slots.look_again()
        self.guard.failures.per_minute = limits.bad_credentials_per_minute
        self.ticket_rates.rate = limits.tickets_per_second
        self.request_rates.rate = limits.requests_per_second

    def enter(self, kind: Kind, peer: Peer) -> None:
        """Count a session in; it must `leave`."""
        self.sessions[kind].add(peer)

    def leave(self, kind: Kind, peer: Peer) -> None:
        """Count a session out."""
        self.sessions[kind].discard(peer)

    def settle(self, peer: Peer) -> None:
        """Count how a WebSocket ended, once that is known."""
        if peer.handed_over:
            return
        counters = self.services.counters
        counters.closed[peer.close_code] += 1
        counters.slow_consumers += peer.outbox.too_slow
        counters.outbox_peak_bytes = max(counters.outbox_peak_bytes, peer.peak_bytes)

    @property
    def is_crowded(self) -> bool:
        """Whether so many newcomers are there that an agent among them could wait for long."""
        return max(self.gate.queued, self.gate.inside) > CROWD

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


def _peer_limits(limits: Limits, kind: Kind) -> PeerLimits:
    """Return the bounds of one socket; a control socket that stalls or floods is borne, not closed."""
    patient = kind is Kind.CONTROL
    return PeerLimits(
        outbox_bytes=limits.outbox_bytes,
        max_message_bytes=limits.max_message_bytes,
        max_fragments=limits.max_fragments,
        close_timeout=limits.close_timeout,
        frames_per_second=limits.frames_per_second,
        rate_patience=math.inf if patient else limits.rate_patience,
        write_stall_timeout=math.inf if patient else limits.write_stall_timeout,
    )
