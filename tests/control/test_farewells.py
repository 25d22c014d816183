"""What an agent is told before its session ends because its key does."""

import time
from typing import Any

import pytest
import trio

from broker.control import farewells, room
from broker.store import keys
from broker.store.drive import run_sync
from broker.store.key_record import KeyRecord
from broker.wire.turn import Turn
from protocol.frames import text_frame
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher, running_broker
from tests.control.clients import eventually, snapshot
from tests.support.ws_client import Closed, WsClient


def revoke(valkey: Valkey, record: KeyRecord) -> None:
    """Revoke a key."""
    run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))


async def told(client: WsClient) -> list[Any]:
    """Return what a client is told until it is closed with 4401: the type of each message, or the new state."""
    found: list[Any] = []
    with trio.fail_after(3):
        while not found or found[-1] != 4401:
            found.append(await _next(client))
    return found[:-1]


async def _next(client: WsClient) -> Any:
    try:
        message = await client.receive_json()
    except Closed as closed:
        return closed.code
    return message.get("state", message["type"])


async def test_a_kill_before_a_revocation_in_a_break(broker: Broker, valkey: Valkey) -> None:
    """Whichever of the two is read first when the link is back: the agent is killed before it is let go."""
    api_key, record = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        valkey.client.client_kill_filter(_type="pubsub")
        publisher(valkey).kill(ORG, "wf")
        revoke(valkey, record)
        assert await told(client) == ["Killed", "key_rotated"]


class LongTurn(Turn):
    """One that is over after each session, and lets the others run for long."""

    def is_over(self) -> bool:
        """Always."""
        return True

    async def end(self) -> None:
        """Let everybody else run twenty times."""
        for _ in range(20):
            await trio.lowlevel.checkpoint()


async def test_a_kill_that_a_large_room_is_still_telling(
    broker: Broker, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A room that tells its sessions in turns has told them all before those of the key are let go."""
    monkeypatch.setattr(room, "AT_ONCE", 0)
    monkeypatch.setattr(room, "Turn", LongTurn)
    api_key, record = add_key(valkey)
    async with await broker.connect(api_key) as first, await broker.connect(api_key) as last:
        await snapshot(first)
        await snapshot(last)
        valkey.client.client_kill_filter(_type="pubsub")
        publisher(valkey).kill(ORG, "wf")
        revoke(valkey, record)
        assert [await told(each) for each in (first, last)] == [["Killed", "key_rotated"]] * 2


async def test_a_kill_and_a_revocation_between_two_processes(broker: Broker, valkey: Valkey) -> None:
    """A session that is taken up with a key that is over by now is told what was decided while nobody held it."""
    api_key, record = add_key(valkey, "wf")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        [member] = broker.plane.services.members.values()
        left = member.carry(None)
    async with running_broker(valkey, "b2") as successor:
        assert await successor.plane.services.keys.lookup(api_key) == record  # lets it in, as a parcel does
        successor.carried[api_key] = left
        publisher(valkey).kill(ORG, "wf")
        async with await successor.connect(api_key) as client:
            revoke(valkey, record)
            assert (await snapshot(client))["wf"]["state"] == "Killed"
            assert sorted(await told(client)) == ["Killed", "key_rotated"]


async def test_a_store_that_does_not_say(broker: Broker, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that expires while the log cannot be read ends its session all the same, a little later."""
    monkeypatch.setattr(farewells, "LAST_WORD_SECONDS", 0.2)
    api_key, _ = add_key(valkey, expires_at=int(time.time()) + 1000)
    async with await broker.connect(api_key) as client:
        await snapshot(client)

        async def silence(*_: object) -> object:
            await trio.sleep_forever()

        broker.plane.services.rooms._mender._call = silence
        broker.clock.offset = 1000
        assert await told(client) == ["key_rotated"]


@pytest.mark.parametrize("reads", [False, True])
async def test_a_client_that_does_not_read(
    broker: Broker, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """It is waited for just as long; one that reads at last is told everything before its end."""
    monkeypatch.setattr(farewells, "LAST_WORD_SECONDS", 0.5)
    members = broker.plane.services.members
    api_key, record = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        [member] = members.values()
        while member.peer.send(text_frame(bytes(100_000))):
            pass
        publisher(valkey).kill(ORG, "wf")
        await eventually(lambda: member.pending)
        revoke(valkey, record)
        await eventually(lambda: member.over)
        assert not member.peer.closing
        if reads:
            while len(await client.receive()) == 100_000:
                pass
            assert "Killed" in await told(client)
        await eventually(lambda: not members)
        assert member.peer.close_code == 4401
