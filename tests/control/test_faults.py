import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
import structlog
import trio
import trio.lowlevel

from broker.control import lane, rooms
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.snapshot import read_snapshot
from protocol.states import State
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, running_broker
from tests.control.clients import eventually, snapshot


class Unheard(Layout):
    """The layout of a publisher whose live messages get lost on the way."""

    def live(self, organization_id: str) -> str:
        return f"lost:{organization_id}"


def publisher(valkey: Valkey) -> Publisher:
    """Return a publisher on the test's server."""
    return Publisher(valkey.client)


def unheard(valkey: Valkey) -> Publisher:
    """Return a publisher whose messages reach the log only."""
    made = Publisher(valkey.client)
    made.layout = Unheard()
    return made


async def test_a_break_of_the_link_loses_nothing(broker: Broker, valkey: Valkey) -> None:
    """What is published while the subscription is broken arrives afterwards, in order, each once."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        valkey.client.client_kill_filter(_type="pubsub")
        for number in range(5):
            publisher(valkey).policy_invalidated(ORG, "p", number)
        publisher(valkey).kill(ORG, "wf")
        received = [await client.receive_json() for _ in range(6)]
        assert [each.get("new_version") for each in received] == [0, 1, 2, 3, 4, None]
        assert received[-1]["state"] == "Killed"
    assert broker.plane.services.rooms.blind_since is None


async def test_a_silent_loss_shows_at_the_next_message(broker: Broker, valkey: Valkey) -> None:
    """A message that never came is read from the log as soon as the one after it comes, and goes before it."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        unheard(valkey).kill(ORG, "wf")
        publisher(valkey).policy_invalidated(ORG, "p", 1)
        assert (await client.receive_json())["state"] == "Killed"
        assert (await client.receive_json())["type"] == "policy_invalidated"


async def test_a_silent_loss_shows_in_time(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that never came arrives although nothing follows it: every room is compared with its log regularly."""
    monkeypatch.setattr(rooms, "CHECK_SECONDS", 0.1)
    api_key, _ = add_key(valkey)
    async with running_broker(valkey) as broker, await broker.connect(api_key) as client:
        await snapshot(client)
        unheard(valkey).kill(ORG, "wf")
        assert (await client.receive_json())["state"] == "Killed"


async def test_only_the_subscriptions_are_away(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the subscription link alone cannot connect, a kill comes from the log, for newcomers too, and it shows."""
    monkeypatch.setattr(rooms, "UNHEARD_SECONDS", 0.05)
    monkeypatch.setattr(rooms, "GRACE_SECONDS", 0.0)
    admin = own_valkey.client
    api_key, _ = add_key(own_valkey)
    async with running_broker(own_valkey) as broker:
        found = broker.plane.services.rooms
        [control] = [each["id"] for each in admin.client_list() if each["name"] == "control-b1"]
        admin.config_set("maxclients", len(admin.client_list()))
        admin.client_kill_filter(_id=control)
        with redis.Redis(unix_socket_path=str(own_valkey.socket)) as hog:
            hog.ping()  # no place is left for the link
            async with await broker.connect(api_key) as client:
                assert await snapshot(client) == {}
                publisher(own_valkey).kill(ORG, "wf")
                assert (await client.receive_json())["state"] == "Killed"
                async with await broker.connect(api_key) as newcomer:
                    assert (await snapshot(newcomer))["wf"]["state"] == "Killed"
            assert found.current(ORG) is None
            assert found.blind_since is not None
        admin.config_set("maxclients", 1000)
        await eventually(lambda: found.current(ORG) is not None and found.blind_since is None)
        assert admin.pubsub_numsub(LAYOUT.live(ORG))[0][1] == 1


async def test_a_live_channel_that_is_refused(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """An organization whose live channel the user may not hear is read from the log, and not told to go elsewhere."""
    monkeypatch.setattr(rooms, "UNHEARD_SECONDS", 0.05)
    monkeypatch.setattr(rooms, "RESYNC_SECONDS", 0.0)
    rules = ("resetchannels", "&control:*", f"&{LAYOUT.key_changes()}")
    own_valkey.client.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]
    own_valkey.client.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "+@all", "allkeys", "allchannels")  # type: ignore[no-untyped-call]
    api_key, _ = add_key(own_valkey)
    async with running_broker(own_valkey) as broker, await broker.connect(api_key) as client:
        assert await snapshot(client) == {}
        with redis.Redis(unix_socket_path=str(own_valkey.socket), username="admin", password="") as admin:
            Publisher(admin).kill(ORG, "wf")
        assert (await client.receive_json())["state"] == "Killed"
        assert broker.plane.services.rooms.current(ORG) is None


