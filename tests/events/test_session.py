"""A browser's session over a real socket pair: commands in order, limits at their bounds, heartbeats, the end."""

import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from redis.exceptions import NoPermissionError

from broker.config.model import Config
from broker.events.services import EventServices
from broker.events.session import MAX_BAD_MESSAGES, RESUBSCRIPTION_SPARE, run_event_session
from broker.keys import KeyCache
from broker.observe import Counters, get_logger
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.wire import Peer, PeerLimits, PlainWire, open_peer
from broker.wire.alarms import TICK
from tests.events.parts import unconnected_hub

KEY = KeyRecord("0" * 64, "key_1", "acme")
LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=16, close_timeout=1.0)


class Closed(Exception):
    """The broker has closed, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Browser:
    """The other end: sends JSON in masked frames, reads frames; every wait is bounded."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._data = b""

    @property
    def has_heard_nothing(self) -> bool:
        """Whether nothing has arrived that was not read."""
        try:
            return not self._data and not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    async def say(self, *messages: dict[str, object] | bytes) -> None:
        """Send messages, all in one segment."""
        data = b""
        for each in messages:
            text = each if isinstance(each, bytes) else json.dumps(each).encode()
            size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
            data += b"\x81" + size + bytes(4) + text
        await self.stream.send_all(data)

    async def hear(self) -> dict[str, Any]:
        """Return the next message; raises Closed."""
        with trio.fail_after(60):
            while True:
                frame = self._take()
                if frame is not None:
                    break
                received = await self.stream.receive_some()
                if not received:
                    raise Closed(1006)
                self._data += received
        opcode, body = frame
        if opcode == 8:
            raise Closed(int.from_bytes(body[:2]))
        message: dict[str, Any] = json.loads(body)
        return message

    async def ending(self) -> int:
        """Read to the end; returns the close code."""
        while True:
            try:
                await self.hear()
            except Closed as closed:
                return closed.code

    def _take(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4]), 4
        if len(data) < at + size:
            return None
        self._data = data[at + size :]
        return data[0] & 15, data[at : at + size]


def surroundings(**limits: Any) -> EventServices:
    """Return what a session works with: a hub whose link is down, no history."""

    async def nobody(*_: object) -> object:
        raise AssertionError("the store is not asked")

    config = Config()
    config = attrs.evolve(config, limits=attrs.evolve(config.limits, **limits))
    return EventServices(
        config=config,
        hub=unconnected_hub(),
        keys=KeyCache(Layout(), nobody, Counters()),
        counters=Counters(),
        history=nobody,  # type: ignore[arg-type]
        log=get_logger(),
    )


@asynccontextmanager
async def session(services: EventServices, key: KeyRecord = KEY) -> AsyncIterator[Browser]:
    """Serve one browser for the length of the block."""
    ours, theirs = socket.socketpair()
    browser = Browser(theirs)

    async def serve() -> None:
        async with open_peer(PlainWire(ours), b"", LIMITS) as peer:
            await run_event_session(peer, key, services)

    async with trio.open_nursery() as nursery:
        await nursery.start(services.alarms.run)
        nursery.start_soon(serve)
        yield browser
        await browser.stream.aclose()
        nursery.cancel_scope.cancel()


def subscribe(channel: str) -> dict[str, object]:
    """Return a subscribe message."""
    return {"type": "subscribe", "channel": channel}


def confirm(services: EventServices, channel: str) -> None:
    """Say what Redis would."""
    services.hub.channels[channel.encode()].confirmation.confirm(0, 1)


