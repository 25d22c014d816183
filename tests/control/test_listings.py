"""What those get who poll a whole organization, and how little of the store's time they can take."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import structlog
import trio
from redis.exceptions import RedisError
from trio.testing import MockClock, wait_all_tasks_blocked

from broker.control.listings import FRESH_SECONDS, LARGE_BYTES, READ_SECONDS, READS_AT_ONCE, Listings, listing_of
from broker.control.replica import known_workflow
from broker.control.rooms import Rooms
from broker.link.errors import LinkDown
from broker.store.drive import Call
from broker.store.layout import Layout
from protocol.states import State
from tests.conftest import Valkey
from tests.control.broker import ORG, Broker, add_key, publisher
from tests.control.clients import eventually
from tests.control.clients import snapshot as snapshot_of
from tests.control.making import snapshot, stored, unconnected_plane


class Store:
    """Answers each reading when it is told to, with the version that there is by then."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.version = 1
        self.reason: str | None = None
        self.is_open = trio.Event()
        self.failure: Exception | None = None

    async def call(self, *words: Any) -> object:
        """Play EVALSHA of the snapshot script, and PING."""
        if words[0] == "PING":
            await trio.lowlevel.checkpoint()
            return b"PONG"
        self.asked.append(words[3])
        version = self.version
        await self.is_open.wait()
        if self.failure is not None:
            raise self.failure
        body = {
            "workflow_id": "wf", "state": "Paused", "version": version, "reason": self.reason, "updated_at": 1,
            "message_id": "m", "actor": None, "at": 1000,
        }  # fmt: skip
        value = b"%d Paused %b" % (version, orjson.dumps(body))
        return [b"e1", b"%d" % version, b"1000", b"1000", b"0", b"0", [b"wf", value], []]


class Somebody:
    """Stands in a room."""

    organization_id = "acme"


class Poller:
    """Asks for one organization after the other; remembers what versions were answered."""

    def __init__(self, listings: Listings, nursery: trio.Nursery) -> None:
        self._listings = listings
        self._nursery = nursery
        self.answers: list[object] = []

    async def ask(self, count: int = 1, organization_id: str = "acme") -> None:
        """Ask so many times at once, and return when nothing goes on without the store any more."""
        for _ in range(count):
            self._nursery.start_soon(self._ask, organization_id)
        await wait_all_tasks_blocked()

    async def _ask(self, organization_id: str) -> None:
        try:
            [workflow] = orjson.loads(await self._listings.of(organization_id))
        except RedisError as error:
            self.answers.append(str(error))
        else:
            self.answers.append(workflow["version"])


@asynccontextmanager
async def polling(call: Call) -> AsyncIterator[tuple[Poller, Rooms, Listings]]:
    """Run the listings of a broker whose links are down but for this call."""
    rooms = unconnected_plane(call).services.rooms
    listings = Listings(Layout(), call, rooms, structlog.get_logger("test"))
    async with trio.open_nursery() as nursery:
        await nursery.start(listings.run)
        yield Poller(listings, nursery), rooms, listings
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def doubtful_room(rooms: Rooms, seq: int, epoch: str) -> AsyncIterator[None]:
    """Hold a room whose sessions were told so much of this log, and which is not known to be current."""
    async with trio.open_nursery() as tending:
        tending.start_soon(rooms.run)
        await wait_all_tasks_blocked()
        rooms.enter(Somebody()).load(snapshot(seq, epoch=epoch), {}, [])  # type: ignore[arg-type]  # no more is asked of it
        yield
        tending.cancel_scope.cancel()


async def test_one_reading_for_all_who_ask(autojump_clock: MockClock) -> None:
    """A hundred requests cost one reading, further ones in the same second none, and a later one a new one."""
    store = Store()
    async with polling(store.call) as (poller, _, _):
        await poller.ask(100)
        assert len(store.asked) == 1
        store.is_open.set()
        await wait_all_tasks_blocked()
        store.version = 2
        await trio.sleep(FRESH_SECONDS - 0.1)
        await poller.ask(100)
        assert (len(store.asked), poller.answers) == (1, [1] * 200)
        await trio.sleep(0.2)
        await poller.ask()
        assert (len(store.asked), poller.answers[-1]) == (2, 2)


