"""What a session's courier brings, and where it says that the session has got to."""

import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.control import room as room_module
from broker.control.courier import _read_missed, run_courier
from broker.control.member import Member
from broker.control.replica import known_workflow
from broker.control.room import Room
from broker.link.errors import LinkDown
from broker.store.snapshot import Position, Snapshot
from broker.wire import PlainWire, open_peer
from protocol.frames import text_frame
from protocol.states import State
from tests.control.making import (
    KEY,
    LIMITS,
    Task,
    change,
    connection,
    member_on,
    policy,
    room_of,
    snapshot,
    stored,
    unconnected_plane,
)

LARGE = {
    name: attrs.evolve(each, workflow=attrs.evolve(each.workflow, reason="r" * 60_000))
    for name, each in ((name, stored(name, State.NORMAL, 1)) for name in map(str, range(20)))
}
"""Workflows of which a snapshot does not go out at once."""


@attrs.frozen(eq=False)
class Session:
    """One session and its room; the client's socket is read only when the test reads it."""

    member: Member
    room: Room
    client: trio.SocketStream
    spawned: list[Task]
    _unread: bytearray = attrs.field(factory=bytearray)

    async def receive(self) -> Any:
        """Return the next message."""
        while True:
            if len(self._unread) >= 4:
                size, head = self._unread[1], 2
                if size == 126:
                    size, head = int.from_bytes(self._unread[2:4]), 4
                elif size == 127:
                    size, head = int.from_bytes(self._unread[2:10]), 10
                if len(self._unread) >= head + size:
                    payload = bytes(self._unread[head : head + size])
                    del self._unread[: head + size]
                    return json.loads(payload)
            self._unread.extend(await self.client.receive_some())


def load(room: Room, taken: Snapshot, *recent: int) -> None:
    """Begin a life of a room."""
    workflows = {name: known_workflow(each) for name, each in taken.workflows.items()}
    room.load(taken, workflows, [policy(seq, 1000 + seq) for seq in recent])


@asynccontextmanager
async def served() -> AsyncIterator[Session]:
    """Serve a session in an empty room that is ready."""
    services = unconnected_plane().services
    spawned: list[Task] = []
    room = room_of(clock=time.time, spawned=spawned)
    load(room, snapshot())
    ours, theirs = socket.socketpair()
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    limits = attrs.evolve(LIMITS, close_timeout=0.05)
    async with client, open_peer(PlainWire(ours), b"", limits) as peer, trio.open_nursery() as tasks:
        peer.start(tasks)
        member = Member(services, peer, KEY, "nr_live_x")
        tasks.start_soon(run_courier, member, room, services)
        yield Session(member, room, client, spawned)
        tasks.cancel_scope.cancel()


async def test_where_a_session_has_got_to() -> None:
    """What had to wait for the client counts as sent once it was, whichever way it went."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        await wait_all_tasks_blocked()
        session.room.accept(policy(1, 1001))
        assert session.member.sent_seq == 1
        session.member.peer.send(text_frame(b"[0%b]" % (b" " * 900_000)))
        session.room.accept(policy(2, 1002))
        assert (session.member.sent_seq, len(session.member.backlog)) == (1, 1)
        assert (await session.receive())["new_version"] == 1
        assert await session.receive() == [0]
        assert (await session.receive())["new_version"] == 2
        assert session.member.sent_seq == 2


async def test_what_a_room_is_still_telling_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large room knows of an entry before its sessions do: one that is mended meanwhile waits for it all the same."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        monkeypatch.setattr(room_module, "AT_ONCE", 0)
        session.room.accept(policy(1, 1001))
        session.member.miss()
        assert (await session.receive())["type"] == "initial_state"
        [tell] = session.spawned
        await tell()
        session.room.accept(policy(2, 1002))
        await session.spawned[1]()
        assert [(await session.receive())["new_version"] for _ in range(2)] == [1, 2]


async def test_what_a_room_is_still_telling_is_asked_for_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that a large room knows of before its sessions do is sent again, although an older state comes first."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        monkeypatch.setattr(room_module, "AT_ONCE", 0)
        session.room.accept(change(1, State.NORMAL, ms=1001))
        session.room.accept(change(2, State.PAUSED, ms=1002))
        session.member.miss()
        assert (await session.receive())["type"] == "initial_state"
        await wait_all_tasks_blocked()
        [tell] = session.spawned
        await tell()
        [pending] = session.member.pending.all()
        assert pending.resent
        assert [(await session.receive())["state"] for _ in range(2)] == ["Normal", "Paused"]


async def test_another_log_while_a_snapshot_is_on_its_way() -> None:
    """A session that was being brought up to date when its log was lost gets all of the new one."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        load(session.room, snapshot(9, LARGE), 8, 9)
        await wait_all_tasks_blocked()
        assert session.member.peer.pending_bytes
        load(session.room, snapshot(3, epoch="e2"), 2, 3)
        versions: list[int] = []
        while versions[-2:] != [2, 3]:
            message = await session.receive()
            versions += [message["new_version"]] if message["type"] == "policy_invalidated" else []
        assert session.member.sent_seq == 3


