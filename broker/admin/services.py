"""What the admin listener works with: everything that it shows or changes."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from broker.admin.lag import LoopLag
from broker.config import Config
from broker.control.rooms import Rooms
from broker.events.hub import Hub
from broker.link.link import Link
from broker.observe import Counters, Readiness
from broker.store.drive import Call
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.sealer import UNSEALED, Sealer
from broker.wire.peer import Peer

__all__ = ["AdminServices", "Crowd"]


@attrs.frozen
class Crowd:
    """Who is connected to the public port now.

    Attributes:
        sessions: the open sockets by kind, "control" and "events".
        handshakes: connections that are no session: they speak HTTP, or are about to.
        held: clients that wait for a place.
    """

    sessions: Mapping[str, Collection[Peer]]
    handshakes: int
    held: int


@attrs.define(eq=False)
class AdminServices:
    """The surroundings of the admin listener.

    Attributes:
        config: replaced on reload; read where it is needed.
        broker_id: names this process in receipts and presence.
        version: of the program.
        started_at: unix time.
        layout, call: names in the store, and the command link's `call`.
        counters: what is counted.
        ready: what `/health/ready` says.
        crowd: who is connected now.
        links: the connections to Redis.
        rooms: the organizations with agents here.
        hub: the channels that clients here are subscribed to.
        lag: how long the loop is held; must be run.
        clock: unix time in seconds.
        log: structlog logger.
        sealer: how the secrets of keys are kept.
    """

    config: Config
    broker_id: str
    version: str
    started_at: float
    layout: Layout
    call: Call
    counters: Counters
    ready: Callable[[], Readiness]
    crowd: Callable[[], Crowd]
    links: tuple[Link, ...]
    rooms: Rooms
    hub: Hub
    lag: LoopLag
    clock: Callable[[], float]
    log: Any
    sealer: Sealer = UNSEALED

    @property
    def log_limits(self) -> LogLimits:
        """The bounds that this broker sets for an organization's log."""
        return LogLimits.of(self.config.control)