async def test_commands_wait_for_redis_and_are_answered_in_their_order() -> None:
    """While a subscription is unconfirmed nothing behind it is answered; then everything is, in order."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(
            subscribe("workflow:a"),
            subscribe("secret:b"),
            {"type": "unsubscribe", "channel": "workflow:never"},
            b"nonsense",
            subscribe("workflow:a"),
        )
        await trio.testing.wait_all_tasks_blocked()
        assert browser.has_heard_nothing
        confirm(services, "workflow:a")
        answers = [await browser.hear() for _ in range(5)]
    assert [each["type"] for each in answers] == ["subscribed", "error", "unsubscribed", "error", "subscribed"]
    assert [each.get("code") for each in answers if each["type"] == "error"] == ["forbidden_channel", "invalid_json"]


async def test_two_subscriptions_to_one_channel_are_one() -> None:
    """Subscribing twice is answered twice and held once; unsubscribing gives the channel back."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"), subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        assert [(await browser.hear())["type"] for _ in range(2)] == ["subscribed"] * 2
        assert services.hub.subscriptions == services.counters.subscriptions == 1
        await browser.say({"type": "unsubscribe", "channel": "workflow:a"})
        assert (await browser.hear())["type"] == "unsubscribed"
        assert services.hub.channels == {}


async def test_a_subscription_that_redis_refuses_is_told_and_leaves_nothing() -> None:
    """An ACL that forbids the channel is an error for this channel alone."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        services.hub.channels[b"workflow:a"].confirmation.refuse(NoPermissionError("no"))
        answer = await browser.hear()
        assert (answer["type"], answer["code"], answer["channel"]) == ("error", "unavailable", "workflow:a")
        assert services.hub.channels == {}


async def test_the_bound_on_channels_is_exact() -> None:
    """The last one that fits is subscribed, the next is refused, and one given up makes room."""
    services = surroundings(max_subscriptions=2)
    async with session(services) as browser:
        names = ["workflow:1", "workflow:2", "workflow:3"]
        answers = []
        for name in names:
            await browser.say(subscribe(name))
            await trio.testing.wait_all_tasks_blocked()
            if name.encode() in services.hub.channels:
                confirm(services, name)
            answers.append(await browser.hear())
        assert [each["type"] for each in answers] == ["subscribed", "subscribed", "error"]
        assert answers[2]["code"] == "too_many_subscriptions"
        await browser.say({"type": "unsubscribe", "channel": names[0]}, subscribe(names[2]))
        assert (await browser.hear())["type"] == "unsubscribed"
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, names[2])
        assert (await browser.hear())["type"] == "subscribed"


@pytest.mark.parametrize(("bad", "ends"), [(MAX_BAD_MESSAGES - 1, False), (MAX_BAD_MESSAGES, True)])
async def test_bad_messages_in_a_row_end_with_4400_at_the_bound(bad: int, ends: bool) -> None:
    """One below the bound is answered to the last; a good one in between starts the count anew."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(*[b"{}"] * (MAX_BAD_MESSAGES - 1), {"type": "pong"}, *[b"{}"] * bad)
        if ends:
            assert await browser.ending() == 4400
        else:
            answers = [await browser.hear() for _ in range(MAX_BAD_MESSAGES - 1 + bad)]
            assert {each["type"] for each in answers} == {"error"}


async def test_a_whole_resubscription_passes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """As many messages as the allowance holds are answered without the clock moving; one more has to wait."""
    services = surroundings(max_subscriptions=10, messages_per_second=1)
    async with session(services) as browser:
        began = trio.current_time()
        room = 10 + RESUBSCRIPTION_SPARE
        await browser.say(*[b"{}"] * room)
        for _ in range(room):
            await browser.hear()
        assert trio.current_time() == began
        await browser.say(b"{}")
        await browser.hear()
        assert 0.9 <= trio.current_time() - began <= 1.1


async def test_a_client_that_stays_above_its_rate_ends_with_4429(autojump_clock: trio.testing.MockClock) -> None:
    """Reading pauses first; after the patience, and not before, the socket is closed."""
    services = surroundings(max_subscriptions=1, messages_per_second=2)
    patience = services.config.limits.rate_patience
    async with session(services) as browser:
        began = trio.current_time()
        await browser.say(*[b'{"type":"x"}'] * (RESUBSCRIPTION_SPARE + 1 + int(2 * patience) + 20))
        assert await browser.ending() == 4429
        assert patience <= trio.current_time() - began <= patience + 2


