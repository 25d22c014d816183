"""What a courier takes from a backlog, what it leaves there, and what is on record of that."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.control.courier import _flush, run_courier
from broker.control.member import HOLD_BYTES, Member
from broker.control.replica import known_workflow
from protocol.frames import text_frame
from protocol.states import State
from tests.control.making import connection, member_on, policy, room_of, snapshot, stored, unconnected_plane


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    """A session for which two publications wait; its client does not read, and a little waits for that already."""
    with connection() as (wire, _):
        member = member_on(wire, unconnected_plane().services)
        member.begin(1, 5, 1005)
        member.snapshot_due = False
        for seq in (6, 7):
            member.deliver(policy(seq, 1000 + seq), 1, 1)
        while not member.peer.pending_bytes:
            member.peer.send(text_frame(bytes(8000)))
        yield member


async def test_what_there_is_room_for(member: Member) -> None:
    """It does not wait for the outbox to be empty."""
    _flush(member)
    assert (len(member.backlog), member.sent_seq) == (0, 7)


async def test_what_would_only_wait_elsewhere(member: Member) -> None:
    """With so much before it a publication stays where a newer state can still take its place."""
    while member.peer.pending_bytes <= HOLD_BYTES:
        member.peer.send(text_frame(bytes(8000)))
    _flush(member)
    assert (len(member.backlog), member.sent_seq) == (2, 0)


async def test_what_does_not_fit(member: Member) -> None:
    """It was not sent, nor was what is behind it: both come with the snapshot that is due now."""
    member.peer.outbox.limit = member.peer.pending_bytes + 100
    _flush(member)
    assert (member.sent_seq, member.snapshot_due) == (0, True)


@pytest.mark.parametrize(("workflow", "notes"), [("wf", 1), ("other", 0), (None, 1)])
async def test_who_learns_of_a_kill_from_the_snapshot(nursery: trio.Nursery, workflow: str | None, notes: int) -> None:
    """A newcomer that is asked to acknowledge it is on the record of those who were sent it."""
    services = unconnected_plane().services
    killed = stored("wf", State.KILLED, 1, "m1")
    room = room_of()
    room.load(snapshot(1, {"wf": killed}, {"wf": "m1"}), {"wf": known_workflow(killed)}, [])
    with connection() as (wire, _):
        newcomer = member_on(wire, services)
        newcomer.bound = workflow
        nursery.start_soon(run_courier, newcomer, room, services)
        await wait_all_tasks_blocked()
        assert (len(services.receipts._notes), len(newcomer.pending)) == (notes, notes)
        nursery.cancel_scope.cancel()
