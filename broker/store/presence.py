"""Presence: which agents are connected where. It vanishes by itself with the broker that wrote it."""

from collections.abc import Iterable, Mapping
from typing import Final

import attrs
import orjson

from broker.store.brokers import live_brokers
from broker.store.layout import Layout
from broker.store.replies import blob, integer, pairs, text
from broker.store.request import Argument, Operation, command, load_script

PUT_PRESENCE = load_script("put_presence")

TTL_MS: Final = 25_000
"""How long a presence outlives its last refresh; brokers refresh it every few seconds."""


@attrs.frozen
class Presence:
    """One connected agent. Times are unix seconds; ``silent``: it has missed its pings and is kept all the same."""

    key_id: str
    workflow_id: str | None
    since: int
    last_ack: int | None = None
    silent: bool = False


@attrs.frozen
class PresentSession:
    """One connected agent with the session and the broker that hold it."""

    session_id: str
    broker_id: str
    presence: Presence


def put_presence(
    layout: Layout, organization_id: str, broker_id: str, sessions: Mapping[str, Presence]
) -> Operation[bool]:
    """Write sessions (new or changed ones) and keep the broker's presence alive.

    Without sessions it only keeps it alive. Returns whether the presence was there before: if not, it had expired or
    the store was lost, and all sessions of the organization must be put again.
    """
    words: list[Argument] = []
    for session_id, presence in sessions.items():
        words += [session_id, orjson.dumps(attrs.asdict(presence))]
    reply = yield PUT_PRESENCE((layout.presence(organization_id, broker_id),), TTL_MS, *words)
    return integer(reply) == 1


def refresh_presence(layout: Layout, organization_id: str, broker_id: str) -> Operation[bool]:
    """Keep the broker's presence alive; False when there is none, see :func:`put_presence`."""
    return integer((yield command("PEXPIRE", layout.presence(organization_id, broker_id), TTL_MS))) == 1


def remove_presence(
    layout: Layout, organization_id: str, broker_id: str, session_ids: Iterable[str] | None = None
) -> Operation[None]:
    """Take sessions out, or all of the broker's when None."""
    key = layout.presence(organization_id, broker_id)
    if session_ids is None:
        yield command("DEL", key)
        return
    gone = tuple(session_ids)
    if gone:
        yield command("HDEL", key, *gone)


def remove_elsewhere(
    layout: Layout, organization_id: str, broker_id: str, session_ids: Iterable[str]
) -> Operation[None]:
    """Take sessions out of what all other live brokers have written: this one has them now."""
    taken = tuple(session_ids)
    for broker in (yield from live_brokers(layout)):
        if broker.broker_id != broker_id:
            yield from remove_presence(layout, organization_id, broker.broker_id, taken)


def read_presence(layout: Layout, organization_id: str) -> Operation[tuple[PresentSession, ...]]:
    """Read the agents of an organization that live brokers hold, longest connected first.

    One that was handed over is with the broker that was heard of last.
    """
    found: dict[str, PresentSession] = {}
    for broker in sorted((yield from live_brokers(layout)), key=lambda broker: broker.heartbeat_ms):
        reply = yield command("HGETALL", layout.presence(organization_id, broker.broker_id))
        for name, value in pairs(reply):
            session_id, presence = text(name), Presence(**orjson.loads(blob(value)))
            found[session_id] = PresentSession(session_id, broker.broker_id, presence)
    return tuple(sorted(found.values(), key=lambda session: (session.presence.since, session.session_id)))
