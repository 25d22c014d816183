"""A session's courier: the snapshot first, then whatever could not be sent at once."""

import trio
from redis.exceptions import RedisError

from broker.control.member import HOLD_BYTES, Member
from broker.control.message import Message
from broker.control.publication import Publication
from broker.control.room import Room
from broker.control.services import ControlServices
from broker.store.drive import run
from broker.store.log import REPLAYED, read_log
from broker.store.snapshot import Position

FLUSHED_AT_ONCE = 64
"""Publications that are taken from a backlog in one step."""

LOG_PAGE = 500
"""Entries of the log that are read at once."""


class _Over(Exception):
    """The connection is closing: there is nothing left to carry."""


async def run_courier(member: Member, room: Room, services: ControlServices) -> None:
    """Bring a member into its room and serve it until its connection closes; a session's subscription task."""
    await room.ready.wait()
    room.join(member)
    try:
        while True:
            await member.bell.wait()
            await _settle(member, room, services)
            if member.over:
                member.end_with_key()
    except _Over:
        return


async def _settle(member: Member, room: Room, services: ControlServices) -> None:
    """Send what is due, in order, and let the room write directly again."""
    while member.holding:
        await _room_in_outbox(member)
        if member.snapshot_due or member.backlog.overrun:
            await _catch_up(member, room, services)
        elif member.backlog:
            async with services.sending:
                _flush(member)
        else:
            member.holding = False


async def _catch_up(member: Member, room: Room, services: ControlServices) -> None:
    """Send a snapshot as of now, then what no snapshot holds, then what is asked to be acknowledged."""
    replica = room.replica
    since, since_ms = member.sent_seq, member.sent_ms
    upto, upto_ms = member.seq, member.ms
    member.snapshot_due = False
    member.backlog.clear()  # of what comes from now on nothing is lost: it waits there again
    now_ms = replica.store_time(trio.current_time())
    parts = list(replica.parts(member.bound))
    missed = replica.missed_since(since, since_ms) if since else replica.recent(now_ms)
    asked = replica.to_be_acked(member.bound, now_ms)
    position = replica.position
    for part in parts:
        await _carry(member, part, services)
    if missed is None:
        epoch = None if position is None else position.epoch
        missed = await _read_missed(room, Position(epoch, since, since_ms), services)
    for publication in [*missed, *asked]:
        if publication.seq <= upto:  # what is above that a large room is still about to tell, in its turn
            await _carry_publication(member, publication, services)
    if not member.snapshot_due:  # else it has missed something meanwhile, or starts over
        member.note_sent(upto, upto_ms)


async def _carry_publication(member: Member, publication: Publication, services: ControlServices) -> None:
    await _carry(member, publication.message, services)
    member.note_rotation(publication)
    if publication.wants_ack and member.expect(publication) and publication.is_for(member.bound):
        services.receipts.delivered(publication, [member])


async def _carry(member: Member, message: Message, services: ControlServices) -> None:
    """Send one message, waiting for the outbox to be empty first; a large one then still fits."""
    peer = member.peer
    if peer.pending_bytes:
        await peer.drained()
    async with services.sending:
        if peer.closing:
            raise _Over
        if peer.send(member.frame(message)):
            member.sent += 1
            member.begun.set()
        else:
            member.miss()


async def _room_in_outbox(member: Member) -> None:
    await member.peer.drained()
    if member.peer.closing:
        raise _Over


def _flush(member: Member) -> None:
    for _ in range(FLUSHED_AT_ONCE):
        if not member.backlog or member.peer.pending_bytes > HOLD_BYTES:
            return
        publication = member.backlog.pop()
        if not member.peer.send(member.frame(publication.message)):
            member.miss()
            return
        member.sent += 1
        member.note_sent(publication.seq, publication.ms)


async def _read_missed(room: Room, after: Position, services: ControlServices) -> list[Publication]:
    """Read from the log what a session missed and this broker no longer remembers, or else what it does remember."""
    found: list[Publication] = []
    try:
        while True:
            read = await run(services.call, read_log(services.layout, room.organization_id, after, LOG_PAGE))
            if read.gap:
                break
            found += [
                Publication(after.epoch or "", entry.seq, entry.ms, entry.message)
                for entry in read.entries
                if entry.type in REPLAYED
            ]
            if read.complete:
                return found
            after = Position(after.epoch, read.entries[-1].seq, read.entries[-1].ms)
    except RedisError:
        pass
    return room.replica.recent(0)
