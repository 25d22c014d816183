"""One control session, from the open WebSocket to its end."""

import trio

from broker.control.carried import CarriedSession
from broker.control.courier import run_courier
from broker.control.heartbeat import run_heartbeat
from broker.control.member import Member
from broker.control.reader import read
from broker.control.services import ControlServices
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
    services.presence.put(member)
    services.counters.control_sessions += 1
    say = services.log.info if carried is None else services.log.debug  # it was said when it was opened
    say(
        "control session open",
        session=peer.id,
        remote=peer.remote,
        org=org,
        key_id=key.key_id,
        workflow=key.workflow_id,
        handshake_signed=secret is not None,
        resumed=carried is not None,
    )
    try:
        async with trio.open_nursery() as session:
            peer.start(session)
            session.start_soon(run_heartbeat, member, services)
            session.start_soon(run_courier, member, room, services)
            await read(member, services)
            session.cancel_scope.cancel()
    finally:
        services.counters.control_sessions -= 1
        services.counters.control_silent -= member.silent
        unwatch()
        room.leave(member)
        services.presence.remove(member)
        services.members.pop(peer, None)
        left = member.leave()
        if not peer.handed_over:
            services.receipts.gone(member, left)
        _say_goodbye(member, services)


def _say_goodbye(member: Member, services: ControlServices) -> None:
    peer = member.peer
    services.log.info(
        "control session over",
        session=peer.id,
        remote=peer.remote,
        org=member.organization_id,
        key_id=member.record.key_id,
        workflow=member.bound,
        seconds=round(services.clock() - peer.opened_at, 1),
        sent=member.sent,
        acked=member.acked,
        unacked=len(member.pending),
        peak_outbox=peer.peak_bytes,
        code=peer.close_code,
        reason=peer.close_reason,
        closed_by=peer.closed_by,
    )