async def test_a_log_that_does_not_reach_back(broker: Broker, valkey: Valkey) -> None:
    """When the log no longer holds what was missed, every session gets a fresh snapshot in-band and what is recent."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        unheard(valkey).kill(ORG, "a")
        unheard(valkey).pause(ORG, "b")
        approval = publisher(valkey)
        valkey.client.xtrim(LAYOUT.log(ORG), maxlen=0)
        approval.approval_resolved(ORG, "ap", workflow_id="a", execution_id="x", outcome="approved")
        states = await snapshot(client)
        assert {name: each["state"] for name, each in states.items()} == {"a": "Killed", "b": "Paused"}
        rest = [await client.receive_json() for _ in range(3)]
        assert rest[0]["type"] == "approval_resolved"
        assert {each["state"] for each in rest[1:]} == {"Killed", "Paused"}


async def test_a_store_that_lost_everything_is_told(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill that only the broker still knows goes back into an emptied store, and the session stays open."""
    monkeypatch.setattr(rooms, "CHECK_SECONDS", 0.1)
    api_key, _ = add_key(valkey)
    with structlog.testing.capture_logs() as logs:
        async with running_broker(valkey) as broker, await broker.connect(api_key) as client:
            await snapshot(client)
            publisher(valkey).kill(ORG, "wf", reason="costs")
            killed = await client.receive_json()
            valkey.client.flushall()
            await client.receive_type("initial_state")

            def restored() -> bool:
                found = run_sync(valkey.client, read_snapshot(LAYOUT, ORG)).workflows.get("wf")
                return found is not None and found.workflow.state is State.KILLED

            await eventually(restored)
            found = run_sync(valkey.client, read_snapshot(LAYOUT, ORG)).workflows["wf"]
            assert (found.workflow.version, found.workflow.reason) == (killed["version"], "costs")
            assert found.actor == "restored"
            (line,) = [line for line in logs if line["event"] == "fresh snapshot for all sessions"]
            assert (type(line["had_epoch"]), line["had_seq"], type(line["epoch"]), line["seq"]) == (str, 1, str, 1)
            publisher(valkey).resume(ORG, "wf", force=True)
            while (message := await client.receive_json()).get("state") != "Normal":
                pass
            assert message["version"] == killed["version"] + 1


async def test_changes_made_after_a_loss_reach_clients(broker: Broker, valkey: Valkey) -> None:
    """A pause that an emptied store counted as version 1 reaches a client that had seen version 3 as version 4."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        for state in (State.FLAGGED, State.TRIPPED, State.NORMAL):
            publisher(valkey).state_change(ORG, "wf", state)
        assert [(await client.receive_json())["version"] for _ in range(3)] == [1, 2, 3]
        last = time.time_ns() // 1_000_000
        await eventually(lambda: time.time_ns() // 1_000_000 > last)  # the store tells before from after by the ms
        valkey.client.flushall()
        publisher(valkey).pause(ORG, "wf")
        workflows: dict[str, dict[str, object]] = {}
        while workflows.get("wf", {}).get("state") != "Paused":
            workflows = await snapshot(client)
        assert workflows["wf"]["version"] == 4


async def test_two_brokers_apply_once(valkey: Valkey) -> None:
    """Of two brokers that hear the same publication one applies it, and the clients of both get it once."""
    api_key, _ = add_key(valkey)
    async with (
        running_broker(valkey, "b1") as one,
        running_broker(valkey, "b2") as two,
        await one.connect(api_key) as first,
        await two.connect(api_key) as second,
    ):
        await snapshot(first)
        await snapshot(second)
        for number in range(20):
            state = "paused" if number % 2 else "flagged"
            valkey.client.publish(
                f"control:{ORG}", json.dumps({"type": "state_change", "workflow_id": "wf", "state": state})
            )
        for client in (first, second):
            changes = [await client.receive_json() for _ in range(20)]
            assert [each["version"] for each in changes] == list(range(1, 21))
            assert [each["state"] for each in changes] == ["Flagged", "Paused"] * 10
        await eventually(lambda: one.counters.control_inputs + two.counters.control_inputs == 40)
        applied = [each.counters.control_applied for each in (one, two)]
        await eventually(lambda: sum(sum(each.values()) for each in applied) == 40)
        assert sum(each["applied"] for each in applied) == 20


async def test_a_store_that_is_away_holds_input_back(broker: Broker, valkey: Valkey) -> None:
    """Input that was heard is applied exactly once although the command link broke under it."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        valkey.client.client_kill_filter(_type="normal", skipme=True)
        valkey.client.publish(
            f"control:{ORG}", json.dumps({"type": "state_change", "workflow_id": "wf", "state": "killed"})
        )
        assert (await client.receive_json())["version"] == 1
        await trio.lowlevel.checkpoint()
    assert broker.counters.control_applied["applied"] == 1


