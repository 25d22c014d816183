"""What keeps rooms right: when they are compared with the store, what counts as knowing, and what sessions are told."""

import socket
from collections.abc import AsyncIterator

import attrs
import hiredis
import pytest
import structlog
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from broker.control.member import Member
from broker.control.mending import READ_SECONDS
from broker.control.room import Room
from broker.control.rooms import (
    CHECK_SECONDS,
    GRACE_SECONDS,
    KEPT_SECONDS,
    MENDED_AT_ONCE,
    RESYNC_SECONDS,
    UNHEARD_SECONDS,
    Rooms,
)
from broker.link.address import Address
from broker.link.errors import LinkDown
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from tests.control.making import connection, member_on, policy, unconnected_plane

GREETING = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"
TIME = b"*2\r\n$4\r\n1000\r\n$1\r\n0\r\n"
CONFIRMED = b">3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n"
SPREAD = 1.25
"""Waits are drawn by chance, and are at most a fifth longer than their constants say."""


class Server:
    """What the subscription link talks to."""

    def __init__(self) -> None:
        self.answer: bytes | None = CONFIRMED
        """What it says to a SUBSCRIBE, for each channel: its confirmation, an error, or nothing."""

    async def talk(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        reader = hiredis.Reader()
        async for data in stream:
            reader.feed(bytes(data))
            while words := reader.gets():
                await stream.send_all(self._answer(*words))

    def _answer(self, command: bytes, *words: bytes) -> bytes:
        if command != b"SUBSCRIBE":
            return {b"HELLO": GREETING, b"TIME": TIME}.get(command, b"+PONG\r\n")
        if self.answer is CONFIRMED:
            return b"".join(CONFIRMED % (len(each), each) for each in words)
        return self.answer or b""


@attrs.define(eq=False)
class Store:
    """What is read on the command link: a log of so many policies, or an error, or nothing for ever."""

    seq: int = 5
    error: Exception | None = None
    is_silent: bool = False
    asked: int = 0

    async def call(self, *words: object) -> object:
        """Play the scripts that read a snapshot (three names) and the log (two), XRANGE, and TIME."""
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error
        place = [b"e1", b"%d" % self.seq, b"%d" % (1000 + self.seq)]
        match words[0], words[2:3]:
            case "EVALSHA", (3,):
                return [*place, b"1000", b"0", b"0", {}, {}]
            case "EVALSHA", _:
                after = int(str(words[-2]).partition("-")[2])
                return [*place, [_entry(seq) for seq in range(after + 1, self.seq + 1)], b"0", b"0"]
            case "TIME", _:
                return [b"1000", b"0"]
        return []


def _entry(seq: int) -> list[object]:
    message = policy(seq, ms=1000 + seq).message.payload
    return [b"%d-%d" % (1000 + seq, seq), [b"type", b"policy_invalidated", b"message", message, b"actor", b"null"]]


@attrs.frozen(eq=False)
class Site:
    """Rooms that run, their link to a server that answers, and their store; `heard` is the client's end."""

    rooms: Rooms
    link: SubscriptionLink
    server: Server
    store: Store
    counters: Counters
    member: Member
    heard: socket.socket

    @property
    def resyncs(self) -> int:
        """How often the client was told `resync_required` since this was asked last."""
        try:
            return self.heard.recv(1 << 16).count(b"resync_required")
        except BlockingIOError:
            return 0

    def view(self) -> tuple[Room | None, float | None]:
        """Return the room if it is current, and since when anything may be missed."""
        return self.rooms.current("acme"), self.rooms.blind_since

    def enter(self) -> Room:
        """Have the session come in."""
        return self.rooms.enter(self.member)

    async def settle(self) -> Room:
        """Have the session come in, and return its room when that is current."""
        room = self.enter()
        await trio.sleep(0.1)
        assert self.rooms.current("acme") is room
        return room

    def hear(self, seq: int) -> None:
        """Have an entry of the log come on the live channel."""
        self.rooms.hear("acme", b"e1 %d %d %b" % (seq, 1000 + seq, policy(seq, 0).message.payload))


@pytest.fixture
async def site(nursery: trio.Nursery, autojump_clock: MockClock) -> AsyncIterator[Site]:
    """Rooms without anybody inside."""
    autojump_clock.autojump_threshold = 0.01
    server, store, counters = Server(), Store(), Counters()
    listeners = await nursery.start(trio.serve_tcp, server.talk, 0)
    address = Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])

    def on_restored() -> None:
        rooms.restored()

    link = SubscriptionLink(address, "control", on_restored=on_restored, ping_interval=1000.0)
    rooms = Rooms(
        layout=Layout(),
        call=store.call,
        link=link,
        counters=counters,
        log=structlog.get_logger("test"),
        clock=trio.current_time,
        window=300.0,
        limits=LogLimits(),
        delivered=lambda _publication, _addressees: None,
    )
    await nursery.start(link.run)
    await nursery.start(rooms.run)
    with connection() as (wire, theirs):
        theirs.setblocking(False)
        member = member_on(wire, unconnected_plane().services)
        yield Site(rooms, link, server, store, counters, member, theirs)
        nursery.cancel_scope.cancel()


async def test_what_is_missing_is_read_at_once(site: Site, autojump_clock: MockClock) -> None:
    """A number that is not the next one has the log read in that moment, and what was missed is there."""
    room = await site.settle()
    site.store.seq = 7
    site.hear(7)
    assert site.rooms.current("acme") is None
    await trio.sleep(0.1)
    assert (room.seq, site.rooms.current("acme"), site.counters.gap_repairs) == (7, room, 1)