async def test_a_reading_that_began_long_before_the_request(autojump_clock: MockClock) -> None:
    """Who asks while a slow reading is under way is not given what was so a second and more before."""
    store = Store()
    async with polling(store.call) as (poller, _, _):
        await poller.ask()
        await trio.sleep(FRESH_SECONDS + 0.1)
        store.version = 2
        await poller.ask()
        assert len(store.asked) == 1
        store.is_open.set()
        await wait_all_tasks_blocked()
        assert (len(store.asked), poller.answers) == (2, [1, 2])


async def test_those_who_give_up_do_not_end_the_reading(autojump_clock: MockClock) -> None:
    """Requests that are abandoned leave one reading behind, however many they are, and the next one is served by it."""
    store = Store()
    async with polling(store.call) as (poller, _, listings):
        for _ in range(10):
            with trio.move_on_after(0.05) as scope:
                await listings.of("acme")
            assert scope.cancelled_caught
        await poller.ask()
        store.is_open.set()
        await wait_all_tasks_blocked()
        assert (len(store.asked), poller.answers) == (1, [1])


async def test_readings_at_once(autojump_clock: MockClock) -> None:
    """As many organizations as allowed are read at once; one more waits for its turn."""
    store = Store()
    async with polling(store.call) as (poller, _, _):
        for number in range(READS_AT_ONCE):
            await poller.ask(organization_id=f"org{number}")
        assert len(store.asked) == READS_AT_ONCE
        await poller.ask(organization_id="late")
        assert len(store.asked) == READS_AT_ONCE
        store.is_open.set()
        await wait_all_tasks_blocked()
        assert (len(store.asked), poller.answers) == (READS_AT_ONCE + 1, [1] * (READS_AT_ONCE + 1))


async def test_never_behind_the_sessions(autojump_clock: MockClock) -> None:
    """While a room is in doubt, nobody is answered with less than its sessions were told, be it a moment old."""
    store = Store()
    store.is_open.set()
    async with polling(store.call) as (poller, rooms, _):
        await poller.ask()
        async with doubtful_room(rooms, 2, "e1"):
            store.version = 2
            await trio.sleep(FRESH_SECONDS / 2)
            await poller.ask()
            assert (len(store.asked), poller.answers) == (2, [1, 2])
            await poller.ask()
            assert (len(store.asked), poller.answers) == (2, [1, 2, 2])


async def test_what_is_kept_is_let_go(autojump_clock: MockClock) -> None:
    """Each listing serves for its second, counted from its own making, and of an organization nothing stays behind."""
    store = Store()
    store.is_open.set()
    async with polling(store.call) as (poller, rooms, listings):
        await poller.ask()
        async with doubtful_room(rooms, 2, "e1"):
            store.version = 2
            await trio.sleep(FRESH_SECONDS / 2)
            await poller.ask()
        await trio.sleep(FRESH_SECONDS - 0.1)
        await poller.ask()
        assert (len(store.asked), poller.answers) == (2, [1, 2, 2])
        assert list(listings._kept) == ["acme"]
        await trio.sleep(0.2)
        assert not listings._kept


async def test_a_log_that_is_not_the_one_of_the_sessions(autojump_clock: MockClock) -> None:
    """A listing from before is not compared by its number with another log; one read since then will do."""
    store = Store()
    store.is_open.set()
    async with polling(store.call) as (poller, rooms, _):
        await poller.ask()
        async with doubtful_room(rooms, 0, "e0"):
            store.is_open = trio.Event()
            store.version = 2
            await trio.sleep(FRESH_SECONDS / 2)
            await poller.ask()
            assert (len(store.asked), poller.answers) == (2, [1])
            store.is_open.set()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert (len(store.asked), poller.answers) == (2, [1, 2])