@contextmanager
def setting(valkey: Valkey, name: str, value: str) -> Iterator[None]:
    """Run the server with another setting than 0 for the length of the block."""
    valkey.client.config_set(name, value)
    try:
        yield
    finally:
        valkey.client.config_set(name, "0")


def put_in(valkey: Valkey, workflow: str, state: str) -> None:
    """Publish a state as any program may."""
    change = {"type": "state_change", "workflow_id": workflow, "state": state}
    valkey.client.publish(f"control:{ORG}", json.dumps(change))


async def test_a_kill_behind_what_a_store_without_memory_refuses(broker: Broker, valkey: Valkey) -> None:
    """It goes first, and arrives at once; what it went past is applied once there is memory, but for its workflow."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        with setting(valkey, "maxmemory", "1"):
            put_in(valkey, "other", "flagged")
            put_in(valkey, "wf", "tripped")
            await eventually(lambda: broker.counters.control_inputs == 2)
            with trio.fail_after(2):
                put_in(valkey, "wf", "killed")
                killed = await client.receive_type("state_change")
        assert (killed["workflow_id"], killed["state"]) == ("wf", "Killed")
        while (message := await client.receive_type("state_change"))["workflow_id"] != "other":
            pass
        assert message["state"] == "Flagged"
    assert broker.counters.control_inputs_refused == {"overtaken": 1}


async def test_a_kill_that_the_store_refuses_for_long(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """When other publications are given up a kill is not: it is applied as soon as the store takes anything."""
    monkeypatch.setattr(lane, "GIVE_UP_SECONDS", 0.1)
    api_key, _ = add_key(valkey)
    async with running_broker(valkey) as broker, await broker.connect(api_key) as client:
        await snapshot(client)
        with setting(valkey, "min-replicas-to-write", "1"):
            put_in(valkey, "wf", "killed")
            put_in(valkey, "other", "flagged")
            await eventually(lambda: broker.counters.control_inputs_refused == {"store_error": 1})
        assert (await client.receive_type("state_change"))["state"] == "Killed"


async def test_the_same_again_while_the_first_waits(broker: Broker, valkey: Valkey) -> None:
    """What a broker heard before its link broke is not taken for what it hears after it, however late it is applied."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        with setting(valkey, "min-replicas-to-write", "1"):
            put_in(valkey, "wf", "paused")
            await eventually(lambda: broker.counters.control_inputs == 1)
            valkey.client.client_kill_filter(_type="pubsub")
            await eventually(lambda: valkey.client.pubsub_numpat() == 1)
            for state in ("resumed", "paused"):
                put_in(valkey, "wf", state)
            await eventually(lambda: broker.counters.control_inputs == 3)
        await eventually(lambda: sum(broker.counters.control_applied.values()) == 3)
        changes = [await client.receive_type("state_change") for _ in range(3)]
        assert [each["state"] for each in changes] == ["Paused", "Normal", "Paused"]
    assert broker.counters.control_applied == {"applied": 3}


