"""One control session, from the open WebSocket to its end."""

from typing import Any

import trio

from broker.control.carried import CarriedSession
from broker.control.courier import run_courier
from broker.control.heartbeat import run_heartbeat
from broker.control.member import Member
from broker.control.reader import Reader
from broker.control.services import ControlServices
from broker.observe.connection import log_close, log_open
from broker.store.key_record import KeyRecord
from broker.wire.peer import Peer


async def run_control_session(
    peer: Peer,
    key: KeyRecord,
    api_key: str,
    org: str,
    services: ControlServices,
    *,
    secret: str | None = None,
    carried: CarriedSession | None = None,
) -> None:
    """Serve an SDK until its connection is over: snapshot first, then every change of its organization, signed.

    Args:
        peer: the open connection; its caller closes it.
        key: the record of the API key that was let in.
        api_key: the key itself, which signatures name.
        org: the organization that the client asked for; the key's own.
        services: the surroundings.
        secret: the secret that the client's handshake was signed with; without one, the key's current secret signs
            this session.
        carried: the session as another process has left it, None for a new one.
    """
    assert org == key.organization_id
    member = Member(services, peer, key, api_key, secret)
    if carried is not None:
        member.take_up(carried)
    services.members[peer] = member
    room = services.rooms.enter(member)
    unwatch = services.keys.watch(key, member.key_changed)
    services.presence.put(member, taken_up=carried is not None)
    services.counters.control_sessions += 1
    if carried is None:  # else it was said when it was opened
        log_open(services.log, "control", **_who(member), handshake_signed=secret is not None)
    try:
        async with trio.open_nursery() as session:
            peer.start(session)
            session.start_soon(run_heartbeat, member, services)
            session.start_soon(run_courier, member, room, services)
            await peer.listen(Reader(member, services).hear)
            session.cancel_scope.cancel()
    finally:
        services.counters.control_sessions -= 1
        services.counters.control_silent -= member.silent
        unwatch()
        room.leave(member)
        services.members.pop(peer, None)
        left = member.leave()
        if not peer.handed_over:
            services.presence.remove(member)
            services.receipts.gone(member, left)
        log_close(
            services.log,
            "control",
            peer,
            **_who(member),
            told=member.sent,
            acked=member.acked,
            unacked=len(member.pending),
        )


def _who(member: Member) -> dict[str, Any]:
    return {
        "connection": member.peer.id,
        "key_id": member.record.key_id,
        "remote": member.peer.remote,
        "org": member.organization_id,
        "workflow": member.bound,
    }
