"""What the door works with: everything behind it that a request may reach."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import attrs

from broker.config import Config
from broker.door.health import Readiness
from broker.keys.admission import Admission
from broker.observe import Counters
from broker.store.key_record import KeyRecord
from broker.wire.passes import Passes
from broker.wire.peer import Peer

__all__ = ["DoorServices", "Keys", "Rest", "Tickets"]

EventSession = Callable[[Peer, KeyRecord], Awaitable[None]]
"""Serves one event socket until it is over: (peer, the key that opened it)."""

ControlSession = Callable[[Peer, KeyRecord, str, str, str | None], Awaitable[None]]
"""Serves one control socket until it is over: (peer, key, api_key as presented, organization_id, the secret that the
handshake was signed with or None)."""


class Keys(Protocol):
    """Who is who: `broker.keys.KeyCache`."""

    async def lookup(self, api_key: str) -> KeyRecord | None:
        """Return the record of a key, also of a revoked or expired one; raises KeysUnavailable."""

    def recall(self, api_key: str) -> KeyRecord | None:
        """Return what is known of a key without asking anybody."""


class Tickets(Protocol):
    """Single-use credentials: `broker.keys.tickets.Tickets`; both raise KeysUnavailable."""

    @property
    def lifetime(self) -> int:
        """Seconds in which a ticket must be used."""

    async def make(self, record: KeyRecord) -> str:
        """Return a new ticket for a key."""

    async def take(self, ticket: str) -> KeyRecord | None:
        """Use a ticket up and return its key, also a revoked or expired one; None if the ticket is no good."""


class Rest(Protocol):
    """The REST companions of the control socket; each returns the status and the JSON body of the answer.

    The door has identified the caller before. A RedisError that is raised is answered with 503.
    """

    def auth_verify(self, admission: Admission) -> tuple[int, Mapping[str, object]]:
        """Say what a key is: organization_id, workflow_id, key_id, key_version, and perhaps secret_key."""

    async def workflow_status(self, organization_id: str, workflow_id: str) -> tuple[int, Mapping[str, object]]:
        """Return one workflow of an organization; 404 if it never changed."""

    async def org_status(self, organization_id: str) -> tuple[int, Mapping[str, object]]:
        """Return all workflows of an organization."""


@attrs.define(eq=False)
class DoorServices:
    """What is behind the door.

    Attributes:
        config: replaced on reload; read where it is needed, so that newcomers get what is set now.
        keys: who is who.
        tickets: credentials that may stand in a URL.
        counters: `accepted`, `accept_errors`, `refused`, `bad_credentials`, `tickets`, `crashed`, `closed`,
            `slow_consumers` and `outbox_peak_bytes` are kept here.
        ready: asked by `/health/ready`.
        event_session, control_session: serve a socket once it is open.
        rest: the REST companions.
        passes: how long the present pass of the event loop has lasted; must be run.
        clock: unix time in seconds.
        log: structlog logger.
    """

    config: Config
    keys: Keys
    tickets: Tickets
    counters: Counters
    ready: Callable[[], Readiness]
    event_session: EventSession
    control_session: ControlSession
    rest: Rest
    passes: Passes
    clock: Callable[[], float]
    log: Any
