"""What a room knows between the moment in which its link is up again and the one in which it is heard again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from broker.control.room import Room
from broker.link.errors import LinkDown
from broker.store.drive import run_sync
from broker.store.snapshot import read_snapshot
from protocol.states import State
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher, running_broker
from tests.control.clients import eventually, snapshot
from tests.support.ws_client import WsClient


async def test_a_room_is_not_current_before_its_channel_is_heard_again(own_valkey: Valkey) -> None:
    """Else those who poll just then would be told what was so before the break."""
    api_key, _ = add_key(own_valkey)
    seen: list[tuple[bool, Room | None]] = []
    async with running_broker(own_valkey) as broker:
        rooms = broker.plane.services.rooms
        link = broker.plane.feed._link
        link._on_up = lambda: seen.append((link.state.up, rooms.current(ORG)))
        async with await broker.connect(api_key):
            await eventually(lambda: rooms.current(ORG))
            link.leave("for this test")
            await eventually(lambda: seen and rooms.current(ORG))
    assert seen == [(True, None)]


async def test_a_look_at_the_log_from_before_a_break_settles_nothing(own_valkey: Valkey) -> None:
    """While a store that is slow still answers it the link breaks and comes back: what went by is in no such answer."""
    api_key, _ = add_key(own_valkey)
    asked, answers = 0, trio.Semaphore(0)
    async with running_broker(own_valkey) as broker:
        rooms = broker.plane.services.rooms
        link = broker.plane.feed._link

        async def answer_late(*words: str) -> object:
            nonlocal asked
            answer = await broker.command.call(*words)
            asked += 1
            await answers.acquire()
            return answer

        async with await broker.connect(api_key) as client:
            await snapshot(client)
            room = await eventually(lambda: rooms.current(ORG))
            assert room is not None
            rooms._mender._call = answer_late
            room.bell.ring()
            await eventually(lambda: asked)
            link.leave("for this test")
            publisher(own_valkey).kill(ORG, "wf")
            await eventually(lambda: link.state.up and not link.restoring)
            answers.release()
            await eventually(lambda: asked == 2)
            assert (room.seq, rooms.current(ORG)) == (0, None)
            answers.release()
            assert (await client.receive_type("state_change"))["state"] == "Killed"
            await eventually(lambda: rooms.current(ORG))


@attrs.define(eq=False)
class Failover:
    """An agent that was told of a kill, of which the server that is promoted next does not know.

    The log is not to be had until `come_back`.
    """

    broker: Broker
    client: WsClient
    server: Any
    replica: dict[bytes, bytes]
    is_away: bool = False

    async def call(self, *words: str) -> object:
        """Ask the store for the rooms."""
        if self.is_away:
            raise LinkDown("away")
        return await self.broker.command.call(*words)

    def promote(self) -> None:
        """Break the control link, and have the server know what the replica knows, and nothing else."""
        self.is_away = True
        self.broker.plane.services.rooms._mender._call = self.call
        self.broker.plane.feed._link.leave("for this test")
        self.server.delete(*self.server.keys(f"*{ORG}*"))
        for key, value in self.replica.items():
            self.server.restore(key, 0, value)

    async def heard_again(self) -> None:
        """Return when the control link is up again."""
        link = self.broker.plane.feed._link
        await eventually(lambda: link.state.up and not link.restoring)

    async def come_back(self) -> Any:
        """Let the log be read; returns the workflows of the snapshot that comes of it."""
        self.is_away = False
        return (await self.client.receive_type("initial_state"))["workflows"]


@asynccontextmanager
async def failover(valkey: Valkey, killed: str) -> AsyncIterator[Failover]:
    """Have a replica lag behind by the kill of one workflow."""
    api_key, _ = add_key(valkey)
    server: Any = valkey.client
    async with running_broker(valkey) as broker, await broker.connect(api_key) as client:
        await snapshot(client)
        publisher(valkey).pause(ORG, "first")
        await client.receive_type("state_change")
        replica = {key: server.dump(key) for key in server.keys(f"*{ORG}*")}
        publisher(valkey).kill(ORG, killed)
        await client.receive_type("state_change")
        await eventually(lambda: broker.plane.services.rooms.current(ORG))
        yield Failover(broker, client, server, replica)


@pytest.mark.parametrize("hears", [True, False])
async def test_another_history_that_goes_on_with_the_next_number(own_valkey: Valkey, hears: bool) -> None:
    """A replica that was promoted has lost a kill, and has another in its place; what is heard then follows either.

    When the log can be read all three kills are known everywhere, whether one was heard or none.
    """
    async with failover(own_valkey, "lost") as site:
        site.promote()
        publisher(own_valkey).kill(ORG, "unheard")
        if not hears:
            publisher(own_valkey).kill(ORG, "third")
        await site.heard_again()
        if hears:
            publisher(own_valkey).kill(ORG, "third")
            assert (await site.client.receive_type("state_change"))["workflow_id"] == "third"
        workflows = await site.come_back()
        killed = {"lost", "unheard", "third"}
        assert {each["workflow_id"] for each in workflows if each["state"] == "Killed"} == killed
        known = run_sync(site.server, read_snapshot(LAYOUT, ORG)).workflows
        assert {name for name, each in known.items() if each.workflow.state is State.KILLED} == killed


async def test_a_kill_in_whose_place_another_history_has_something_newer(own_valkey: Valkey) -> None:
    """The state that was heard from the other history is newer by its number, and does not know of the kill."""
    async with failover(own_valkey, "wf") as site:
        site.promote()
        publisher(own_valkey).pause(ORG, "wf")
        await site.heard_again()
        publisher(own_valkey).resume(ORG, "wf")
        assert (await site.client.receive_type("state_change"))["version"] == 2
        workflows = await site.come_back()
        assert ("wf", "Killed", 3) in [(each["workflow_id"], each["state"], each["version"]) for each in workflows]
