"""`/status`: the state of this broker in one JSON object, for people and scripts that have no Prometheus at hand."""

import os
from collections.abc import Mapping

import attrs

from broker.admin.outboxes import look
from broker.admin.services import AdminServices
from broker.link.link import Link

__all__ = ["describe"]


async def describe(services: AdminServices) -> Mapping[str, object]:
    """Return the fields of the answer. Times are unix seconds, sizes bytes; no credential is among them."""
    count, crowd, readiness, now = services.counters, services.crowd(), services.ready(), services.clock()
    backlogs = {kind: await look(peers) for kind, peers in crowd.sessions.items()}
    blind = services.rooms.blind_since
    return {
        "broker_id": services.broker_id,
        "version": services.version,
        "pid": os.getpid(),
        "started_at": int(services.started_at),
        "uptime": int(now - services.started_at),
        "ready": not readiness.problems,
        "problems": readiness.problems,
        "warnings": readiness.warnings,
        "connections": {
            **{kind: len(peers) for kind, peers in crowd.sessions.items()},
            "handshake": crowd.handshakes,
            "held": crowd.held,
            "limit": services.config.limits.max_connections,
        },
        "outboxes": {kind: attrs.asdict(backlog) for kind, backlog in backlogs.items()},
        "events": {
            "channels": len(services.hub.channels),
            "subscriptions": count.subscriptions,
            "publications": count.publications,
            "dropped": _tally(count.publications_dropped),
            "deliveries": count.deliveries,
            "slow_consumers": count.slow_consumers,
        },
        "control": {
            "organizations": len(services.rooms),
            "silent": count.control_silent,
            "blind_since": blind,
            "log_capped": services.rooms.capped,
            "gap_repairs": count.gap_repairs,
            "sent": count.control_sent,
            "resent": count.control_resent,
            "acks": count.acks,
            "unconfirmed": count.unconfirmed,
        },
        "redis": [_link(link) for link in services.links],
        "refused": _tally(count.refused),
        "closed": {str(code): times for code, times in count.closed.items()},
        "loop": {"worst_lag": round(services.lag.worst(), 4)},
    }


def _tally(counted: Mapping[str, int]) -> Mapping[str, int]:
    """Return counts by reason with names that are plain text: JSON takes no members of an enumeration for names."""
    return {str(reason): times for reason, times in counted.items()}


def _link(link: Link) -> Mapping[str, object]:
    state = link.state
    return {
        "link": link.name,
        "server": link.address.describe(),
        "up": state.up,
        "since": int(state.since),
        "error": state.error,
        "connects": link.generation,
        "waiting": link.outstanding,
    }
