"""A room: who is told in which step."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.control.member import Member
from broker.control.replica import Replica
from broker.control.room import Room
from broker.observe import Counters
from broker.wire import Peer, PeerLimits, PlainWire
from tests.control.making import KEY, policy, snapshot, unconnected_plane

LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)


@pytest.mark.parametrize(("sessions", "has_task"), [(256, False), (257, True)])
async def test_a_room_of_256_is_told_at_once(sessions: int, has_task: bool) -> None:
    """All of it is told in the very step in which a message comes; a larger one by a task, which takes turns."""
    spawned: list[Callable[[], Awaitable[Any]]] = []
    room = Room(
        Replica("acme", 300, 3600),
        counters=Counters(),
        clock=lambda: 0.0,
        spawn=spawned.append,
        delivered=lambda _publication, _addressees: None,
        doubt=lambda _room, _why: None,
        unknown=lambda _room, _publication: None,
    )
    room.load(snapshot(), {}, [])
    services = unconnected_plane().services
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = PlainWire(ours)
        members = [Member(services, Peer(wire, LIMITS), KEY, "nr_live_x") for _ in range(sessions)]
        for member in members:
            room.join(member)
        room.accept(policy(1, ms=1000))
        assert {member.seq for member in members} == {0 if has_task else 1}
        assert len(spawned) == has_task
        for task in spawned:
            await task()
        assert {member.seq for member in members} == {1}
        room.load(snapshot(2), {}, [])
        assert {member.generation for member in members} == {1 if has_task else 2}
        assert len(spawned) == 2 * has_task