async def test_a_log_that_does_not_have_what_was_missed(site: Site, autojump_clock: MockClock) -> None:
    """However often it is read: while something was heard that it does not lead to, the room knows too little."""
    room = await site.settle()
    site.hear(7)
    began = trio.current_time()
    await trio.sleep(GRACE_SECONDS / 2)
    assert site.view() == (None, None)
    await trio.sleep(3 * CHECK_SECONDS)
    site.hear(8)
    await trio.sleep(0.1)
    assert (room.seq, *site.view()) == (5, None, began)
    assert site.counters.gap_repairs == 1
    site.store.seq = 8
    await trio.sleep(CHECK_SECONDS * SPREAD)
    assert (room.seq, *site.view()) == (8, room, None)


async def test_a_store_that_begins_to_refuse(site: Site, autojump_clock: MockClock) -> None:
    """A room that cannot be compared with its log is not known to be right."""
    room = await site.settle()
    site.store.error = ResponseError("no")
    await trio.sleep(CHECK_SECONDS * SPREAD)
    assert site.rooms.current("acme") is None
    site.store.error = None
    await trio.sleep(5)
    assert site.rooms.current("acme") is room


async def test_a_store_that_never_answers(site: Site, autojump_clock: MockClock) -> None:
    """It is asked anew after a while, and the rooms live on."""
    site.store.is_silent = True
    site.enter()
    await trio.sleep(1.5 * READ_SECONDS)
    assert site.store.asked == 2
    site.store.is_silent = False
    await trio.sleep(READ_SECONDS)
    assert site.rooms.current("acme")


async def test_rooms_are_read_so_many_at_a_time(site: Site, autojump_clock: MockClock) -> None:
    """After a break of the link all of them want the store in the same moment."""
    site.store.is_silent = True
    for number in range(MENDED_AT_ONCE + 1):
        site.member.organization_id = f"org{number}"
        site.enter()
    await trio.sleep(1)
    assert site.store.asked == MENDED_AT_ONCE


async def test_while_the_link_is_down(site: Site, autojump_clock: MockClock) -> None:
    """From the moment on in which nothing is heard any more the log is read every second, for as long as that lasts."""
    room = await site.settle()
    site.link.address = Address(host="127.0.0.1", port=1)
    site.link.leave("for this test")
    site.store.seq = 6
    await trio.sleep(UNHEARD_SECONDS * SPREAD)
    assert (room.seq, *site.view()) == (6, None, site.link.state.since)
    asked = site.store.asked
    await trio.sleep(10 * UNHEARD_SECONDS)
    assert 8 <= site.store.asked - asked <= 13


async def test_a_channel_that_is_not_confirmed_again(site: Site, autojump_clock: MockClock) -> None:
    """It shows, although the link itself is up: who publishes there is not heard."""
    await site.settle()
    site.server.answer = None
    site.link.leave("for this test")
    await site.link.wait_up()
    await trio.sleep(UNHEARD_SECONDS * SPREAD + GRACE_SECONDS)
    assert (site.link.state.up, site.link.restoring) == (True, True)
    assert site.rooms.blind_since is not None


async def test_a_room_that_is_closed_in_doubt(site: Site, autojump_clock: MockClock) -> None:
    """What no session wants to know is not missed: it shows no longer when its room is gone."""
    site.server.answer = b"-NOPERM this channel\r\n"
    began = trio.current_time()
    site.enter().leave(site.member)
    await trio.sleep(KEPT_SECONDS / 2)
    assert (len(site.rooms), *site.view()) == (1, None, began)
    await trio.sleep(KEPT_SECONDS)
    assert (len(site.rooms), *site.view()) == (0, None, None)


async def test_a_store_that_was_away_has_its_time_to_refuse(site: Site, autojump_clock: MockClock) -> None:
    """Clients are sent elsewhere when it has refused for a minute without a break: a broken link refuses nothing."""
    site.enter()
    autojump_clock.autojump_threshold = 0  # no socket takes part in this
    for _ in range(3):
        site.store.error = ResponseError("LOADING")
        await trio.sleep(RESYNC_SECONDS - 5)
        assert site.resyncs == 0
        site.store.error = LinkDown("away")
        await trio.sleep(5)
    site.store.error = ResponseError("LOADING")
    await trio.sleep(RESYNC_SECONDS + 5)
    assert site.resyncs == 1


async def test_that_nothing_can_be_known_is_said_once(site: Site, autojump_clock: MockClock) -> None:
    """However long the store refuses, and whatever breaks meanwhile; when it has answered for once it begins anew."""
    room = await site.settle()
    room.join(site.member)
    autojump_clock.autojump_threshold = 0  # no socket takes part in this
    for _ in range(2):
        site.store.error = ResponseError("no")
        await trio.sleep(RESYNC_SECONDS - 1)
        assert site.resyncs == 0
        await trio.sleep(RESYNC_SECONDS)
        assert site.resyncs == 1
        await trio.sleep(RESYNC_SECONDS)
        site.store.error = LinkDown("away")
        await trio.sleep(5)
        site.store.error = ResponseError("no")
        await trio.sleep(2 * RESYNC_SECONDS)
        assert site.resyncs == 0
        site.store.error = None
        await trio.sleep(CHECK_SECONDS)