@pytest.mark.parametrize(
    ("failure", "said"), [(LinkDown("away"), "away"), (ValueError("no number"), "unreadable: no number")]
)
async def test_a_store_that_fails(autojump_clock: MockClock, failure: Exception, said: str) -> None:
    """All who wait are told, the broker lives, and the next one who asks has the store asked again."""
    store = Store()
    store.failure = failure
    async with polling(store.call) as (poller, _, _):
        await poller.ask(3)
        store.is_open.set()
        await wait_all_tasks_blocked()
        assert poller.answers == [said] * 3
        store.failure = None
        await poller.ask()
        assert poller.answers[-1] == 1


async def test_a_store_that_does_not_answer(autojump_clock: MockClock) -> None:
    """A reading without an answer ends, so that those who ask afterwards have a new one."""
    store = Store()
    async with polling(store.call) as (poller, _, _):
        await poller.ask()
        await trio.sleep(READ_SECONDS + 0.1)
        assert poller.answers == ["the store does not answer"]
        await poller.ask()
        assert len(store.asked) == 2


async def test_large_listings_go_out_one_by_one(autojump_clock: MockClock) -> None:
    """Those who wait for a large listing are not all answered in one pass of the loop: each answer is a copy of it."""
    store = Store()
    store.reason = "r" * LARGE_BYTES
    async with polling(store.call) as (poller, _, _):
        await poller.ask(20)
        store.is_open.set()
        most = 0
        with trio.fail_after(5):
            while (before := len(poller.answers)) < 20:
                await trio.lowlevel.checkpoint()
                most = max(most, len(poller.answers) - before)
        assert most <= 2  # those of two passes


async def test_what_a_room_knows_is_encoded_once(broker: Broker, valkey: Valkey) -> None:
    """Those who poll while a room is current share one listing, until something happens: then it is there at once."""
    api_key, _ = add_key(valkey)
    listings = broker.plane.services.listings
    async with await broker.connect(api_key) as client:
        await snapshot_of(client)
        await eventually(lambda: broker.plane.services.rooms.current(ORG))
        for state in ("Flagged", "Paused", "Normal"):
            publisher(valkey).state_change(ORG, "wf", state)
            assert (await client.receive_type("state_change"))["state"] == state
            first, second = await listings.of(ORG), await listings.of(ORG)
            assert first is second
            assert [each["state"] for each in json.loads(first)] == [state]


async def test_another_log_of_the_same_length(nursery: trio.Nursery) -> None:
    """What a room knew of a log that was lost is not told of the next one, though as much has happened there."""
    async with polling(Store().call) as (_, rooms, listings):
        nursery.start_soon(rooms.run)
        await wait_all_tasks_blocked()
        room = rooms.enter(Somebody())  # type: ignore[arg-type]  # no more is asked of it
        states: list[str] = []
        for epoch, state in (("e1", State.KILLED), ("e2", State.NORMAL)):
            room.load(snapshot(1, epoch=epoch), {"wf": known_workflow(stored("wf", state, 1))}, [])
            states += [each["state"] for each in json.loads(listings._from_room(room))]
        assert states == ["Killed", "Normal"]
        nursery.cancel_scope.cancel()


async def test_encoding_takes_turns() -> None:
    """Thousands of workflows are encoded a stretch at a time: others run in between."""
    passes = 0

    async def others() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    said = snapshot(seq=1, workflows={f"wf{each}": stored(f"wf{each}", State.KILLED, 1) for each in range(5000)})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        before = passes
        text = await listing_of(said)
        assert passes - before >= 5000 // 256 - 1
        nursery.cancel_scope.cancel()
    assert [each["workflow_id"] for each in json.loads(text)] == [f"wf{each}" for each in range(5000)]
