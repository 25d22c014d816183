"""Pings to browsers: when they come, what ends without an answer, and what is left of them."""

import gc
from itertools import pairwise

import trio

from broker.wire import Peer
from broker.wire.alarms import TICK
from protocol.frames import text_frame
from tests.events.browser import session, subscribe, surroundings


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


async def test_a_pong_that_has_not_been_read_keeps_the_socket(autojump_clock: trio.testing.MockClock) -> None:
    """A client that is not read, since too much of it waits for Redis, is not closed for what it has said in time."""
    services = surroundings(max_subscriptions=1)
    events = services.config.events
    async with session(services) as browser:
        await browser.say(*[subscribe("workflow:a")] * 4)
        assert await browser.hear() == {"type": "ping"}
        await browser.say({"type": "pong"})
        await trio.sleep(2 * events.pong_timeout)
        services.hub.channels[b"workflow:a"].confirmation.confirm(0, 1)
        assert [(await browser.hear())["type"] for _ in range(4)] == ["subscribed"] * 4
        assert await browser.hear() == {"type": "ping"}
        assert await browser.ending() == 4408
    assert services.counters.heartbeats_missed == 1


async def test_a_pong_behind_what_is_held_back_keeps_the_socket(autojump_clock: trio.testing.MockClock) -> None:
    """Nor is one whose pong has been read together with what waits for Redis, and comes behind it."""
    services = surroundings(max_subscriptions=1)
    events = services.config.events
    async with session(services) as browser:
        assert await browser.hear() == {"type": "ping"}
        await browser.say(*[subscribe("workflow:a")] * 4, {"type": "pong"})
        await trio.sleep(2 * events.pong_timeout)
        services.hub.channels[b"workflow:a"].confirmation.confirm(0, 1)
        assert [(await browser.hear())["type"] for _ in range(4)] == ["subscribed"] * 4
        assert await browser.hear() == {"type": "ping"}
        assert await browser.ending() == 4408
    assert services.counters.heartbeats_missed == 1


async def test_a_client_for_which_bytes_wait_is_asked_as_well(autojump_clock: trio.testing.MockClock) -> None:
    """One that has vanished in the middle of what it was sent is found out no later than another."""
    services = surroundings()
    events = services.config.events
    others = {id(peer) for peer in peers_in_memory()}
    async with session(services):
        await trio.testing.wait_all_tasks_blocked()
        [peer] = (peer for peer in peers_in_memory() if id(peer) not in others)
        peer.send(text_frame(bytes(900_000)))
        assert peer.pending_bytes
        await trio.sleep(events.ping_interval + events.pong_timeout + 3 * TICK)
        assert (peer.closing, services.counters.heartbeats_missed) == (True, 1)


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


def peers_in_memory() -> list[Peer]:
    """Return every peer that there is; reference counts alone have freed the others."""
    return [each for each in gc.get_objects() if type(each) is Peer]