async def test_what_waited_is_not_told_again_behind_a_snapshot() -> None:
    """A session that is mended gets what waited for it with that, once."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        await wait_all_tasks_blocked()
        session.member.peer.send(text_frame(b"[0%b]" % (b" " * 900_000)))
        session.room.accept(policy(1, 1001))
        assert len(session.member.backlog) == 1
        session.member.miss()
        assert await session.receive() == [0]
        assert (await session.receive())["type"] == "initial_state"
        assert (await session.receive())["new_version"] == 1
        await wait_all_tasks_blocked()
        session.room.accept(policy(2, 1002))
        assert (await session.receive())["new_version"] == 2


async def test_something_is_lost_while_a_snapshot_is_on_its_way() -> None:
    """Nobody knows what it was: nothing of that snapshot counts as sent, and all that goes with it comes again."""
    async with served() as session:
        assert (await session.receive())["type"] == "initial_state"
        load(session.room, snapshot(9, LARGE), 8, 9)
        await wait_all_tasks_blocked()
        assert session.member.peer.pending_bytes
        session.member.miss()
        versions: list[int] = []
        with trio.fail_after(10):
            while len(versions) < 4:
                message = await session.receive()
                versions += [message["new_version"]] if message["type"] == "policy_invalidated" else []
        assert versions == [8, 9, 8, 9]


async def test_a_session_that_has_not_heard_of_its_new_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was sent of the former one is no place in the new one: another process must not go on from there."""
    plane = unconnected_plane()
    with connection() as (wire, _):
        member = member_on(wire, plane.services)
        peer = member.peer
        assert plane.carry(peer) is None
        plane.services.members[peer] = member

        def place() -> Position | None:
            carried = plane.carry(peer)
            assert carried is not None
            return carried.position

        async with trio.open_nursery() as rooms:
            await rooms.start(plane.services.rooms.run)
            room = plane.services.rooms.enter(member)
            load(room, snapshot(5))
            room.join(member)
            member.note_sent(5, 1005)
            assert place() == Position("e1", 5, 1005)
            monkeypatch.setattr(room_module, "AT_ONCE", 0)  # as in a large room, which is told by and by
            load(room, snapshot(7, epoch="e2"))
            assert place() is None
            rooms.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [LinkDown("away"), [b"e1", b"9", b"1009", [], b"0", b"0"]])
async def test_a_log_that_cannot_tell_what_was_missed(answer: Exception | list[object]) -> None:
    """Be the store away, or the log trimmed past it: what is known here is told, and the session goes on."""

    async def call(*_words: object) -> object:
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer

    room = room_of(clock=time.time)
    load(room, snapshot(9), 8, 9)
    found = await _read_missed(room, Position("e1", 1, 1001), unconnected_plane(call).services)
    assert [each.seq for each in found] == [8, 9]