async def test_first_pings_are_spread(autojump_clock: trio.testing.MockClock) -> None:
    """Sessions that come together are not asked together: each is first pinged after half an interval or up to one."""
    times: list[float] = []
    interval = surroundings().config.events.ping_interval

    async def listen() -> None:
        async with session(surroundings()) as browser:
            assert await browser.hear() == {"type": "ping"}
            times.append(trio.current_time() - began)

    began = trio.current_time()
    async with trio.open_nursery() as crowd:
        for _ in range(60):
            crowd.start_soon(listen)
    assert interval / 2 <= min(times) < 0.7 * interval
    assert 0.8 * interval < max(times) <= interval + TICK
    assert len(set(times)) > 20


async def test_a_ping_that_is_answered_keeps_the_socket(autojump_clock: trio.testing.MockClock) -> None:
    """Pings come at their interval for as long as each is answered in time."""
    services = surroundings()
    events = services.config.events
    async with session(services) as browser:
        times = []
        for _ in range(4):
            assert await browser.hear() == {"type": "ping"}
            times.append(trio.current_time())
            await trio.sleep(events.pong_timeout - 0.5)
            await browser.say({"type": "pong"})
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(abs(gap - events.ping_interval - events.pong_timeout + 0.5) < 0.2 for gap in gaps)


async def test_a_ping_that_is_not_answered_ends_with_4408(autojump_clock: trio.testing.MockClock) -> None:
    """The socket is closed after the timeout, not before; a pong from before the ping does not count."""
    services = surroundings()
    events = services.config.events
    async with session(services) as browser:
        await browser.say({"type": "pong"})
        assert await browser.hear() == {"type": "ping"}
        pinged = trio.current_time()
        assert await browser.ending() == 4408
        late = trio.current_time() - pinged - events.pong_timeout
        assert -0.1 <= late <= TICK + 0.01  # a sum of ticks may be rounded up into the next one
    assert services.counters.heartbeats_missed == 1


async def test_a_session_that_ends_leaves_nothing_behind() -> None:
    """However a session ends, its channels are given back, also those that were never confirmed."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"), subscribe("workflow:b"))
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        await browser.hear()
        await browser.stream.aclose()
        with trio.fail_after(5):
            while services.hub.channels:
                await trio.testing.wait_all_tasks_blocked()
    assert services.counters.subscriptions == 0


async def test_a_pong_that_nobody_asked_for_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A client that says again and again that it is there is pinged when it is due, and costs no alarm each time."""
    services = surroundings()
    interval = services.config.events.ping_interval
    async with session(services) as browser:
        began = trio.current_time()
        for _ in range(10):
            await browser.say({"type": "pong"})
            await trio.sleep(interval / 25)
        assert await browser.hear() == {"type": "ping"}
        assert trio.current_time() - began <= interval + TICK


async def test_a_session_that_is_over_is_not_kept_for_its_next_ping() -> None:
    """What is left among the alarms knows the client no more: its memory is free at once, not when the ping is due."""
    services = surroundings()
    others = {id(peer) for peer in peers_in_memory()}
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        assert len({id(peer) for peer in peers_in_memory()} - others) == 1
        await browser.stream.aclose()
        with trio.fail_after(5):
            while services.hub.channels:
                await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert {id(peer) for peer in peers_in_memory()} <= others


async def test_what_need_not_wait_is_answered_without_a_task() -> None:
    """A session has a task for its subscriptions only while one of them waits for Redis."""
    services = surroundings()
    services.hub.hold("workflow:a")
    confirm(services, "workflow:a")
    spawned = Spawned()
    async with session(services) as browser:
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(spawned)
        await browser.say(subscribe("workflow:a"), {"type": "unsubscribe", "channel": "workflow:a"})
        assert [(await browser.hear())["type"] for _ in range(2)] == ["subscribed", "unsubscribed"]
        assert spawned.tasks == 0
        await browser.say(subscribe("workflow:b"), subscribe("workflow:c"))
        await trio.testing.wait_all_tasks_blocked()
        assert spawned.tasks == 1
        trio.lowlevel.remove_instrument(spawned)


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """One more."""
        self.tasks += 1


def peers_in_memory() -> list[Peer]:
    """Return every peer that there is; reference counts alone have freed the others."""
    return [each for each in gc.get_objects() if type(each) is Peer]
