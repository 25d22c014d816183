"""Bringing a room level with the store: page by page, from a snapshot, and with what the store has lost."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from broker.control import mending as module
from broker.control.mending import READ_SECONDS, Mender
from broker.control.room import Room
from broker.link.address import Address
from broker.link.link import Link
from broker.observe import Counters
from broker.store.drive import Call
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, publisher
from tests.control.making import room_of

WINDOW = 300.0
WORKFLOWS = 20_000
STORED = b'1 Normal {"workflow_id":"%s","state":"Normal","version":1,"reason":null,"updated_at":0,%s}'
REST = b'"message_id":"m","actor":null,"at":0'


@attrs.define(eq=False)
class Site:
    """A room, what mends it, and its store."""

    valkey: Valkey
    link: Link
    counters: Counters = attrs.field(factory=Counters)
    room: Room = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.room = room_of(ORG, counters=self.counters)

    async def mend(self, call: Call | None = None) -> list[Any]:
        """Mend once; returns what was logged."""
        with capture_logs() as logs:
            limits = LogLimits()
            log = structlog.get_logger("test")
            await Mender(Layout(), call or self.link.call, WINDOW, limits, log, self.counters).mend(self.room)
        return [line["event"] for line in logs]

    def policies(self, count: int) -> None:
        """Publish so many messages that no snapshot holds."""
        for number in range(count):
            publisher(self.valkey).policy_invalidated(ORG, "p", number)


@pytest.fixture
async def site(valkey: Valkey, nursery: trio.Nursery) -> AsyncIterator[Site]:
    """A room of an organization in which one thing has happened, which it does not know yet."""
    link = Link(Address.parse(valkey.url), "test")
    await nursery.start(link.run)
    publisher(valkey).pause(ORG, "wf")
    yield Site(valkey, link)
    nursery.cancel_scope.cancel()


async def test_a_store_that_does_not_answer(autojump_clock: MockClock) -> None:
    """It is not waited for without end: the room is tried again."""

    async def silence(*_: object) -> object:
        await trio.sleep_forever()

    mender = Mender(Layout(), silence, WINDOW, LogLimits(), structlog.get_logger("test"), Counters())
    began = trio.current_time()
    with trio.fail_after(60), pytest.raises(trio.TooSlowError):
        await mender.mend(room_of(ORG))
    assert trio.current_time() - began == READ_SECONDS


async def test_a_large_organization_and_a_slow_store(autojump_clock: MockClock) -> None:
    """As long as each answer comes in time the room is made right, however many there are."""
    room = room_of(ORG)
    began = trio.current_time()
    since_ms = 0

    async def answer(*words: object) -> object:
        nonlocal since_ms
        await trio.sleep(0.2)
        now = 1000 + trio.current_time() - began
        if words[0] == "EVALSHA":
            names = (str(number).encode() for number in range(WORKFLOWS))
            stored = {name: STORED % (name, REST) for name in names}
            return [b"e1", b"1", b"1", b"%d" % (now * 1000), b"0", b"0", stored, {}]
        if words[0] == "XRANGE":
            since_ms = int(str(words[2]))
            return []
        return [int(now), 0] if words[0] == "TIME" else b"PONG"

    await Mender(Layout(), answer, WINDOW, LogLimits(), structlog.get_logger("test"), Counters()).mend(room)
    assert since_ms <= (1000.2 - WINDOW) * 1000
    assert len(room.replica.workflows) == WORKFLOWS


async def test_as_many_pages_as_it_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was missed is read to its end, also when it is more than a page."""
    monkeypatch.setattr(module, "PAGE", 2)
    await site.mend()
    site.policies(5)
    assert await site.mend() == []
    assert (site.room.seq, len(site.room.replica.recent(0))) == (6, 5)


async def test_a_store_that_takes_its_time(site: Site) -> None:
    """The messages of the window are read so much later than the snapshot, and reach as far back all the same."""
    site.policies(1)
    client: Any = site.valkey.client
    [(policy_id, _)] = client.xrevrange(LAYOUT.log(ORG), count=1)
    policy_ms = int(policy_id.split(b"-")[0])

    async def late(*words: Any) -> object:
        reply: Any = await site.link.call(*words)
        if words == ("TIME",):
            return [b"%d" % (policy_ms // 1000 + WINDOW + READ_SECONDS), reply[1]]
        return reply

    await site.mend(late)
    assert [each.ms for each in site.room.replica.recent(0)] == [policy_ms]


async def test_a_log_that_does_not_reach_back(site: Site) -> None:
    """The first snapshot of a room is no repair, another one is: it is counted and said."""
    assert await site.mend() == []
    assert site.counters.control_repairs == 0
    site.policies(3)
    site.valkey.client.xtrim(LAYOUT.log(ORG), maxlen=1, approximate=False)
    assert await site.mend() == ["fresh snapshot for all sessions"]
    assert (site.room.seq, site.counters.control_repairs, site.counters.restored) == (4, 1, 0)


async def test_a_store_that_has_lost_its_data(site: Site) -> None:
    """What the room knows better is written back, counted and said."""
    await site.mend()
    site.valkey.client.flushall()
    assert await site.mend() == [
        "the store had lost decisions; they were written back",
        "fresh snapshot for all sessions",
    ]
    assert (site.counters.restored, site.counters.control_repairs) == (1, 1)
    assert site.valkey.client.hexists(LAYOUT.workflows(ORG), "wf")


async def test_entries_that_a_flood_pushed_out(site: Site) -> None:
    """How many were lost before the room was opened is not its affair; each loss after that is said once."""
    client: Any = site.valkey.client

    def cut(total: int, left: int) -> None:
        client.hset(LAYOUT.meta(ORG), "capped", total)
        client.xtrim(LAYOUT.log(ORG), maxlen=left, approximate=False)

    cut(7, 1)
    assert (await site.mend(), site.room.capped) == ([], 7)
    assert (await site.mend(), site.room.capped) == ([], 7)
    site.policies(1)
    cut(8, 10)
    assert (await site.mend(), site.room.capped) == (["the log's size cap has cut entries"], 8)
    assert await site.mend() == []
    site.policies(3)
    cut(10, 1)
    said = ["the log's size cap has cut entries", "fresh snapshot for all sessions"]
    assert (await site.mend(), site.room.capped) == (said, 10)
