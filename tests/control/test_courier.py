"""What a session's courier brings, and where it says that the session has got to."""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.control import room as room_module
from broker.control.courier import run_courier
from broker.control.member import Member
from broker.control.replica import Replica, known_workflow
from broker.control.room import Room
from broker.observe import Counters
from broker.store.snapshot import Snapshot
from broker.wire import PeerLimits, PlainWire, open_peer
from protocol.frames import text_frame
from protocol.states import State
from tests.control.making import KEY, change, policy, snapshot, stored, unconnected_plane

LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)


@attrs.frozen(eq=False)
class Session:
    """One session and its room; the client's socket is read only when the test reads it."""

    member: Member
    room: Room
    client: trio.SocketStream
    spawned: list[Callable[[], Awaitable[Any]]]
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
    spawned: list[Callable[[], Awaitable[Any]]] = []
    room = Room(
        Replica("acme", 300, 3600),
        counters=Counters(),
        clock=services.clock,
        spawn=spawned.append,
        delivered=lambda _publication, _addressees: None,
        doubt=lambda _room, _why: None,
        unknown=lambda _room, _publication: None,
    )
    load(room, snapshot())
    ours, theirs = socket.socketpair()
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with client, open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as tasks:
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
        large = {
            name: attrs.evolve(each, workflow=attrs.evolve(each.workflow, reason="r" * 60_000))
            for name, each in ((name, stored(name, State.NORMAL, 1)) for name in map(str, range(20)))
        }
        load(session.room, snapshot(9, large), 8, 9)
        await wait_all_tasks_blocked()
        assert session.member.peer.pending_bytes
        load(session.room, snapshot(3, epoch="e2"), 2, 3)
        versions: list[int] = []
        while versions[-2:] != [2, 3]:
            message = await session.receive()
            versions += [message["new_version"]] if message["type"] == "policy_invalidated" else []
        assert session.member.sent_seq == 3