async def test_a_store_that_refuses(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when the store has refused a snapshot for long is a client told so; once it can be had, it is sent."""
    monkeypatch.setattr(rooms, "RESYNC_SECONDS", 0.3)
    monkeypatch.setattr(rooms, "GRACE_SECONDS", 0.1)
    api_key, _ = add_key(valkey)
    valkey.client.set(LAYOUT.workflows(ORG), "not a hash")
    async with running_broker(valkey) as broker, await broker.connect(api_key) as client:
        message = await client.receive_json()
        assert message["type"] == "resync_required"
        assert "WRONGTYPE" in message["reason"]
        assert broker.plane.services.rooms.blind_since is not None
        valkey.client.delete(LAYOUT.workflows(ORG))
        assert await snapshot(client) == {}
        await eventually(lambda: broker.plane.services.rooms.blind_since is None)


async def test_an_entry_of_a_newer_version(broker: Broker, valkey: Valkey) -> None:
    """What a newer version wrote is counted as refused control input and said once a minute, and the rest goes on."""
    api_key, _ = add_key(valkey)
    with structlog.testing.capture_logs() as logs:
        async with await broker.connect(api_key) as client:
            await snapshot(client)
            publisher(valkey).kill(ORG, "a")
            epoch = valkey.client.hget(LAYOUT.meta(ORG), "epoch")
            assert isinstance(epoch, bytes)
            for seq in (2, 3):
                unknown = f"{epoch.decode()} {seq} {time.time_ns() // 1_000_000} " + '{"type":"lease_ended"}'
                valkey.client.hset(LAYOUT.meta(ORG), "seq", seq)
                valkey.client.publish(LAYOUT.live(ORG), unknown)
            publisher(valkey).kill(ORG, "b")
            assert [(await client.receive_json())["workflow_id"] for _ in "ab"] == ["a", "b"]
    assert broker.counters.control_inputs_refused == {"unknown_control_message": 2}
    assert not broker.counters.publications_dropped
    [line] = [line for line in logs if line["event"] == "control input refused"]
    assert (line["code"], line["org"], line["seq"]) == ("unknown_control_message", ORG, 2)


async def test_an_empty_room_is_closed(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after the last session a room is given up with its subscription, and opened again for the next one."""
    monkeypatch.setattr(rooms, "KEPT_SECONDS", 0.1)
    monkeypatch.setattr(rooms, "CHECK_SECONDS", 0.05)
    api_key, _ = add_key(valkey)
    async with running_broker(valkey) as broker:
        for number in range(2):
            async with await broker.connect(api_key) as client:
                assert len(await snapshot(client)) == number
                publisher(valkey).pause(ORG, "wf")
                await client.receive_type("state_change")
            await eventually(lambda: len(broker.plane.services.rooms) == 0)
            await eventually(lambda: valkey.client.pubsub_numsub(LAYOUT.live(ORG))[0][1] == 0)


async def test_a_flood_that_cuts_the_log_shows(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that the log's size cap has cut are counted, for as long as somebody of that organization is here."""
    monkeypatch.setattr(rooms, "CHECK_SECONDS", 0.1)
    api_key, _ = add_key(valkey)
    async with (
        running_broker(valkey, log_max_entries=100) as broker,
        await broker.connect(api_key) as client,
    ):
        await snapshot(client)
        flooding = Publisher(valkey.client, limits=LogLimits(retention=3600, max_entries=100))
        for number in range(120):
            flooding.policy_invalidated(ORG, "p", number)
        await eventually(lambda: broker.plane.services.rooms.capped == 20)


@pytest.mark.parametrize(
    "value",
    [
        b"7",
        b"7 Paused nonsense",
        b'7 Paused {"workflow_id":"w","state":"Paused","version":"7","reason":null,"updated_at":1}',
    ],
)
async def test_a_damaged_entry_harms_its_organization_alone(broker: Broker, valkey: Valkey, value: bytes) -> None:
    """Somebody has written nonsense into the store: others are killed as ever, and it can be mended."""
    valkey.client.hset(LAYOUT.workflows(ORG), "w", value)
    of_damaged, _ = add_key(valkey)
    of_healthy, _ = add_key(valkey, "wf", org="healthy")
    async with await broker.connect(of_damaged) as damaged:
        async with await broker.connect(of_healthy, org="healthy") as healthy:
            await snapshot(healthy)
            await trio.to_thread.run_sync(lambda: publisher(valkey).kill("healthy", "wf"))
            assert (await healthy.receive_json())["state"] == "Killed"
        valkey.client.hdel(LAYOUT.workflows(ORG), "w")
        assert await snapshot(damaged) == {}
